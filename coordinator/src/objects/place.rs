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

/// Whether the settings name a store that there can be: the setting that is wrong, and why.
pub(crate) fn check_place(config: &ObjectsConfig) -> Result<(), (&'static str, String)> {
    let kind = kind(config.url.as_deref()).map_err(|why| ("objects.url", why))?;
    for (name, value) in config.options.iter() {
        let known = |name: &str| match kind {
            Kind::Directory => false,
            Kind::S3 => name.parse::<AmazonS3ConfigKey>().is_ok(),
            Kind::Azure => name.parse::<AzureConfigKey>().is_ok(),
            Kind::Google => name.parse::<GoogleConfigKey>().is_ok(),
        };
        let in_file = StoreOptions::in_file(name, value);
        if !known(&name.to_ascii_lowercase()) && !in_file.is_some_and(|(name, _)| known(&name.to_ascii_lowercase())) {
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

/// Opens the store: what it is, and where in it.
pub(super) fn open(
    config: &ObjectsConfig,
    data_dir: &FilePath,
    is_synced: bool,
) -> Result<(Arc<dyn ObjectStore>, Path), ObjectsError> {
    let default = data_dir.join("objects");
    let url = config.url.clone().unwrap_or_else(|| format!("file://{}", default.display()));
    let refused = |why: String| ObjectsError::Place { url: url.clone(), why };
    let built = |source: object_store::Error| refused(source.to_string());
    let kind = kind(config.url.as_deref()).map_err(refused)?;
    let mut options = Vec::new();
    for (name, value) in config.options.iter() {
        let is_known = match kind {
            Kind::Directory => true,
            Kind::S3 => name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>().is_ok(),
            Kind::Azure => name.to_ascii_lowercase().parse::<AzureConfigKey>().is_ok(),
            Kind::Google => name.to_ascii_lowercase().parse::<GoogleConfigKey>().is_ok(),
        };
        match StoreOptions::in_file(name, value) {
            // Some options have such names by themselves.
            Some((name, path)) if !is_known => {
                options.push((name.to_ascii_lowercase(), crate::files::read_secret(&path)?));
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
            return Ok((Arc::new(store), Path::default()));
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
    Ok((store, prefix))
}
