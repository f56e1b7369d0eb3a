//! The object store that the tests use: a directory, or a bucket where every test has a place of its own.

use std::path::Path;

use futures::StreamExt as _;
use twinmesh_coordinator::config::{ObjectsConfig, StoreOptions};

/// The variable that holds the URL of a bucket to be tested on; `tests/buckets.sh` starts emulators of services and sets
/// it.
const VARIABLE: &str = "TWINMESH_TEST_BUCKET";
/// What the store is to be told: `name=value`, separated by blanks.
const OPTIONS: &str = "TWINMESH_TEST_BUCKET_OPTIONS";

/// Whether this is a test on a bucket.
pub(crate) fn is_bucket() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// The store of a coordinator with this data directory: the same whenever it is asked for.
pub(crate) fn objects(directory: &Path) -> ObjectsConfig {
    let Ok(bucket) = std::env::var(VARIABLE) else { return ObjectsConfig::default() };
    let note = directory.join("test-bucket");
    let url = std::fs::read_to_string(&note).unwrap_or_else(|_| {
        let url = format!("{bucket}/{}", uuid::Uuid::new_v4().simple());
        std::fs::write(&note, &url).unwrap();
        url
    });
    let options = options().into_iter().fold(StoreOptions::default(), |all, (name, value)| all.with(name, value));
    ObjectsConfig { url: Some(url), options, ..ObjectsConfig::default() }
}

/// The same as variables for a process.
pub(crate) fn environment(directory: &Path) -> Vec<(String, String)> {
    let url = objects(directory).url.map(|url| ("COORDINATOR__OBJECTS__URL".to_owned(), url));
    let option = |(name, value): (String, String)| {
        (format!("COORDINATOR__OBJECTS__OPTIONS__{}", name.to_ascii_uppercase()), value)
    };
    url.into_iter().chain(options().into_iter().map(option)).collect()
}

/// How many objects are stored.
pub(crate) async fn stored(directory: &Path) -> usize {
    match objects(directory).url {
        None => count(&directory.join("objects")),
        Some(url) => {
            let url = url.parse::<reqwest::Url>().unwrap();
            let (store, place) = object_store::parse_url_opts(&url, options().into_iter().map(in_clear)).unwrap();
            store.list(Some(&place)).map(Result::unwrap).count().await
        }
    }
}

/// What the coordinator reads from a file, the library wants to be told.
fn in_clear((name, value): (String, String)) -> (String, String) {
    match name.strip_suffix("_file") {
        Some(name) => (name.to_owned(), std::fs::read_to_string(value).unwrap().trim_end().to_owned()),
        None => (name, value),
    }
}

fn options() -> Vec<(String, String)> {
    let options = std::env::var(OPTIONS).unwrap_or_default();
    let pair = |option: &str| option.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    options.split_whitespace().map(|option| pair(option).unwrap()).collect()
}

fn count(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
}
