//! The node's configuration: one TOML file, overridden by `NODE__SECTION__KEY` variables, overridden by flags.

mod address;
mod value;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use figment::{
    Figment,
    providers::{Env, Format as _, Toml},
};
use serde::{Deserialize, Serialize};
use twinmesh_client::ApiOptions;
use twinmesh_protocol::id::{OrganizationId, UserId};
use url::Url;

pub use address::CoordinatorUrl;
pub use value::{InvalidValue, Period, Size};

use crate::runtime::{Limits, Secret};

/// A file to begin with: every setting, its default and its meaning.
pub const EXAMPLE: &str = include_str!("../../../docs/node.toml");

/// Everything that a node's administrator decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the coordinator is; with or without the trailing `/api`. A list if it is several instances: the node stays
    /// with one until that does not answer.
    pub coordinator_url: CoordinatorUrl,
    /// Whether the API key may go to another machine in the open (`http://`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_http: bool,
    /// A PEM file with a further authority to believe when the coordinator shows its TLS certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<Utf8PathBuf>,
    /// The node's API key. Either this or `api_key_file`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
    /// A file that holds the API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_file: Option<Utf8PathBuf>,
    /// Where the node keeps its journal, keys and runs. Nobody else may use it.
    pub state_directory: Utf8PathBuf,
    /// The organization's private key: Ed25519 (PKCS#8 PEM), made by `create-private-key`. RSA (PKCS#1 or PKCS#8 PEM) as
    /// vantage6 makes it serves for payloads only: no twins, no signed subtasks, see `policies.require_signed_tasks`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Utf8PathBuf>,
    #[serde(default)]
    pub encryption: Encryption,
    /// The data that tasks may ask for by label.
    #[serde(default)]
    pub databases: Vec<Database>,
    /// The algorithms that this node can run. Empty means the built-in ones.
    #[serde(default)]
    pub algorithms: Vec<Algorithm>,
    #[serde(default)]
    pub policies: Policies,
    #[serde(default)]
    pub runtime: RuntimeSection,
    #[serde(default)]
    pub overlay: OverlaySection,
    /// Further variables for every run; they win over the node's own.
    #[serde(default)]
    pub algorithm_env: BTreeMap<String, String>,
    /// The keys of other organizations by their id: a PEM text or a fingerprint. Of others, those are
    /// believed that were in the collaboration when the node first started, or that `twinmesh-node pin add` accepted.
    #[serde(default)]
    pub pins: BTreeMap<String, String>,
    /// Whether the last lines of a failed run's output go to the coordinator, where they are not encrypted. By default only in
    /// collaborations that are not encrypted. Why a run was refused is always sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_algorithm_logs: Option<bool>,
    /// Whether the coordinator is told what this node offers and to whom: its policies, and labels and types of its
    /// databases; their column names only in collaborations that are not encrypted. Members of the collaboration see it there; tasks that the policies refuse are not even sent.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub share_config: bool,
}

fn yes() -> bool {
    true
}

/// `[encryption]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Encryption {
    /// Whether the collaboration is encrypted. The node refuses to start when the coordinator says otherwise.
    pub enabled: bool,
}

impl Default for Encryption {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `[[databases]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// What tasks call it: letters, digits and `_`.
    pub label: String,
    #[serde(rename = "type")]
    pub kind: DatabaseKind,
    pub path: Utf8PathBuf,
}

/// What a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatabaseKind {
    Csv,
}

impl DatabaseKind {
    /// The contract's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Csv => "csv",
        }
    }
}

/// `[[algorithms]]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Algorithm {
    /// The exact reference that tasks name.
    pub image: String,
    /// Whether it is the image that is part of this program.
    #[serde(default)]
    pub builtin: bool,
    /// The directory that holds the unpacked image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Utf8PathBuf>,
    /// Program and arguments, as the image sees them.
    #[serde(default)]
    pub command: Vec<String>,
    /// The variables of the image, as they are.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<Utf8PathBuf>,
    /// The ports on which its twins may reach it.
    #[serde(default)]
    pub ports: Vec<AlgorithmPort>,
}

/// A port that an image exposes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlgorithmPort {
    pub port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Algorithm {
    /// The algorithms that are part of this program.
    pub fn builtin() -> Self {
        Self {
            image: BUILTIN_IMAGE.to_owned(),
            builtin: true,
            root: None,
            command: Vec::new(),
            environment: BTreeMap::new(),
            working_directory: None,
            ports: twinmesh_algorithms::EXPOSED_PORTS
                .iter()
                .map(|(port, label)| AlgorithmPort { port: *port, label: Some((*label).to_owned()) })
                .collect(),
        }
    }
}

/// The reference of the image that is part of this program.
pub const BUILTIN_IMAGE: &str = twinmesh_algorithms::IMAGE;

/// `[policies]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policies {
    /// Exact image references. By default the built-in image only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_algorithms: Option<BTreeSet<String>>,
    /// Whose tasks are run. Where this and `allowed_organizations` are given, one of them suffices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_users: Option<BTreeSet<UserId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowed_organizations: Option<BTreeSet<OrganizationId>>,
    /// Whether tasks without a valid signature are refused. By default where the collaboration is encrypted. Organizations
    /// with RSA keys cannot sign: their tasks are run by nodes whose organization has an RSA key too, and says `false` here.
    /// Then who asks what is the coordinator's word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_signed_tasks: Option<bool>,
}

/// `[runtime]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuntimeSection {
    /// The weakest confinement with which the node may start.
    pub minimum: Minimum,
    /// Whether to make no namespaces even where they are possible.
    pub lite: bool,
    /// How long a run goes on while its node is away.
    pub orphan_grace: Period,
    /// How many runs may be under way at a time; more wait.
    pub concurrent_runs: usize,
    pub limits: LimitsSection,
}

impl Default for RuntimeSection {
    fn default() -> Self {
        Self {
            minimum: Minimum::Full,
            lite: false,
            orphan_grace: Period(Duration::from_secs(600)),
            concurrent_runs: 64,
            limits: LimitsSection::default(),
        }
    }
}

/// How strongly runs must be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Minimum {
    /// Own namespaces, Landlock, seccomp and limits.
    Full,
    /// Landlock, seccomp and limits; built-in algorithms only.
    Lite,
}

/// `[runtime.limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    pub memory: Size,
    pub processes: u32,
    /// How long a run may take.
    pub time: Period,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_time: Option<Period>,
    /// Any one file that a run writes.
    pub file: Size,
    pub result: Size,
    pub log: Size,
    /// The temporary folder.
    pub temporary: Size,
    /// How large the node's journal may grow, where the disk does not set the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub journal: Option<Size>,
}

impl Default for LimitsSection {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            memory: Size(limits.memory_bytes),
            processes: limits.processes,
            time: Period(limits.wall_time),
            cpu_time: limits.cpu_time.map(Period),
            file: Size(limits.file_bytes),
            result: Size(limits.output_bytes),
            log: Size(limits.log_bytes),
            temporary: Size(limits.temporary_bytes),
            journal: None,
        }
    }
}

impl LimitsSection {
    /// The same as the runtime wants it.
    pub fn to_limits(&self) -> Limits {
        Limits {
            memory_bytes: self.memory.0,
            processes: self.processes,
            wall_time: self.time.0,
            cpu_time: self.cpu_time.map(|period| period.0),
            file_bytes: self.file.0,
            output_bytes: self.result.0,
            log_bytes: self.log.0,
            temporary_bytes: self.temporary.0,
        }
    }
}

/// `[overlay]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OverlaySection {
    /// Multiaddresses to listen at; by default all interfaces, ports chosen by the system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<Vec<String>>,
    /// Multiaddresses under which others reach this node through a firewall that the administrator has opened.
    pub external: Vec<String>,
    /// Use only the coordinator's relay: listen nowhere, dial no peer.
    pub relayed_only: bool,
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file `{path}`")]
    Read { path: Utf8PathBuf, source: io::Error },
    #[error("the configuration is not valid: {problem}")]
    Invalid { problem: String },
    #[error("`{key}` is missing: {hint}")]
    Missing { key: &'static str, hint: &'static str },
    #[error("`{key}` is wrong: {problem}")]
    Value { key: String, problem: String },
}

impl Config {
    /// Reads the file, and the environment over it.
    ///
    /// Relative paths are taken from the file's folder.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, has an unknown key, or lacks one; the message names file and key.
    pub fn load(path: &Utf8Path) -> Result<Self, ConfigError> {
        // Read here, because figment takes a file that is missing for one that is empty.
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        text.parse::<toml::Table>().map_err(|error| ConfigError::Invalid { problem: format!("{path}: {error}") })?;
        let figment = Figment::from(Toml::file(path.as_std_path())).merge(Env::prefixed("NODE__").split("__"));
        let mut config: Self =
            figment.extract().map_err(|errors| ConfigError::Invalid { problem: explain(&errors, path) })?;
        let absolute =
            camino::absolute_utf8(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        if let Some(folder) = absolute.parent() {
            config.resolve(folder);
        }
        config.check()?;
        Ok(config)
    }

    /// Takes relative paths as relative to `folder`.
    pub fn resolve(&mut self, folder: &Utf8Path) {
        let join = |path: &mut Utf8PathBuf| *path = folder.join(&*path);
        join(&mut self.state_directory);
        self.api_key_file.iter_mut().for_each(join);
        self.ca_file.iter_mut().for_each(join);
        self.private_key.iter_mut().for_each(join);
        self.databases.iter_mut().for_each(|database| join(&mut database.path));
        self.algorithms.iter_mut().filter_map(|algorithm| algorithm.root.as_mut()).for_each(join);
    }

    /// How to reach the coordinator.
    ///
    /// # Errors
    ///
    /// When `ca_file` cannot be read.
    pub fn api_options(&self) -> Result<ApiOptions, ConfigError> {
        let read =
            |path: &Utf8PathBuf| fs::read(path).map_err(|source| ConfigError::Read { path: path.clone(), source });
        let root_certificate = self.ca_file.as_ref().map(read).transpose()?;
        Ok(ApiOptions { root_certificate, ..ApiOptions::default() })
    }

    /// Checks what the types alone do not say. Touches nothing.
    ///
    /// # Errors
    ///
    /// The first key that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: String, problem: &str| Err(ConfigError::Value { key, problem: problem.into() });
        let in_the_open = |url: &Url| url.scheme() == "http" && !is_this_machine(url);
        if !self.allow_http && self.coordinator_url.iter().any(in_the_open) {
            let problem = "the API key would go to another machine in the open; use `https://`, or set `allow_http = true` if \
                 something else protects the way";
            return wrong("coordinator_url".into(), problem);
        }
        match (&self.api_key, &self.api_key_file) {
            (None, None) => {
                let hint = "give the key that the coordinator showed when the node was registered, or `api_key_file`";
                return Err(ConfigError::Missing { key: "api_key", hint });
            }
            (Some(_), Some(_)) => return wrong("api_key".into(), "`api_key_file` is given too; keep one of them"),
            (Some(_), None) | (None, Some(_)) => {}
        }
        if self.encryption.enabled && self.private_key.is_none() {
            let hint =
                "an encrypted collaboration needs the organization's key; `twinmesh-node create-private-key` makes one";
            return Err(ConfigError::Missing { key: "private_key", hint });
        }
        let mut labels = BTreeSet::new();
        for database in &self.databases {
            let key = format!("databases: `{}`", database.label);
            if !is_identifier(&database.label) {
                return wrong(key, "a label consists of letters, digits and `_` and does not begin with a digit");
            }
            // Variables carry labels in upper case, so two labels must differ by more than case.
            if !labels.insert(database.label.to_uppercase()) {
                return wrong(key, "another database has this label (case does not count)");
            }
        }
        let mut images = BTreeSet::new();
        for algorithm in &self.algorithms {
            let key = format!("algorithms: `{}`", algorithm.image);
            if !images.insert(&algorithm.image) {
                return wrong(key, "the image is listed twice");
            }
            match (algorithm.builtin, &algorithm.root) {
                (true, None) | (false, Some(_)) => {}
                (true, Some(_)) => return wrong(key, "a built-in image has no `root`"),
                (false, None) => return wrong(key, "give its `root` and `command`, or `builtin = true`"),
            }
            if algorithm.builtin && algorithm.image != BUILTIN_IMAGE {
                let problem = format!("the built-in image is `{}`", BUILTIN_IMAGE);
                return Err(ConfigError::Value { key, problem });
            }
            if !algorithm.builtin && algorithm.command.is_empty() {
                return wrong(key, "`command` is missing");
            }
        }
        if let Some(name) = self.algorithm_env.keys().find(|name| !is_identifier(name)) {
            return wrong(format!("algorithm_env.{name}"), "a variable's name consists of letters, digits and `_`");
        }
        if let Some(id) = self.pins.keys().find(|id| id.parse::<OrganizationId>().is_err()) {
            return wrong(format!("pins.{id}"), "the key of a pin is an organization's id");
        }
        if self.runtime.concurrent_runs == 0 {
            return wrong("runtime.concurrent_runs".into(), "at least 1 is needed");
        }
        Ok(())
    }

    /// The API key, read from its file if need be.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn read_api_key(&self) -> Result<Secret, ConfigError> {
        match (&self.api_key, &self.api_key_file) {
            (Some(key), _) => Ok(Secret::new(key.trim())),
            (None, Some(path)) => fs::read_to_string(path)
                .map(|text| Secret::new(text.trim()))
                .map_err(|source| ConfigError::Read { path: path.clone(), source }),
            (None, None) => Err(ConfigError::Missing { key: "api_key", hint: "give it, or `api_key_file`" }),
        }
    }

    /// The algorithms that can be run here.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        if self.algorithms.is_empty() { vec![Algorithm::builtin()] } else { self.algorithms.clone() }
    }

    /// The settings in effect as TOML, without secrets.
    pub fn redacted(&self) -> String {
        let mut copy = self.clone();
        if copy.api_key.is_some() {
            copy.api_key = Some("[redacted]".into());
        }
        copy.algorithm_env.values_mut().for_each(|value| *value = "[redacted]".into());
        toml::to_string_pretty(&copy).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }
}

/// Names file and key of each problem.
fn explain(errors: &figment::Error, path: &Utf8Path) -> String {
    let lines: Vec<String> = errors
        .clone()
        .into_iter()
        .map(|error| {
            let key = if error.path.is_empty() { String::new() } else { format!(" in `{}`", error.path.join(".")) };
            let is_file = error.metadata.as_ref().is_none_or(|metadata| !metadata.name.contains("environment"));
            let place = if is_file { path.to_string() } else { "environment (NODE__…)".into() };
            format!("{place}: {}{key}", error.kind)
        })
        .collect();
    lines.join("; ")
}

/// Whether a request to the address stays on this machine.
fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// Whether the text can be part of a variable's name.
pub fn is_identifier(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "coordinator_url = \"http://127.0.0.1:5000\"\napi_key = \"secret\"\nstate_directory = \"state\"\nprivate_key = \"key.pem\"\n";

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("node.toml")).unwrap();
        fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn a_further_authority_is_read_from_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let mut config: Config = toml::from_str(&format!("ca_file = \"ca.pem\"\n{SMALL}")).unwrap();
        config.resolve(folder);
        let error = config.api_options().unwrap_err().to_string();
        assert!(error.contains("ca.pem"), "{error}");
        fs::write(folder.join("ca.pem"), "authority").unwrap();
        assert_eq!(config.api_options().unwrap().root_certificate.as_deref(), Some(&b"authority"[..]));
        config.ca_file = None;
        assert!(config.api_options().unwrap().root_certificate.is_none());
    }

    #[test]
    fn the_smallest_file_gives_safe_defaults() {
        let config = load(SMALL).unwrap();
        assert!(config.encryption.enabled);
        assert_eq!(config.runtime.minimum, Minimum::Full);
        assert_eq!(config.algorithms(), vec![Algorithm::builtin()]);
        assert!(config.state_directory.is_absolute(), "relative paths are taken from the file's folder");
        assert_eq!(config.read_api_key().unwrap().expose(), "secret");
    }

    #[test]
    fn an_unknown_key_is_named_with_its_file() {
        for (text, key) in [
            (format!("{SMALL}colour = 1\n"), "colour"),
            (format!("{SMALL}[policies]\nallow_all = true\n"), "allow_all"),
            (format!("{SMALL}[runtime.limits]\nmemry = \"1GiB\"\n"), "memry"),
            (format!("{SMALL}[[databases]]\nlabel=\"a\"\ntype=\"csv\"\npath=\"x\"\nuri=\"y\"\n"), "uri"),
        ] {
            let message = load(&text).unwrap_err().to_string();
            assert!(message.contains(key) && message.contains("node.toml"), "{message}");
        }
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (text, expected) in [
            (SMALL.replace("api_key", "api_keys"), "api_keys"),
            (SMALL.replace("api_key = \"secret\"", ""), "api_key"),
            (SMALL.replace("private_key = \"key.pem\"", ""), "create-private-key"),
            (format!("{SMALL}[runtime]\norphan_grace = \"soon\"\n"), "orphan_grace"),
            (format!("{SMALL}[pins]\nx = \"y\"\n"), "pins.x"),
            (format!("{SMALL}[[databases]]\nlabel=\"1a\"\ntype=\"csv\"\npath=\"x\"\n"), "1a"),
            (format!("{SMALL}[[algorithms]]\nimage=\"x\"\n"), "root"),
            (format!("{SMALL}[[algorithms]]\nimage=\"x\"\nbuiltin=true\n"), "built-in image is"),
        ] {
            let message = load(&text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn the_api_key_goes_to_other_machines_over_https_only() {
        for (url, is_allowed) in [
            ("http://127.0.0.1:5000", true),
            ("http://localhost", true),
            ("http://[::1]:5000/api", true),
            ("https://coordinator.example", true),
            ("http://coordinator.example", false),
            ("http://192.0.2.1:5000", false),
            ("http://localhost.example", false),
        ] {
            let text = SMALL.replace("http://127.0.0.1:5000", url);
            assert_eq!(load(&text).is_ok(), is_allowed, "{url}");
            assert!(load(&format!("allow_http = true\n{text}")).is_ok(), "{url}");
        }
        let message = load(&SMALL.replace("127.0.0.1", "192.0.2.1")).unwrap_err().to_string();
        assert!(message.contains("coordinator_url") && message.contains("allow_http"), "{message}");
    }

    /// The example with its defaults written out; with the examples too if asked for.
    fn example(examples: bool) -> String {
        let is_setting = |text: &str| !text.is_empty() && !text.starts_with(' ');
        let uncommented = |line: &'static str| match (line.strip_prefix("#? "), line.strip_prefix('#')) {
            (Some(setting), _) => {
                if examples {
                    setting
                } else {
                    ""
                }
            }
            (None, Some(setting)) if is_setting(setting) => setting,
            (None, _) => line,
        };
        EXAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
    }

    /// The names of the settings that may stand there, as an unknown one is told them.
    fn names(head: &str) -> BTreeSet<String> {
        let error = toml::from_str::<Config>(&format!("{head}\nno_such_setting = 1")).unwrap_err().to_string();
        let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{head}: {error}"));
        expected.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    }

    /// Whether each value that is written down stands in the example with that value.
    fn assert_shown(path: &str, written: &toml::Table, shown: &toml::Table) {
        for (name, value) in written {
            let path = format!("{path}{name}");
            match (value, shown.get(name)) {
                (toml::Value::Table(inner), None) => assert!(inner.is_empty(), "{path}"),
                (toml::Value::Array(items), None) => assert!(items.is_empty(), "{path}"),
                (toml::Value::Table(inner), Some(toml::Value::Table(shown))) => {
                    assert_shown(&format!("{path}."), inner, shown);
                }
                (value, found) => assert_eq!(found, Some(value), "`#{path} = …` in docs/node.toml is the default"),
            }
        }
    }

    #[test]
    fn the_example_shows_the_defaults_and_every_setting() {
        let config = load(EXAMPLE).unwrap();
        let bare: Config = toml::from_str(EXAMPLE).unwrap();
        assert_eq!(toml::from_str::<Config>(&example(false)).unwrap(), bare, "each `#name = value` is the default");
        let defaults: toml::Table = toml::from_str(&example(false)).unwrap();
        let mut written = toml::Table::try_from(&bare).unwrap();
        // No default, and not written as it was read.
        written.remove("coordinator_url");
        assert_shown("", &written, &defaults);
        assert_eq!(config.runtime, RuntimeSection::default());

        // Both ways to give the API key exclude each other, but each must be one that exists.
        let all: toml::Table = toml::from_str(&example(true)).unwrap();
        let full: Config = toml::from_str(&example(true)).unwrap();
        assert!(full.databases.len() == 1 && full.algorithms.len() == 1 && full.pins.len() == 1, "{full:?}");
        let first = |name: &str| all[name].as_array().unwrap()[0].as_table().unwrap().clone();
        let section = |name: &str| all[name].as_table().unwrap().clone();
        let limits = section("runtime")["limits"].as_table().unwrap().clone();
        let port = first("algorithms")["ports"].as_array().unwrap()[0].as_table().unwrap().clone();
        for (head, documented) in [
            ("", all.clone()),
            ("[encryption]", section("encryption")),
            ("[[databases]]", first("databases")),
            ("[[algorithms]]", first("algorithms")),
            ("[[algorithms]]\n[[algorithms.ports]]", port),
            ("[policies]", section("policies")),
            ("[runtime]", section("runtime")),
            ("[runtime.limits]", limits),
            ("[overlay]", section("overlay")),
        ] {
            let documented: BTreeSet<String> = documented.keys().cloned().collect();
            assert_eq!(documented, names(head), "{head}");
        }
    }

    #[test]
    fn what_is_shown_has_no_secret_and_reads_back() {
        let config = load(&format!("{SMALL}[algorithm_env]\nPASSWORD = \"hunter2\"\n")).unwrap();
        let shown = config.redacted();
        assert!(!shown.contains("secret") && !shown.contains("hunter2"), "{shown}");
        assert!(toml::from_str::<Config>(&shown).is_ok(), "{shown}");
    }
}
