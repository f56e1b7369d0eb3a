use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{ConfigError, Size, Span};

/// Large payloads, which are kept outside of the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ObjectsConfig {
    /// Where they are kept: `file:///directory`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`;
    /// without it the directory `objects` in the data directory. Coordinators that share a database share this, too.
    pub url: Option<String>,
    /// What the store is to be told, such as `endpoint`, `region`, `allow_http`, `access_key_id` and
    /// `secret_access_key` with `s3://`; any of them with `_file` behind its name is read from that file. What is not
    /// given here is taken from the environment by the names that the store's maker uses: `AWS_…`, `AZURE_…`,
    /// `GOOGLE_…`.
    pub options: StoreOptions,
    /// The largest payload: `16GiB`.
    pub limit: Size,
    /// How much an organization may have uploaded that belongs to no run yet, before it is refused more: `64GiB`.
    pub pending: Size,
    /// How long an upload may pause before it is broken off; it can be continued: `30s`.
    pub idle: Span,
    /// How long what belongs to no run is kept, whole or not: `1d`.
    pub keep_unused: Span,
    /// How often what is not needed any more is looked for, here and by the ages in `retention`: `10m`.
    pub tidy_every: Span,
    /// Whether stock clients are told to put every input into the store, however small. Results that nodes put there
    /// can be read by them either way.
    pub stock_clients: bool,
}

impl Default for ObjectsConfig {
    fn default() -> Self {
        Self {
            url: None,
            options: StoreOptions::default(),
            limit: Size(16 << 30),
            pending: Size(64 << 30),
            idle: Span(Duration::from_secs(30)),
            keep_unused: Span(Duration::from_secs(24 * 3600)),
            tidy_every: Span(Duration::from_secs(600)),
            stock_clients: false,
        }
    }
}

impl ObjectsConfig {
    /// Whether the settings make sense; asks nobody.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        if let Err((key, why)) = crate::objects::check_place(self) {
            return wrong(key, why);
        }
        if self.pending.0 < self.limit.0 {
            return wrong("objects.pending", "use at least `objects.limit`".into());
        }
        if self.idle.0 < Duration::from_secs(1) {
            return wrong("objects.idle", "use at least `1s`".into());
        }
        if self.keep_unused.0 < Duration::from_secs(60) {
            return wrong("objects.keep_unused", "use at least `1m`: what is uploaded must find its task".into());
        }
        if self.tidy_every.0 < Duration::from_secs(1) {
            return wrong("objects.tidy_every", "use at least `1s`".into());
        }
        Ok(())
    }
}

/// What a store is told, by the names that its maker uses. Secrets among them are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StoreOptions(BTreeMap<String, String>);

/// The suffix of a name whose value is a file that holds the value.
const FILE_SUFFIX: &str = "_file";

impl StoreOptions {
    /// Sets one.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The name and the file of an option that is to be read from a file.
    pub(crate) fn in_file<'a>(name: &'a str, value: &str) -> Option<(&'a str, PathBuf)> {
        name.strip_suffix(FILE_SUFFIX).map(|name| (name, PathBuf::from(value)))
    }

    fn shown<'a>(name: &str, value: &'a str) -> &'a str {
        let is_secret = ["secret", "key", "token", "password", "sas", "credential", "account"]
            .into_iter()
            .any(|word| name.to_ascii_lowercase().contains(word));
        if is_secret && !name.ends_with(FILE_SUFFIX) { "[redacted]" } else { value }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name, Self::shown(name, value)))).finish()
    }
}

impl Serialize for StoreOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(name, value)| (name, Self::shown(name, value))))
    }
}

impl<'de> Deserialize<'de> for StoreOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// As people write it in a file: `allow_http = true`.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Text(String),
            Flag(bool),
            Number(i64),
        }
        let options = BTreeMap::<String, Raw>::deserialize(deserializer)?;
        let text = |raw| match raw {
            Raw::Text(text) => text,
            Raw::Flag(flag) => flag.to_string(),
            Raw::Number(number) => number.to_string(),
        };
        Ok(Self(options.into_iter().map(|(name, raw)| (name, text(raw))).collect()))
    }
}
