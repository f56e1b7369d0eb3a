//! From settings to a store.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use super::ObjectsError;
use crate::config::{ObjectsConfig, StoreOptions};

/// The kinds of stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    S3,
    Azure,
    Google,
}

impl Kind {
    /// Whether stores of this kind have an option of this name.
    fn knows(self, name: &str) -> bool {
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

/// The files that options name for their secrets.
pub(crate) fn secret_files(config: &ObjectsConfig) -> Vec<PathBuf> {
    let Ok(kind) = kind(config.url.as_deref()) else { return Vec::new() };
    let named = config.options.iter().filter_map(|(name, value)| match StoreOptions::in_file(name, value) {
        _ if kind.names_secret_file(name) => Some(PathBuf::from(value)),
        Some((_, path)) if !kind.knows(name) => Some(path),
        Some(_) | None => None,
    });
    named.collect()
}

/// Whether the settings name a store that there can be: the setting that is wrong, and why.
pub(crate) fn check_place(config: &ObjectsConfig) -> Result<(), (&'static str, String)> {
    let kind = kind(config.url.as_deref()).map_err(|why| ("objects.url", why))?;
    for (name, value) in config.options.iter() {
        let in_file = StoreOptions::in_file(name, value);
        if !kind.knows(name) && !in_file.is_some_and(|(name, _)| kind.knows(name)) {
            let why = match kind {
                Kind::Directory => format!("`{name}` has no meaning for a directory: set `objects.url`, or remove it"),
                Kind::S3 | Kind::Azure | Kind::Google => format!("this kind of store has no option `{name}`"),
            };
            return Err(("objects.options", why));
        }
    }
    Ok(())
}

fn kind(url: Option<&str>) -> Result<Kind, String> {
    let hint = "use `file:///directory`, `s3://bucket/prefix`, `az://container/prefix` or `gs://bucket/prefix`";
    let Some(url) = url else { return Ok(Kind::Directory) };
    let (scheme, rest) = url.split_once("://").ok_or(hint)?;
    let kind = match scheme {
        "file" if rest.starts_with('/') => Kind::Directory,
        "s3" => Kind::S3,
        "az" => Kind::Azure,
        "gs" => Kind::Google,
        _ => return Err(hint.into()),
    };
    if rest.trim_matches('/').is_empty() || rest.contains(['?', '#', '@']) {
        return Err(hint.into());
    }
    Ok(kind)
}

/// An open store.
pub(super) struct Place {
    pub(super) store: Arc<dyn ObjectStore>,
    /// Where in it.
    pub(super) prefix: Path,
    /// The directory, if it is one.
    pub(super) directory: Option<PathBuf>,
}

/// Opens the store.
pub(super) fn open(config: &ObjectsConfig, data_dir: &FilePath, is_synced: bool) -> Result<Place, ObjectsError> {
    let default = data_dir.join("objects");
    let url = config.url.clone().unwrap_or_else(|| format!("file://{}", default.display()));
    let refused = |why: String| ObjectsError::Place { url: url.clone(), why };
    let built = |source: object_store::Error| refused(source.to_string());
    let kind = kind(config.url.as_deref()).map_err(refused)?;
    let mut options = Vec::new();
    for (name, value) in config.options.iter() {
        match StoreOptions::in_file(name, value) {
            // Some options have such names by themselves.
            Some((file_of, path)) if !kind.knows(name) => {
                options.push((file_of.to_ascii_lowercase(), crate::files::read_secret(&path)?));
            }
            Some(_) | None => options.push((name.to_ascii_lowercase(), value.to_owned())),
        }
    }
    // Behind `scheme://bucket/`; nothing of it is encoded.
    let prefix = || url.splitn(4, '/').nth(3).unwrap_or_default();
    let store: Arc<dyn ObjectStore> = match kind {
        Kind::Directory => {
            let directory = config.url.as_deref().and_then(|url| url.strip_prefix("file://")).map(PathBuf::from);
            let directory = directory.unwrap_or(default);
            crate::files::make_private_directory(&directory)?;
            let store = LocalFileSystem::new_with_prefix(&directory).map_err(built)?.with_fsync(is_synced);
            return Ok(Place { store: Arc::new(store), prefix: Path::default(), directory: Some(directory) });
        }
        Kind::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(&url);
            for (name, value) in options {
                builder = builder.with_config(name.parse().map_err(built)?, value);
            }
            Arc::new(builder.build().map_err(built)?)
        }
        Kind::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(&url);
            for (name, value) in options {
                builder = builder.with_config(name.parse().map_err(built)?, value);
            }
            Arc::new(builder.build().map_err(built)?)
        }
        Kind::Google => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(&url);
            for (name, value) in options {
                builder = builder.with_config(name.parse().map_err(built)?, value);
            }
            Arc::new(builder.build().map_err(built)?)
        }
    };
    let prefix = Path::parse(prefix().trim_matches('/')).map_err(|error| refused(error.to_string()))?;
    Ok(Place { store, prefix, directory: None })
}
