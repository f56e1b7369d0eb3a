//! What a run gets from its node, and gives back: the container contract as an interface.
//!
//! * [`Host`]: the run's input, its data, a folder, a seed, the gateway, and the place for its output;
//! * [`table`]: a CSV file as typed columns;
//! * [`gateway`]: organizations, subtasks, results, twins' addresses;
//! * [`control`]: connections for runs that have no network of their own;
//! * [`stream`]: byte streams, however they came.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use twinmesh_protocol::{
    environment::decode_value,
    id::{CollaborationId, NodeId, OrganizationId, TaskId},
};

use self::{
    control::Control,
    gateway::{Gateway, Route},
    table::{Table, TableError},
};
use crate::maths::secret_sharing::Seed;

pub mod control;
pub(crate) mod fuzzing;
pub mod gateway;
mod http;
mod inherited;
pub(crate) mod patience;
pub mod stream;
pub mod table;

/// How long a lost gateway or twin is waited for, unless `TWINMESH_PATIENCE_SECONDS` says otherwise: long enough for a
/// daemon or a machine to start again.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many rows an organization must have before it answers, unless `TWINMESH_MIN_ROWS` says otherwise.
const MIN_ROWS: u64 = 5;

/// A reason for not getting something from the node.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A variable is missing.
    #[error("the environment lacks `{0}`; is this run by a node?")]
    Missing(String),
    /// A variable has a value that cannot be used.
    #[error("the environment variable `{name}` {reason}")]
    Variable {
        /// Its name.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
    /// A file of the run cannot be read or written.
    #[error("cannot use the run's {what} file `{path}`", path = path.display())]
    File {
        /// Which one.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The input is not what the contract says.
    #[error("the run's input is not valid: {0}")]
    Input(String),
    /// The token cannot be read.
    #[error("the run's token is not valid: {0}")]
    Token(String),
    /// The task names no such database.
    #[error("the task names no database `{label}`; it names {known}")]
    UnknownDatabase {
        /// The label asked for.
        label: String,
        /// The labels there are.
        known: String,
    },
    /// The task names no database at all.
    #[error("the task names no database, but the function needs one")]
    NoDatabase,
    /// The database is of another type.
    #[error("database `{label}` is of type `{kind}`, but the function reads csv")]
    Type {
        /// The database.
        label: String,
        /// Its type.
        kind: String,
    },
    /// The database's file cannot be used.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What a caller asks for.
#[derive(Debug, Clone, Deserialize)]
pub struct Input {
    /// The function.
    pub method: String,
    /// Its arguments by place.
    #[serde(default)]
    pub args: Vec<Value>,
    /// Its arguments by name.
    #[serde(default)]
    pub kwargs: Map<String, Value>,
}

impl Input {
    /// The arguments as a type whose fields are their names.
    ///
    /// # Errors
    ///
    /// An argument is missing, unknown or of another type.
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, HostError> {
        if !self.args.is_empty() {
            return Err(HostError::Input(format!("`{}` takes its arguments by name (`kwargs`)", self.method)));
        }
        serde_json::from_value(Value::Object(self.kwargs.clone()))
            .map_err(|error| HostError::Input(format!("arguments of `{}`: {error}", self.method)))
    }
}

/// Who a run is, as its token says; the token is the gateway's to verify.
#[derive(Debug, Clone, Deserialize)]
pub struct Claims {
    /// The image, which is also the image of its subtasks.
    pub image: String,
    /// The task's databases, as subtasks repeat them.
    #[serde(default)]
    pub databases: Vec<Value>,
    /// The node.
    pub node_id: NodeId,
    /// The collaboration.
    pub collaboration_id: CollaborationId,
    /// The organization.
    pub organization_id: OrganizationId,
    /// The task.
    pub task_id: TaskId,
    /// The study, if the task is of one.
    #[serde(default)]
    pub study_id: Option<i64>,
    /// The algorithm store, if the image comes from one.
    #[serde(default)]
    pub store_id: Option<i64>,
}

/// A database that the task may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// How the task calls it.
    pub label: String,
    /// Its file or address.
    pub uri: String,
    /// Its type, such as `csv`.
    pub kind: String,
}

/// What a [`Host`] is made from.
#[derive(Debug, Default)]
pub struct HostParts {
    /// The variables as a container has them: values in base32, or plain.
    pub environment: BTreeMap<String, String>,
    /// The run's end of the control channel, when it has no network of its own.
    pub control: Option<OwnedFd>,
}

/// What must still be done when a run's result is safe: telling twins that they may go.
pub(crate) trait Farewell: Send {
    /// The result is written: part from the twins, waiting for those that still need something. Complaints do not matter
    /// to the result.
    fn finish(&self) -> Result<(), String>;
    /// There will be no result: let the twins know.
    fn abort(&self);
}

/// A run's handle to its node.
pub struct Host {
    environment: BTreeMap<String, String>,
    input: Input,
    claims: Claims,
    seed: Seed,
    patience: Duration,
    control: Option<Arc<Control>>,
    gateway: Arc<Gateway>,
    farewells: Mutex<Vec<Box<dyn Farewell>>>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("method", &self.input.method).field("claims", &self.claims).finish_non_exhaustive()
    }
}

impl Host {
    /// Makes the handle from a process's variables, taking over the control channel they name.
    ///
    /// Call it once in a process's life.
    ///
    /// # Errors
    ///
    /// The variables or the files they name are not as the contract says.
    pub fn from_environment(variables: impl IntoIterator<Item = (String, String)>) -> Result<Self, HostError> {
        let environment: BTreeMap<String, String> = variables.into_iter().collect();
        let control = match environment.get("TWINMESH_CONTROL_FD") {
            None => None,
            Some(text) => {
                let descriptor = text.parse().ok().and_then(inherited::take);
                Some(descriptor.ok_or_else(|| variable("TWINMESH_CONTROL_FD", "names no open descriptor"))?)
            }
        };
        Self::new(HostParts { environment, control })
    }

    /// Makes the handle and reads the run's input and token.
    ///
    /// # Errors
    ///
    /// The variables or the files they name are not as the contract says.
    pub fn new(parts: HostParts) -> Result<Self, HostError> {
        // As the contract's wrapper does: what looks encoded is decoded, anything else is taken as it is.
        let environment: BTreeMap<String, String> = parts
            .environment
            .into_iter()
            .map(|(name, value)| {
                let value = decode_value(&value).unwrap_or(value);
                (name, value)
            })
            .collect();
        let input = serde_json::from_slice(&read_file(&environment, "INPUT_FILE", "input")?)
            .map_err(|error| HostError::Input(error.to_string()))?;
        let token = String::from_utf8(read_file(&environment, "TOKEN_FILE", "token")?)
            .map_err(|_| HostError::Token("it is not text".to_owned()))?
            .trim()
            .to_owned();
        let claims = claims(&token)?;
        let seed = seed(&environment)?;
        let patience = number(&environment, "TWINMESH_PATIENCE_SECONDS")?.map_or(PATIENCE, Duration::from_secs);
        let control = parts.control.map(|socket| Arc::new(Control::new(socket)));
        let route = match &control {
            Some(control) => Route::Control(Arc::clone(control)),
            None => route(&environment)?,
        };
        let gateway = Arc::new(Gateway {
            route,
            prefix: environment.get("API_PATH").map_or("", |path| path.trim_end_matches('/')).to_owned(),
            token,
            claims: claims.clone(),
            seed: seed.clone(),
            patience,
            subtasks: AtomicU64::new(0),
        });
        Ok(Self { environment, input, claims, seed, patience, control, gateway, farewells: Mutex::default() })
    }

    /// What the caller asks for.
    #[must_use]
    pub fn input(&self) -> &Input {
        &self.input
    }

    /// Who this run is.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// A secret of this run alone, the same whenever it starts over.
    #[must_use]
    pub fn seed(&self) -> &Seed {
        &self.seed
    }

    /// How long a lost gateway or twin is waited for.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// A variable of the run, decoded.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }

    /// A folder shared by the runs of this job on this node.
    #[must_use]
    pub fn temporary_folder(&self) -> Option<&Path> {
        self.variable("TEMPORARY_FOLDER").map(Path::new)
    }

    /// The databases that the task names, in its order.
    ///
    /// # Errors
    ///
    /// The node does not say where one of them is.
    pub fn databases(&self) -> Result<Vec<Database>, HostError> {
        self.variable("USER_REQUESTED_DATABASE_LABELS")
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|label| !label.is_empty())
            .map(|label| {
                let upper = label.to_uppercase();
                let uri = format!("{upper}_DATABASE_URI");
                Ok(Database {
                    label: label.to_owned(),
                    uri: self.variable(&uri).ok_or(HostError::Missing(uri.clone()))?.to_owned(),
                    kind: self.variable(&format!("{upper}_DATABASE_TYPE")).unwrap_or("csv").to_owned(),
                })
            })
            .collect()
    }

    /// Reads a database that the task names, or the first one.
    ///
    /// # Errors
    ///
    /// There is no such database, or it is not a valid CSV file.
    pub fn table(&self, label: Option<&str>) -> Result<Table, HostError> {
        let databases = self.databases()?;
        let database = match label {
            None => databases.first().ok_or(HostError::NoDatabase)?,
            Some(label) => databases.iter().find(|database| database.label == label).ok_or_else(|| {
                let known: Vec<_> = databases.iter().map(|database| format!("`{}`", database.label)).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                HostError::UnknownDatabase { label: label.to_owned(), known }
            })?,
        };
        if database.kind != "csv" {
            return Err(HostError::Type { label: database.label.clone(), kind: database.kind.clone() });
        }
        Ok(Table::open(Path::new(&database.uri))?)
    }

    /// How many rows an organization must have before it answers.
    ///
    /// # Errors
    ///
    /// The node's setting is not a number.
    pub fn min_rows(&self) -> Result<u64, HostError> {
        Ok(number(&self.environment, "TWINMESH_MIN_ROWS")?.unwrap_or(MIN_ROWS))
    }

    /// Writes the run's result.
    ///
    /// # Errors
    ///
    /// The output file cannot be written.
    pub fn write_output(&self, bytes: &[u8]) -> Result<(), HostError> {
        let path = self.variable("OUTPUT_FILE").ok_or_else(|| HostError::Missing("OUTPUT_FILE".to_owned()))?;
        std::fs::write(path, bytes).map_err(|source| HostError::File { what: "output", path: path.into(), source })
    }

    pub(crate) fn control(&self) -> Option<&Arc<Control>> {
        self.control.as_ref()
    }

    pub(crate) fn on_farewell(&self, farewell: Box<dyn Farewell>) {
        self.farewells.lock().unwrap_or_else(PoisonError::into_inner).push(farewell);
    }

    /// Parts from all twins; returns what went wrong, which does not matter to a result that is written.
    pub(crate) fn finish(&self) -> Vec<String> {
        self.take_farewells().iter().filter_map(|farewell| farewell.finish().err()).collect()
    }

    pub(crate) fn abort(&self) {
        self.take_farewells().iter().for_each(|farewell| farewell.abort());
    }

    fn take_farewells(&self) -> Vec<Box<dyn Farewell>> {
        std::mem::take(&mut *self.farewells.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn variable(name: &str, reason: impl Into<String>) -> HostError {
    HostError::Variable { name: name.to_owned(), reason: reason.into() }
}

fn number(environment: &BTreeMap<String, String>, name: &str) -> Result<Option<u64>, HostError> {
    let parse = |text: &String| text.trim().parse().map_err(|_| variable(name, "is not a whole number"));
    environment.get(name).map(parse).transpose()
}

fn read_file(environment: &BTreeMap<String, String>, name: &str, what: &'static str) -> Result<Vec<u8>, HostError> {
    let path = environment.get(name).ok_or_else(|| HostError::Missing(name.to_owned()))?;
    std::fs::read(path).map_err(|source| HostError::File { what, path: path.into(), source })
}

fn claims(token: &str) -> Result<Claims, HostError> {
    #[derive(Deserialize)]
    struct Payload {
        sub: Claims,
    }
    let payload = token.split('.').nth(1).ok_or_else(|| HostError::Token("it is not a JWT".to_owned()))?;
    let bytes =
        URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|error| HostError::Token(error.to_string()))?;
    let payload: Payload = serde_json::from_slice(&bytes).map_err(|error| HostError::Token(error.to_string()))?;
    Ok(payload.sub)
}

/// The node's seed; without one a random seed, so that a run that starts over makes other random choices.
fn seed(environment: &BTreeMap<String, String>) -> Result<Seed, HostError> {
    let Some(text) = environment.get("TWINMESH_RUN_SEED") else { return Ok(Seed(rand::random())) };
    let wrong = || variable("TWINMESH_RUN_SEED", "is not 64 hexadecimal digits");
    let digits = text.trim().as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 64 {
        return Err(wrong());
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(Seed(bytes))
}

fn route(environment: &BTreeMap<String, String>) -> Result<Route, HostError> {
    let host = environment.get("HOST").ok_or_else(|| HostError::Missing("HOST".to_owned()))?;
    let host = host.strip_prefix("http://").ok_or_else(|| variable("HOST", "does not start with `http://`"))?;
    let port = number(environment, "PORT")?.ok_or_else(|| HostError::Missing("PORT".to_owned()))?;
    Ok(Route::Tcp {
        host: host.trim_end_matches('/').to_owned(),
        port: u16::try_from(port).map_err(|_| variable("PORT", "is not a port"))?,
    })
}

/// Renders the result as the contract wants it.
pub(crate) fn to_output(value: &impl Serialize) -> Result<Vec<u8>, HostError> {
    serde_json::to_vec(value).map_err(|error| HostError::Input(format!("the result is not valid JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use twinmesh_protocol::environment::encode_value;

    use super::*;

    struct Run {
        folder: tempfile::TempDir,
        environment: BTreeMap<String, String>,
    }

    impl Run {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut run = Self { folder, environment: BTreeMap::new() };
            let claims = r#"{"sub":{"image":"i","node_id":1,"collaboration_id":2,"organization_id":3,"task_id":4}}"#;
            run.file("INPUT_FILE", r#"{"method":"m","kwargs":{"a":1}}"#);
            run.file("TOKEN_FILE", &format!("e30.{}.x\n", URL_SAFE_NO_PAD.encode(claims)));
            run.file("OUTPUT_FILE", "");
            run.set("HOST", "http://127.0.0.1");
            run.set("PORT", "8080");
            run
        }

        fn file(&mut self, name: &str, text: &str) {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            self.set(name, &path.display().to_string());
        }

        fn set(&mut self, name: &str, value: &str) {
            self.environment.insert(name.to_owned(), encode_value(value));
        }

        fn host(&self) -> Result<Host, HostError> {
            Host::new(HostParts { environment: self.environment.clone(), control: None })
        }

        #[track_caller]
        fn refused(&self) -> String {
            self.host().unwrap_err().to_string()
        }
    }

    #[test]
    fn a_run_reads_what_the_node_gave_it() {
        let mut run = Run::new();
        run.set("USER_REQUESTED_DATABASE_LABELS", "first,Second");
        run.set("FIRST_DATABASE_URI", "/mnt/first.csv");
        run.set("SECOND_DATABASE_URI", "/mnt/second.parquet");
        run.set("SECOND_DATABASE_TYPE", "parquet");
        run.set("TWINMESH_MIN_ROWS", "10");
        run.environment.insert("PLAIN".to_owned(), "as it is".to_owned());
        let host = run.host().unwrap();
        assert_eq!((host.claims().task_id, host.claims().organization_id), (TaskId::new(4), OrganizationId::new(3)));
        assert_eq!((host.variable("PLAIN"), host.min_rows().unwrap()), (Some("as it is"), 10));
        let databases = host.databases().unwrap();
        assert_eq!((databases[0].kind.as_str(), databases[1].kind.as_str()), ("csv", "parquet"));
        assert!(matches!(host.table(Some("Second")), Err(HostError::Type { .. })));
        assert!(matches!(host.table(Some("third")), Err(HostError::UnknownDatabase { .. })));
        host.write_output(b"result").unwrap();
        assert_eq!(std::fs::read(run.folder.path().join("OUTPUT_FILE")).unwrap(), b"result");
    }

    #[test]
    fn the_same_run_has_the_same_seed_and_others_a_random_one() {
        let mut run = Run::new();
        assert_ne!(run.host().unwrap().seed().0, run.host().unwrap().seed().0);
        run.set("TWINMESH_RUN_SEED", &"0f".repeat(32));
        assert_eq!(run.host().unwrap().seed().0, [15; 32]);
        for wrong in ["0f", &"zz".repeat(32), &"é".repeat(32)] {
            run.set("TWINMESH_RUN_SEED", wrong);
            assert!(run.refused().contains("`TWINMESH_RUN_SEED` is not 64 hexadecimal digits"));
        }
    }

    #[test]
    fn what_the_node_got_wrong_is_named() {
        let mut run = Run::new();
        run.set("HOST", "127.0.0.1");
        assert!(run.refused().contains("`HOST` does not start with `http://`"));
        run.set("PORT", "99999");
        run.set("HOST", "http://gateway");
        assert!(run.refused().contains("`PORT` is not a port"));
        run.file("TOKEN_FILE", "no token");
        assert!(run.refused().contains("it is not a JWT"));
        run.file("INPUT_FILE", "{}");
        assert!(run.refused().contains("missing field `method`"));
        run.environment.remove("INPUT_FILE");
        assert!(run.refused().contains("lacks `INPUT_FILE`"));
        let variables = [("TWINMESH_CONTROL_FD".to_owned(), "60000".to_owned())];
        let error = Host::from_environment(variables).unwrap_err().to_string();
        assert!(error.contains("names no open descriptor"), "{error}");
    }
}
