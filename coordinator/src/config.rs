//! Settings: defaults < file (TOML) < environment (`COORDINATOR__TOKENS__ACCESS_FOR`) < flags.

mod algorithm_stores;
mod mail;
mod metrics;
mod network;
mod objects;
mod password;
mod recovery;
mod retention;
pub(crate) mod secret;
mod tls;
mod two_factor;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

pub use self::algorithm_stores::AlgorithmStoresConfig;

use figment::Figment;
use figment::providers::{Env, Format as _, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits;

pub use self::mail::{Encryption, MailConfig};
pub use self::metrics::MetricsConfig;
pub use self::network::{InvalidNetwork, Network};
pub(crate) use self::objects::StoreKind;
pub use self::objects::{ObjectsConfig, StoreOptions};
pub use self::password::PasswordConfig;
pub use self::recovery::RecoveryConfig;
pub use self::retention::RetentionConfig;
pub use self::secret::Secret;
pub use self::tls::TlsConfig;
pub use self::two_factor::TwoFactorConfig;

/// All settings with their meaning and defaults, as a file to begin with.
pub const EXAMPLE: &str = include_str!("../../docs/coordinator.toml");

/// What the environment's names begin with.
pub const ENVIRONMENT_PREFIX: &str = "COORDINATOR__";

/// The error of reading settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key or value is wrong; the text names both and the file or variable.
    #[error("the settings are invalid: {0}")]
    Invalid(#[from] Box<figment::Error>),
    /// The file is not there.
    #[error("cannot read the configuration file `{path}`")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A setting makes no sense.
    #[error("the setting `{key}` is invalid: {why}")]
    Value {
        /// Which.
        key: &'static str,
        /// Why, and what to try.
        why: String,
    },
}

/// All settings of a coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What people know this coordinator by, in mails and in their authenticators.
    pub name: String,
    /// Where everything that must outlive the process is kept.
    pub data_dir: PathBuf,
    /// The address to listen at. Port 0 takes any that is free.
    pub listen: SocketAddr,
    /// What the API's paths begin with: `/api`.
    pub api_path: String,
    /// What to log, in the words of `tracing`'s filter: `info`, `debug`, `twinmesh_coordinator=trace`.
    pub log: String,
    /// How to log.
    pub log_format: LogFormat,
    /// The image of the task that `POST /column` makes where no node has shared the columns of its database.
    pub basics_image: String,
    /// The database.
    pub database: DatabaseConfig,
    /// Tokens of users and nodes.
    pub tokens: TokensConfig,
    /// Bounds on what is accepted.
    pub limits: LimitsConfig,
    /// Large payloads, which are kept outside of the database.
    pub objects: ObjectsConfig,
    /// How long payloads are kept.
    pub retention: RetentionConfig,
    /// The overlay's meeting point and relay.
    pub overlay: OverlayConfig,
    /// How services that review algorithms are asked.
    pub algorithm_stores: AlgorithmStoresConfig,
    /// The first user's password, used once, when the database is made.
    pub root: RootConfig,
    /// What happens when passwords and codes are wrong.
    pub password: PasswordConfig,
    /// The second factor.
    pub two_factor: TwoFactorConfig,
    /// Getting in again after a password or an authenticator is lost.
    pub recovery: RecoveryConfig,
    /// The server that takes our mail.
    pub mail: MailConfig,
    /// TLS, spoken by the coordinator itself.
    pub tls: TlsConfig,
    /// Figures for Prometheus.
    pub metrics: MetricsConfig,
}

/// The database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host/database`, which several coordinators may share; without it SQLite's
    /// `coordinator.sqlite` in the data directory.
    pub url: Option<Secret>,
    /// A file that holds the URL.
    pub url_file: Option<PathBuf>,
    /// How much a commit waits for: `full` (the disk; with PostgreSQL, what its `synchronous_commit` says) or `normal`
    /// (the operating system; with PostgreSQL, not even that: the last moments before it crashes may be lost).
    pub synchronous: Synchronous,
    /// How many requests may read at the same time.
    pub readers: u32,
}

/// Tokens of users and nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokensConfig {
    /// How long a token is good: at least `30m`.
    pub access_for: Span,
    /// How long it can be renewed: longer than it is good.
    pub refresh_for: Span,
}

/// Bounds on what is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest request that holds inputs or results: `256MiB`. Others may have up to `1MiB`.
    pub request_body: Size,
    /// How much of requests' bodies may be in memory at a time, all together: `1GiB`, and never less than
    /// `request_body`. Further ones wait a while, and are then told to come again.
    pub request_memory: Size,
    /// How long a body may pause: `30s`. A stranger's must be there whole in this time.
    pub body_idle: Span,
    /// How long a started request may take to tell its head: `30s`.
    pub header_timeout: Span,
    /// How long the question for a task's status is held while the task is unfinished: `50s`. Stay below the time-out
    /// of any proxy in front.
    pub status_hold: Span,
    /// How long a node may be away before it counts as gone: `10s`.
    pub node_grace: Span,
    /// How long another coordinator on the same database may be silent before its nodes count as gone: `10s`.
    pub instance_lease: Span,
    /// How many wrong passwords, keys, codes and tokens are borne from one address within `guesses_within`: `300`.
    pub guesses_per_address: u32,
    /// How many are borne for one account: `30`.
    pub guesses_per_account: u32,
    /// Within which time: `5m`.
    pub guesses_within: Span,
    /// Proxies whose `X-Forwarded-For` says where a request comes from, as addresses or networks. Name the proxy that
    /// stands in front: to the limits above all who come through one that is not named are one.
    pub trusted_proxies: Vec<Network>,
    /// How many connections may be open at a time; more wait: `8192`.
    pub connections: u32,
    /// How many of them one address may have, or one network of a provider's customer; further ones are closed at once:
    /// `2048`. This machine and `trusted_proxies` are not counted.
    pub connections_per_address: u32,
    /// How many event streams and held questions a user or node may have open at a time: `1024`.
    pub held_per_caller: u32,
}

/// The overlay's meeting point and relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OverlayConfig {
    /// Multiaddresses to listen at, as `/ip4/0.0.0.0/udp/7602/quic-v1`. Without any there is no meeting point.
    pub listen: Vec<String>,
}

/// The first user's password: one of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RootConfig {
    /// The password itself.
    pub password: Option<Secret>,
    /// A file that holds it.
    pub password_file: Option<PathBuf>,
    /// Its hash, by argon2id as made here (`$argon2id$v=19$m=19456,t=2,p=1$…`) or bcrypt (`$2b$…`, cost 4 to 12).
    pub password_hash: Option<Secret>,
    /// A file that holds the hash.
    pub password_hash_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "Twinmesh".into(),
            data_dir: PathBuf::from("twinmesh-coordinator"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7601)),
            api_path: "/api".into(),
            log: "info,libp2p_swarm=warn".into(),
            log_format: LogFormat::default(),
            // The contract's (F.3).
            basics_image: "ghcr.io/vantage6/algorithm-basics:latest".into(),
            database: DatabaseConfig::default(),
            tokens: TokensConfig::default(),
            limits: LimitsConfig::default(),
            objects: ObjectsConfig::default(),
            retention: RetentionConfig::default(),
            overlay: OverlayConfig::default(),
            algorithm_stores: AlgorithmStoresConfig::default(),
            root: RootConfig::default(),
            password: PasswordConfig::default(),
            two_factor: TwoFactorConfig::default(),
            recovery: RecoveryConfig::default(),
            mail: MailConfig::default(),
            tls: TlsConfig::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl DatabaseConfig {
    /// The database's URL, if one is given.
    pub(crate) fn url(&self) -> Result<Option<String>, crate::FileError> {
        match (&self.url, &self.url_file) {
            (Some(url), _) => Ok(Some(url.reveal().to_owned())),
            (None, Some(path)) => crate::files::read_secret(path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, synchronous: Synchronous::Full, readers: 8 }
    }
}

impl Default for TokensConfig {
    /// The contract's (A.2.2).
    fn default() -> Self {
        Self { access_for: Span(Duration::from_secs(6 * 3600)), refresh_for: Span(Duration::from_secs(48 * 3600)) }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            request_body: Size(256 << 20),
            request_memory: Size(1 << 30),
            body_idle: Span(Duration::from_secs(30)),
            header_timeout: Span(Duration::from_secs(30)),
            status_hold: Span(Duration::from_secs(50)),
            node_grace: Span(Duration::from_secs(10)),
            instance_lease: Span(Duration::from_secs(10)),
            guesses_per_address: 300,
            guesses_per_account: 30,
            guesses_within: Span(Duration::from_secs(5 * 60)),
            trusted_proxies: vec![IpAddr::from(Ipv4Addr::LOCALHOST).into(), IpAddr::from(Ipv6Addr::LOCALHOST).into()],
            connections: 8192,
            connections_per_address: 2048,
            held_per_caller: 1024,
        }
    }
}

/// How to log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs: an object a line.
    Json,
}

/// How much a commit waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Synchronous {
    /// For the disk: what was acknowledged survives the loss of power.
    #[default]
    Full,
    /// For the operating system: what was acknowledged survives the end of the process.
    Normal,
}

impl Config {
    /// Reads the settings: defaults, then the file if one is given, then the environment, then `flags`.
    ///
    /// # Errors
    /// When the file cannot be read, a key is unknown or a value makes no sense.
    pub fn load(file: Option<&Path>, flags: impl Serialize) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file {
            // Asked first: what is not there would be taken for empty.
            std::fs::File::open(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::file_exact(path));
        }
        let figment = figment.merge(Env::prefixed(ENVIRONMENT_PREFIX).split("__")).merge(Serialized::defaults(flags));
        let config: Self = figment.extract().map_err(Box::new)?;
        config.check()?;
        Ok(config)
    }

    /// The files that settings name for their secrets.
    pub(crate) fn secret_files(&self) -> Vec<PathBuf> {
        let (database, root) = (&self.database, &self.root);
        let own = [&database.url_file, &root.password_file, &root.password_hash_file, &self.tls.key];
        own.into_iter()
            .chain([&self.mail.password_file])
            .flatten()
            .cloned()
            .chain(self.objects.secret_files())
            .collect()
    }

    /// Whether the settings make sense together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: &str| Err(ConfigError::Value { key, why: why.into() });
        let path = &self.api_path;
        if !path.starts_with('/') || path.len() < 2 || path.ends_with('/') || path.contains(['{', '}', '?', '#', ' ']) {
            return wrong("api_path", "use a path like `/api`");
        }
        if self.tokens.access_for.0 < Duration::from_secs(1800) {
            return wrong("tokens.access_for", "use at least `30m`");
        }
        if self.tokens.refresh_for.0 <= self.tokens.access_for.0 {
            return wrong("tokens.refresh_for", "use more than `tokens.access_for`");
        }
        if self.limits.request_body.0 < 1024 {
            return wrong("limits.request_body", "use at least `1KiB`");
        }
        if self.limits.instance_lease.0 < Duration::from_millis(100) {
            return wrong("limits.instance_lease", "use at least `100ms`");
        }
        if let Some((key, why)) = self.algorithm_stores.fault() {
            return wrong(key, why);
        }
        self.objects.check()?;
        self.retention.check()?;
        if self.limits.body_idle.0 < Duration::from_millis(100) {
            return wrong("limits.body_idle", "use at least `100ms`");
        }
        for (key, count) in [
            ("limits.connections", self.limits.connections),
            ("limits.connections_per_address", self.limits.connections_per_address),
            ("limits.held_per_caller", self.limits.held_per_caller),
        ] {
            if count == 0 {
                return wrong(key, "use at least 1");
            }
        }
        self.tls.check()?;
        if self.database.url.is_some() && self.database.url_file.is_some() {
            return wrong("database.url", "`database.url_file` is given too; keep one of them");
        }
        if self.root.given() > 1 {
            return wrong(
                "root.password",
                "`password`, `password_file`, `password_hash`, `password_hash_file`: keep one",
            );
        }
        // Authenticators split what they show at colons.
        if self.name.trim().is_empty() || self.name.chars().count() > 64 || self.name.contains([':', '\n', '\r']) {
            return wrong("name", "use 1 to 64 characters in one line, without colons");
        }
        if limits::IMAGE.fault(&self.basics_image).is_some() || self.basics_image.contains(char::is_whitespace) {
            return wrong("basics_image", "use the reference of an image");
        }
        if self.limits.guesses_per_address == 0 || self.limits.guesses_per_account == 0 {
            return wrong("limits.guesses_per_address", "use at least 1, here and for `limits.guesses_per_account`");
        }
        self.password.check()?;
        self.recovery.check()?;
        self.mail.check()
    }
}

impl RootConfig {
    /// How many of the ways to tell the password are used.
    fn given(&self) -> usize {
        let ways = [
            self.password.is_some(),
            self.password_file.is_some(),
            self.password_hash.is_some(),
            self.password_hash_file.is_some(),
        ];
        ways.into_iter().filter(|given| *given).count()
    }
}

/// A length of time as people write it: `250ms`, `30s`, `15m`, `6h`, `2d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes as people write it: `512`, `64KiB`, `256MiB`, `2GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The error of reading a value with a unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {noun}: use one like {example}")]
pub struct InvalidQuantity {
    text: String,
    noun: &'static str,
    example: &'static str,
}

fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

const SPANS: &[(&str, u64)] = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZES: &[(&str, u64)] = &[("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl FromStr for Span {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        quantity(text, SPANS).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| InvalidQuantity {
            text: text.into(),
            noun: "length of time",
            example: "30s, 15m or 6h",
        })
    }
}

impl FromStr for Size {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        quantity(text, SIZES).map(Self).ok_or_else(|| InvalidQuantity {
            text: text.into(),
            noun: "number of bytes",
            example: "64KiB, 256MiB or 2GiB",
        })
    }
}

/// The largest unit that divides the value.
fn in_units(value: u64, units: &[(&str, u64)]) -> String {
    let (unit, factor) =
        units.iter().rev().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor)).unwrap_or(&units[0]);
    format!("{}{unit}", value / factor)
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&in_units(u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX), SPANS))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&in_units(self.0, SIZES))
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                #[derive(Deserialize)]
                #[serde(untagged)]
                enum Raw {
                    Text(String),
                    Number(u64),
                }
                let text = match Raw::deserialize(deserializer)? {
                    Raw::Text(text) => text,
                    Raw::Number(number) => number.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}

as_text!(Span, Size);

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), serde_json::json!({}))
    }

    #[test]
    fn the_defaults_make_sense_and_survive_being_shown() {
        let config = Config::default();
        config.check().unwrap();
        let shown = toml::to_string(&config).unwrap();
        assert_eq!(load(&shown).unwrap(), config);
    }

    /// The example with its defaults written out; with the examples too if asked for.
    fn example(examples: bool) -> String {
        let uncommented = |line: &'static str| match (line.strip_prefix("#? "), line.strip_prefix('#')) {
            (Some(setting), _) if examples => setting,
            (Some(_), _) => "",
            (None, Some(setting)) if !setting.is_empty() && !setting.starts_with(' ') => setting,
            (None, _) => line,
        };
        EXAMPLE.lines().map(uncommented).collect::<Vec<_>>().join("\n")
    }

    /// The names of a section's settings, as an unknown one is told them.
    fn names(section: &str) -> Vec<String> {
        let head = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let Err(error) = toml::from_str::<Config>(&format!("{head}no_such_setting = 1")) else {
            // A section whose names are somebody else's.
            return Vec::new();
        };
        let error = error.to_string();
        let (_, expected) = error.split_once("expected").unwrap_or_else(|| panic!("{section}: {error}"));
        expected.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
    }

    fn assert_documented(section: &str, table: &toml::Table) {
        for name in names(section) {
            let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
            let found = table.get(&name).unwrap_or_else(|| panic!("docs/coordinator.toml does not have `{path}`"));
            if let toml::Value::Table(table) = found {
                assert_documented(&path, table);
            }
        }
    }

    #[test]
    fn the_example_shows_the_defaults_and_every_setting() {
        assert_eq!(load(EXAMPLE).unwrap(), Config::default());
        let defaults: toml::Table = toml::from_str(&example(false)).unwrap();
        assert_eq!(defaults, toml::Table::try_from(Config::default()).unwrap(), "each `#name = value` is the default");
        let all: toml::Table = toml::from_str(&example(true)).unwrap();
        // Both forms of a secret exclude each other, but each must be one that exists.
        toml::from_str::<Config>(&example(true)).unwrap();
        assert_documented("", &all);
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\n[limits]\nrequest_body = \"1GiB\"").unwrap();
        let config = Config::load(Some(&path), serde_json::json!({"listen": "127.0.0.1:2"})).unwrap();
        assert_eq!(config.listen.port(), 2);
        assert_eq!(config.limits.request_body, Size(1 << 30));
    }

    #[test]
    fn a_wrong_setting_is_told_by_key_and_file() {
        for (text, words) in [
            ("lisen = 1", ["lisen", "coordinator.toml"]),
            ("[tokens]\naccess_for = \"soon\"", ["access_for", "soon"]),
            ("[tokens]\naccess_for = \"1m\"", ["tokens.access_for", "30m"]),
            ("api_path = \"api\"", ["api_path", "/api"]),
            ("[objects]\nurl = \"ftp://host/x\"", ["objects.url", "s3://"]),
            ("[objects]\nurl = \"s3://bucket\"\noptions = {regoin = \"x\"}", ["objects.options", "regoin"]),
            ("[objects]\noptions = {region = \"x\"}", ["objects.options", "region"]),
            ("[retention]\nresults = \"1s\"", ["retention.results", "1m"]),
            ("[tls]\ncertificate = \"a.pem\"", ["tls.key", "both"]),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
        let missing = Config::load(Some(Path::new("/nowhere.toml")), serde_json::json!({})).unwrap_err();
        assert!(missing.to_string().contains("/nowhere.toml"));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let config = load("[root]\npassword = \"hunter2\"").unwrap();
        assert_eq!(config.root.password.as_ref().unwrap().reveal(), "hunter2");
        assert!(!toml::to_string(&config).unwrap().contains("hunter2"));
        assert!(!format!("{config:?}").contains("hunter2"));

        let text = "[objects]\nurl = \"s3://bucket/prefix\"\n[objects.options]\nsecret_access_key = \"hunter2\"\n\
                    allow_http = true\nregion = \"here\"";
        let config = load(text).unwrap();
        for shown in [toml::to_string(&config).unwrap(), format!("{config:?}")] {
            assert!(!shown.contains("hunter2") && shown.contains("here"), "{shown}");
        }
    }
}
