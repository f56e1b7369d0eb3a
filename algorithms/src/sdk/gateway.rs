//! The client of the node's gateway: organizations, subtasks, results and twins' addresses.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use twinmesh_protocol::id::{OrganizationId, RunId, TaskId};

use super::{
    Claims,
    control::{Control, ControlError},
    http::Exchange,
    patience::Patience,
    stream::Stream,
};
use crate::maths::secret_sharing::Seed;

/// How long an ordinary request may take before it is sent again.
const ANSWER: Duration = Duration::from_secs(60);

/// How long the gateway may hold a question for a task's status.
const HELD_ANSWER: Duration = Duration::from_secs(600);

/// How much of a failed run's log goes into an error.
const LOG_TAIL: usize = 2000;

/// A reason for not getting an answer.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The gateway could not be reached for a long time.
    #[error("the node's gateway does not answer {what} for {} s", waited.as_secs())]
    Unreachable {
        /// What was asked.
        what: String,
        /// How long it was tried.
        waited: Duration,
        /// The last failure.
        source: io::Error,
    },
    /// The node ended the run's connections.
    #[error("the node ended the connections of this run")]
    Ended,
    /// The gateway answered with an error.
    #[error("the node's gateway answers {what} with {status}: {message}")]
    Refused {
        /// What was asked.
        what: String,
        /// The status code.
        status: u16,
        /// The answer's `msg`.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("the gateway's answer to {what} cannot be understood: {reason}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Runs of a subtask did not complete.
    #[error("subtask {task} ended as `{status}`{}", runs.iter().map(|run| format!("; {run}")).collect::<String>())]
    Subtask {
        /// The subtask.
        task: TaskId,
        /// Its status, in the contract's words.
        status: String,
        /// The runs that failed, as far as they are known.
        runs: Vec<FailedRun>,
    },
}

/// A run that did not complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedRun {
    /// The run.
    pub run: RunId,
    /// Where it ran.
    pub organization: OrganizationId,
    /// Its status, in the contract's words.
    pub status: String,
    /// The end of its log, if there is one.
    pub log: String,
}

impl std::fmt::Display for FailedRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "run {} of organization {} ended as `{}`", self.run, self.organization, self.status)?;
        if !self.log.is_empty() {
            write!(f, " ({})", self.log)?;
        }
        Ok(())
    }
}

/// An organization of the collaboration, or of the study.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Organization {
    /// Its number.
    pub id: OrganizationId,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// A run of a task.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// Its status, in the contract's words.
    #[serde(default)]
    pub status: Option<String>,
    /// What it printed, if it is known.
    #[serde(default)]
    pub log: Option<String>,
    /// Where it runs.
    pub organization: Reference,
}

/// A link to an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Reference {
    /// The organization.
    pub id: OrganizationId,
}

/// One organization's result of a subtask.
#[derive(Debug, Clone, PartialEq)]
pub struct SubtaskResult<T = Value> {
    /// The run.
    pub run: RunId,
    /// The organization.
    pub organization: OrganizationId,
    /// What the function returned.
    pub value: T,
}

/// Where a run can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Address {
    /// An IPv4 address, the same for all runs of a node within a job.
    pub ip: String,
    /// The external port.
    pub port: u16,
    /// What the image calls this port.
    #[serde(default)]
    pub label: Option<String>,
    /// Where the run is.
    pub organization_id: OrganizationId,
    /// The run's task.
    pub task_id: TaskId,
    /// The task's parent.
    #[serde(default)]
    pub parent_id: Option<TaskId>,
}

/// Which runs' addresses are wanted, seen from the asking run's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressFilter {
    /// All runs of the task, the asking one among them.
    Task,
    /// The task's runs at other organizations.
    Siblings,
    /// The runs of its subtasks.
    Children,
    /// The runs of its parent.
    Parent,
    /// The asking run.
    Own,
}

/// How the gateway is reached.
#[derive(Debug, Clone)]
pub(super) enum Route {
    /// By TCP, as the contract has it.
    Tcp { host: String, port: u16 },
    /// By asking for a connection.
    Control(Arc<Control>),
}

/// A client of the gateway with this run's token.
#[derive(Debug)]
pub struct Gateway {
    pub(super) route: Route,
    pub(super) prefix: String,
    pub(super) token: String,
    pub(super) claims: Claims,
    pub(super) seed: Seed,
    pub(super) patience: Duration,
    pub(super) subtasks: AtomicU64,
}

impl Gateway {
    /// The organizations of the study, or else of the collaboration.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`].
    pub fn organizations(&self) -> Result<Vec<Organization>, GatewayError> {
        let mut organizations: Vec<Organization> = match self.claims.study_id {
            Some(study) => self.list(&format!("organization?study_id={study}"))?,
            None => self.list(&format!("organization?collaboration_id={}", self.claims.collaboration_id))?,
        };
        organizations.sort_by_key(|organization| organization.id);
        Ok(organizations)
    }

    /// Asks organizations to run a function of this image.
    ///
    /// A run that starts over gets the subtask it made before.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`].
    pub fn create_subtask(
        &self,
        method: &str,
        kwargs: &impl Serialize,
        organizations: &[OrganizationId],
    ) -> Result<TaskId, GatewayError> {
        let malformed = |reason: serde_json::Error| GatewayError::Malformed {
            what: "`POST task`".to_owned(),
            reason: reason.to_string(),
        };
        let input = serde_json::to_vec(&json!({"method": method, "args": [], "kwargs": kwargs})).map_err(malformed)?;
        let input = STANDARD.encode(input);
        let mut body = json!({
            "name": method,
            "image": self.claims.image,
            "description": format!("{method} for task {} on node {}", self.claims.task_id, self.claims.node_id),
            "collaboration_id": self.claims.collaboration_id,
            "databases": self.claims.databases,
            "organizations": organizations
                .iter()
                .map(|id| json!({"id": id, "input": input}))
                .collect::<Vec<_>>(),
        });
        for (key, value) in [("study_id", self.claims.study_id), ("store_id", self.claims.store_id)] {
            if let Some(id) = value {
                body[key] = id.into();
            }
        }
        let body = serde_json::to_vec(&body).map_err(malformed)?;
        let number = self.subtasks.fetch_add(1, Ordering::Relaxed);
        let mut hash = Sha256::new();
        hash.update(b"twinmesh subtask\0");
        hash.update(self.seed.0);
        hash.update(number.to_be_bytes());
        hash.update(&body);
        #[derive(Deserialize)]
        struct Created {
            id: TaskId,
        }
        let created: Created =
            self.request(Method::POST, "task", Some(hex(&hash.finalize())), Some(body.into()), ANSWER)?;
        Ok(created.id)
    }

    /// Waits until a subtask has finished and returns its status.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`].
    pub fn wait(&self, task: TaskId) -> Result<String, GatewayError> {
        #[derive(Deserialize)]
        struct Status {
            status: Option<String>,
        }
        let mut pause = Duration::from_millis(50);
        loop {
            let status: Status = self.request(Method::GET, &format!("task/{task}/status"), None, None, HELD_ANSWER)?;
            match status.status.as_deref() {
                // The gateway holds the question until the task has finished; one that does not is asked now and then.
                Some("pending" | "initializing" | "active") => std::thread::sleep(pause),
                status => return Ok(status.unwrap_or("unknown error").to_owned()),
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Waits for a subtask and returns its results, by organization.
    ///
    /// # Errors
    ///
    /// `Subtask` when a run did not complete; else see [`GatewayError`].
    pub fn results<T: DeserializeOwned>(&self, task: TaskId) -> Result<Vec<SubtaskResult<T>>, GatewayError> {
        let status = self.wait(task)?;
        let runs = self.runs(task)?;
        if status != "completed" {
            return Err(failure(task, &status, &runs));
        }
        #[derive(Deserialize)]
        struct Item {
            result: Option<String>,
            run: Link,
        }
        #[derive(Deserialize)]
        struct Link {
            id: RunId,
        }
        let what = format!("`GET result?task_id={task}`");
        let malformed = |reason: String| GatewayError::Malformed { what: what.clone(), reason };
        let mut results = Vec::new();
        for item in self.list::<Item>(&format!("result?task_id={task}"))? {
            let run = runs
                .iter()
                .find(|run| run.id == item.run.id)
                .ok_or_else(|| malformed(format!("run {} is not of this task", item.run.id)))?;
            let organization = run.organization.id;
            let text = item.result.filter(|text| !text.is_empty());
            let text = text.ok_or_else(|| malformed(format!("organization {organization} has no result")))?;
            let bytes = STANDARD
                .decode(text)
                .map_err(|error| malformed(format!("the result of organization {organization}: {error}")))?;
            let value = serde_json::from_slice(&bytes)
                .map_err(|error| malformed(format!("the result of organization {organization}: {error}")))?;
            results.push(SubtaskResult { run: run.id, organization, value });
        }
        if results.len() != runs.len() {
            return Err(malformed(format!("there are {} results of {} runs", results.len(), runs.len())));
        }
        results.sort_by_key(|result| result.organization);
        Ok(results)
    }

    /// The runs of a task.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`].
    pub fn runs(&self, task: TaskId) -> Result<Vec<Run>, GatewayError> {
        let mut runs: Vec<Run> = self.list(&format!("run?task_id={task}"))?;
        runs.sort_by_key(|run| run.organization.id);
        Ok(runs)
    }

    /// Where runs can be reached; `label` is what the image calls the port.
    ///
    /// # Errors
    ///
    /// See [`GatewayError`].
    pub fn addresses(&self, filter: AddressFilter, label: Option<&str>) -> Result<Vec<Address>, GatewayError> {
        #[derive(Deserialize)]
        struct Addresses {
            addresses: Vec<Address>,
        }
        let mut query = Vec::new();
        match filter {
            AddressFilter::Task => {}
            AddressFilter::Siblings => query.push("only_siblings=True".to_owned()),
            AddressFilter::Children => query.push("only_children=True".to_owned()),
            AddressFilter::Parent => query.push("only_parent=True".to_owned()),
            AddressFilter::Own => query.push("only_self=True".to_owned()),
        }
        query.extend(label.map(|label| format!("label={label}")));
        let mark = if query.is_empty() { "" } else { "?" };
        let target = format!("vpn/algorithm/addresses{mark}{}", query.join("&"));
        let answer: Addresses = self.request(Method::GET, &target, None, None, ANSWER)?;
        Ok(answer.addresses)
    }

    /// Reads all pages of a list.
    fn list<T: DeserializeOwned>(&self, target: &str) -> Result<Vec<T>, GatewayError> {
        #[derive(Deserialize)]
        struct Page<T> {
            data: Vec<T>,
            #[serde(default)]
            links: Links,
        }
        #[derive(Default, Deserialize)]
        struct Links {
            next: Option<String>,
        }
        let mut items = Vec::new();
        for number in 1.. {
            let target = if number == 1 { target.to_owned() } else { format!("{target}&page={number}") };
            let page: Page<T> = self.request(Method::GET, &target, None, None, ANSWER)?;
            let done = page.data.is_empty() || page.links.next.is_none_or(|next| next.is_empty());
            items.extend(page.data);
            if done {
                break;
            }
        }
        Ok(items)
    }

    /// Asks until there is an answer; a node or coordinator that is just restarting is waited for.
    fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        idempotency_key: Option<String>,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<T, GatewayError> {
        let what = || format!("`{method} {target}`");
        let exchange = Exchange {
            method: method.clone(),
            target: format!("{}/{target}", self.prefix),
            host: match &self.route {
                Route::Tcp { host, port } => format!("{host}:{port}"),
                Route::Control(_) => "gateway".to_owned(),
            },
            token: self.token.clone(),
            idempotency_key,
            body,
            timeout,
        };
        let mut patience = Patience::new(self.patience);
        loop {
            let failure = match self.connect().and_then(|stream| Ok(exchange.perform(stream)?)) {
                Ok((status, body)) if status.is_success() => {
                    return serde_json::from_slice(&body)
                        .map_err(|error| GatewayError::Malformed { what: what(), reason: error.to_string() });
                }
                Ok((status, body)) => {
                    let message = message(&body);
                    if !matches!(
                        status,
                        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                    ) {
                        return Err(GatewayError::Refused { what: what(), status: status.as_u16(), message });
                    }
                    io::Error::other(format!("{status}: {message}"))
                }
                Err(ControlError::Closed) => return Err(GatewayError::Ended),
                Err(ControlError::Io(error)) => error,
                Err(error) => io::Error::other(error.to_string()),
            };
            if !patience.pause() {
                return Err(GatewayError::Unreachable { what: what(), waited: self.patience, source: failure });
            }
        }
    }

    fn connect(&self) -> Result<Stream, ControlError> {
        match &self.route {
            Route::Control(control) => control.gateway(),
            Route::Tcp { host, port } => {
                let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
                let addresses: Vec<SocketAddr> = (host.as_str(), *port).to_socket_addrs()?.collect();
                for address in addresses {
                    match TcpStream::connect_timeout(&address, Duration::from_secs(10)) {
                        Ok(stream) => {
                            stream.set_nodelay(true)?;
                            return Ok(Stream::Tcp(stream));
                        }
                        Err(error) => failure = error,
                    }
                }
                Err(failure.into())
            }
        }
    }
}

/// The `msg` of an error's JSON, or the start of whatever came.
pub(super) fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Message {
        msg: String,
        #[serde(default)]
        errors: Option<Value>,
    }
    match serde_json::from_slice::<Message>(body) {
        Ok(Message { msg, errors: Some(errors) }) => format!("{msg} ({errors})"),
        Ok(Message { msg, errors: None }) => msg,
        Err(_) => String::from_utf8_lossy(body).chars().take(200).collect(),
    }
}

pub(super) fn failure(task: TaskId, status: &str, runs: &[Run]) -> GatewayError {
    let failed =
        |run: &&Run| !matches!(run.status.as_deref(), Some("pending" | "initializing" | "active" | "completed"));
    let runs: Vec<FailedRun> = runs
        .iter()
        .filter(failed)
        .map(|run| FailedRun {
            run: run.id,
            organization: run.organization.id,
            status: run.status.clone().unwrap_or_else(|| "unknown error".to_owned()),
            log: tail(run.log.as_deref().unwrap_or_default().trim()),
        })
        .collect();
    GatewayError::Subtask { task, status: status.to_owned(), runs }
}

fn tail(text: &str) -> String {
    let start = text.len().saturating_sub(LOG_TAIL);
    let start = (start..=text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or(0);
    text.get(start..).unwrap_or_default().to_owned()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
