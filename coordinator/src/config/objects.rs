use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;
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
    /// How many uploads an organization's users may have begun and not ended, before they are refused more: `64`; its
    /// nodes and runs likewise.
    pub open_uploads: u32,
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
            open_uploads: 64,
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
        let kind = match self.kind() {
            Ok(kind) => kind,
            Err(why) => return wrong("objects.url", why),
        };
        for (name, value) in self.options.iter() {
            let in_file = StoreOptions::in_file(name, value);
            if !kind.knows(name) && !in_file.is_some_and(|(name, _)| kind.knows(name)) {
                let why = match kind {
                    StoreKind::Directory => {
                        format!("`{name}` has no meaning for a directory: set `objects.url`, or remove it")
                    }
                    StoreKind::S3 | StoreKind::Azure | StoreKind::Google => {
                        format!("this kind of store has no option `{name}`")
                    }
                };
                return wrong("objects.options", why);
            }
        }
        if self.pending.0 < self.limit.0 {
            return wrong("objects.pending", "use at least `objects.limit`".into());
        }
        if self.open_uploads == 0 {
            return wrong("objects.open_uploads", "use at least 1".into());
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

    /// Which kind of store the URL names.
    ///
    /// # Errors
    /// What to use instead, when it names none.
    pub(crate) fn kind(&self) -> Result<StoreKind, String> {
        let hint = "use `file:///directory`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`";
        let Some(url) = &self.url else { return Ok(StoreKind::Directory) };
        let (scheme, rest) = url.split_once("://").ok_or(hint)?;
        let kind = match scheme {
            "file" if rest.starts_with('/') => StoreKind::Directory,
            "s3" => StoreKind::S3,
            "az" => StoreKind::Azure,
            "gs" => StoreKind::Google,
            _ => return Err(hint.into()),
        };
        if rest.trim_matches('/').is_empty() || rest.contains(['?', '#', '@']) {
            return Err(hint.into());
        }
        Ok(kind)
    }

    /// The files that options name for their secrets.
    pub(super) fn secret_files(&self) -> Vec<PathBuf> {
        let Ok(kind) = self.kind() else { return Vec::new() };
        let named = self.options.iter().filter_map(|(name, value)| match StoreOptions::in_file(name, value) {
            _ if kind.names_secret_file(name) => Some(PathBuf::from(value)),
            Some((_, path)) if !kind.knows(name) => Some(path),
            Some(_) | None => None,
        });
        named.collect()
    }
}

/// The kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreKind {
    Directory,
    S3,
    Azure,
    Google,
}

impl StoreKind {
    /// Whether stores of this kind have an option of this name.
    pub(crate) fn knows(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match self {
            Self::Directory => false,
            Self::S3 => name.parse::<AmazonS3ConfigKey>().is_ok(),
            Self::Azure => name.parse::<AzureConfigKey>().is_ok(),
            Self::Google => name.parse::<GoogleConfigKey>().is_ok(),
        }
    }

    /// Whether an option's value is the path of a file with a secret, which the store reads by itself.
    fn names_secret_file(self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match self {
            Self::Directory => false,
            Self::S3 => matches!(
                name.parse(),
                Ok(AmazonS3ConfigKey::WebIdentityTokenFile | AmazonS3ConfigKey::ContainerAuthorizationTokenFile)
            ),
            Self::Azure => matches!(name.parse(), Ok(AzureConfigKey::FederatedTokenFile)),
            Self::Google => {
                matches!(name.parse(), Ok(GoogleConfigKey::ServiceAccount | GoogleConfigKey::ApplicationCredentials))
            }
        }
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
