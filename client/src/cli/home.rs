//! The folder of the log-in, the private key and the pinned keys.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use twinmesh_protocol::wire::TokenPair;

use super::args::Global;
use super::exit::CliError;
use crate::api::{Api, ApiOptions, TokenStore};
use crate::file;

/// The folder, and the names of its files.
#[derive(Debug)]
pub(super) struct Home {
    folder: PathBuf,
    key: Option<PathBuf>,
}

/// A log-in, as it is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogIn {
    /// The coordinator's base address.
    pub(super) server: String,
    pub(super) username: String,
    /// A further authority for the coordinator's TLS certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ca: Option<PathBuf>,
    /// Absent after log-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tokens: Option<TokenPair>,
}

impl LogIn {
    pub(super) fn options(&self) -> anyhow::Result<ApiOptions> {
        let root_certificate = match &self.ca {
            Some(path) => {
                Some(fs::read(path).with_context(|| format!("cannot read the authority `{}`", path.display()))?)
            }
            None => None,
        };
        Ok(ApiOptions { root_certificate, token_store: None })
    }
}

impl Home {
    pub(super) fn new(global: &Global) -> anyhow::Result<Self> {
        let folder = match &global.home {
            Some(folder) => folder.clone(),
            None => default_folder().ok_or_else(|| CliError::Usage {
                what: "cannot tell where to keep the log-in: neither HOME nor XDG_CONFIG_HOME is set".into(),
                hint: "name a folder with --home or TWINMESH_HOME",
            })?,
        };
        Ok(Self { folder, key: global.key.clone() })
    }

    pub(super) fn key_path(&self) -> PathBuf {
        self.key.clone().unwrap_or_else(|| self.folder.join("private_key.pem"))
    }

    /// Organizations have other ids and keys at another coordinator, hence a file for each.
    pub(super) fn pins_path(&self) -> anyhow::Result<PathBuf> {
        let server = self.log_in()?.ok_or(CliError::NotLoggedIn)?.server;
        let name: String =
            server.chars().map(|character| if character.is_ascii_alphanumeric() { character } else { '-' }).collect();
        Ok(self.folder.join(format!("pins-{name}.json")))
    }

    pub(super) fn log_in_path(&self) -> PathBuf {
        self.folder.join("login.json")
    }

    /// The log-in that is kept, if any.
    pub(super) fn log_in(&self) -> anyhow::Result<Option<LogIn>> {
        let path = self.log_in_path();
        match read_log_in(&path) {
            Ok(log_in) => Ok(log_in),
            Err(error) => Err(error).with_context(|| format!("cannot read the log-in `{}`", path.display())),
        }
    }

    pub(super) fn keep(&self, log_in: &LogIn) -> anyhow::Result<()> {
        let path = self.log_in_path();
        write_log_in(&path, log_in).with_context(|| format!("cannot write the log-in `{}`", path.display()))
    }

    pub(super) fn api(&self) -> anyhow::Result<Api> {
        let log_in = self.log_in()?.ok_or(CliError::NotLoggedIn)?;
        if log_in.tokens.is_none() {
            return Err(CliError::NotLoggedIn.into());
        }
        let mut options = log_in.options()?;
        options.token_store = Some(Arc::new(LogInFile { path: self.log_in_path() }));
        Ok(Api::new(&log_in.server, options)?)
    }
}

fn default_folder() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = named("XDG_CONFIG_HOME").or_else(|| named("HOME").map(|home| home.join(".config")))?;
    Some(config.join("twinmesh"))
}

fn read_log_in(path: &Path) -> io::Result<Option<LogIn>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_log_in(path: &Path, log_in: &LogIn) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(log_in)?;
    bytes.push(b'\n');
    file::replace_private(path, &bytes)
}

/// Keeps renewed tokens in the file of the log-in.
#[derive(Debug)]
struct LogInFile {
    path: PathBuf,
}

impl TokenStore for LogInFile {
    fn load(&self) -> Option<TokenPair> {
        read_log_in(&self.path).ok()??.tokens
    }

    fn save(&self, tokens: &TokenPair) {
        let saved = read_log_in(&self.path).and_then(|log_in| match log_in {
            Some(log_in) => write_log_in(&self.path, &LogIn { tokens: Some(tokens.clone()), ..log_in }),
            // Logged out by another process: the token is not kept.
            None => Ok(()),
        });
        if let Err(error) = saved {
            tracing::warn!("cannot keep the renewed token in `{}`: {error}", self.path.display());
        }
    }
}
