//! From settings to a store.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;

use super::ObjectsError;
use crate::config::{ObjectsConfig, StoreKind, StoreOptions};

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
    let kind = config.kind().map_err(refused)?;
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
        StoreKind::Directory => {
            let directory = config.url.as_deref().and_then(|url| url.strip_prefix("file://")).map(PathBuf::from);
            let directory = directory.unwrap_or(default);
            crate::files::make_private_directory(&directory)?;
            let store = LocalFileSystem::new_with_prefix(&directory).map_err(built)?.with_fsync(is_synced);
            return Ok(Place { store: Arc::new(store), prefix: Path::default(), directory: Some(directory) });
        }
        StoreKind::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(&url);
            for (name, value) in options {
                builder = builder.with_config(name.parse().map_err(built)?, value);
            }
            Arc::new(builder.build().map_err(built)?)
        }
        StoreKind::Azure => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(&url);
            for (name, value) in options {
                builder = builder.with_config(name.parse().map_err(built)?, value);
            }
            Arc::new(builder.build().map_err(built)?)
        }
        StoreKind::Google => {
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
