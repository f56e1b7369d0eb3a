//! Where large payloads are: a directory, or a bucket of a service.
//!
//! A payload is kept in segments of up to [`SEGMENT_BYTES`], each under its own SHA-256, so that no more than one is in
//! memory at a time, whoever continues an upload finds what others have stored, and equal content is kept once. Which
//! segments make a payload, and who needs them, stands in the database (`store::object`). A key is used once: what is
//! stored again after it was removed gets another, so that removing and storing never meet.

mod place;
mod sweep;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{GetOptions, GetResultPayload, ObjectStore, ObjectStoreExt as _};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::ReaderStream;
use twinmesh_protocol::digest::Digest;

use crate::config::ObjectsConfig;
use crate::tally::{Entry, Tally};

/// The most that a segment holds. Small enough that uploads need little memory, large enough that stores which count
/// requests do not cost much.
pub(crate) const SEGMENT_BYTES: usize = 4 << 20;
/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;
/// Uploads that are taken in at the same time; each has a segment in memory. Others wait.
const UPLOADS: usize = 64;
/// Uploads that one caller may have under way at the same time.
const UPLOADS_OF_ONE: usize = 8;

/// The error of using the store.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The store cannot be set up.
    #[error("cannot use the object store `{url}`: {why}")]
    Place {
        /// Where it is.
        url: String,
        /// Why, and what to try.
        why: String,
    },
    /// A file that an option names.
    #[error(transparent)]
    File(#[from] crate::FileError),
    /// The store refused or failed.
    #[error("the object store cannot {action}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: object_store::Error,
    },
    /// What was left over cannot be removed.
    #[error("cannot remove what was left over in the object store `{}`", path.display())]
    Sweep {
        /// Where it is.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The store returned something else than was put there.
    #[error("the object store does not return what was put there")]
    Altered,
}

/// A stored segment: its content's digest, and the number that keeps keys from being used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentKey {
    pub(crate) digest: Digest,
    pub(crate) number: i64,
}

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    /// Where the store is a directory.
    directory: Option<std::path::PathBuf>,
    settings: Settings,
    room: Arc<Semaphore>,
    uploads: Tally<String>,
}

/// What bounds payloads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) limit: u64,
    pub(crate) pending: u64,
    /// How many uploads of one organization may be unfinished.
    pub(crate) open_uploads: u64,
    pub(crate) idle: Duration,
    pub(crate) keep_unused: Duration,
    pub(crate) tidy_every: Duration,
    pub(crate) stock_clients: bool,
}

impl Objects {
    /// Opens the store that the settings name; asks nobody yet.
    pub(crate) fn open(
        config: &ObjectsConfig,
        data_dir: &std::path::Path,
        is_synced: bool,
    ) -> Result<Self, ObjectsError> {
        let place::Place { store, prefix, directory } = place::open(config, data_dir, is_synced)?;
        let settings = Settings {
            limit: config.limit.0,
            pending: config.pending.0,
            open_uploads: config.open_uploads.into(),
            idle: config.idle.0,
            keep_unused: config.keep_unused.0,
            tidy_every: config.tidy_every.0,
            stock_clients: config.stock_clients,
        };
        let room = Arc::new(Semaphore::new(UPLOADS));
        Ok(Self { store, prefix, directory, settings, room, uploads: Tally::default() })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Stores a segment. Doing so twice changes nothing.
    pub(crate) async fn put(&self, key: SegmentKey, content: Bytes) -> Result<(), ObjectsError> {
        self.store.put(&self.path(key), content.into()).await.map_err(|source| failed("store a segment", source))?;
        Ok(())
    }

    /// Part of a segment, a piece at a time.
    pub(crate) async fn get(
        &self,
        key: SegmentKey,
        range: Range<u64>,
    ) -> Result<BoxStream<'static, Result<Bytes, ObjectsError>>, ObjectsError> {
        read(&*self.store, &self.path(key), range).await
    }

    /// Removes a segment; that it is gone already is fine.
    pub(crate) async fn delete(&self, key: SegmentKey) -> Result<(), ObjectsError> {
        match self.store.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(failed("remove a segment", source)),
        }
    }

    /// Removes what was being written into a directory when a coordinator was killed, if that is so long ago; how many
    /// files. A bucket keeps nothing that is not whole.
    pub(crate) async fn sweep(&self, age: Duration) -> Result<u64, ObjectsError> {
        let Some(path) = self.directory.clone() else { return Ok(0) };
        let at = path.clone();
        let swept = tokio::task::spawn_blocking(move || sweep::sweep(&at, age)).await;
        swept
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|source| ObjectsError::Sweep { path, source })
    }

    /// Puts something into the store, reads it back and removes it.
    pub(crate) async fn try_out(&self) -> Result<(), ObjectsError> {
        let id = uuid::Uuid::new_v4();
        let path = self.prefix.clone().join("probe").join(id.to_string());
        let content = Bytes::copy_from_slice(id.as_bytes());
        self.store.put(&path, content.clone().into()).await.map_err(|source| failed("store", source))?;
        let mut back = Vec::new();
        let mut pieces = read(&*self.store, &path, 0..content.len() as u64).await?;
        while let Some(piece) = pieces.next().await {
            back.extend_from_slice(&piece?);
        }
        self.store.delete(&path).await.map_err(|source| failed("remove", source))?;
        if back == content { Ok(()) } else { Err(ObjectsError::Altered) }
    }

    /// A place among the uploads that are taken in; `None` when this caller has enough of them, or none came free in
    /// time.
    pub(crate) async fn take_place(&self, caller: String) -> Option<UploadPlace> {
        let own = self.uploads.enter(caller, UPLOADS_OF_ONE)?;
        let room = tokio::time::timeout(self.settings.idle, Arc::clone(&self.room).acquire_owned()).await;
        Some(UploadPlace { _room: room.ok()?.ok()?, _own: own })
    }

    fn path(&self, key: SegmentKey) -> Path {
        let digest = key.digest.to_string();
        let first = digest.get(..2).unwrap_or_default().to_owned();
        self.prefix.clone().join("sha256").join(first).join(format!("{digest}.{}", key.number))
    }
}

/// Part of what is stored, a piece at a time.
async fn read(
    store: &dyn ObjectStore,
    path: &Path,
    range: Range<u64>,
) -> Result<BoxStream<'static, Result<Bytes, ObjectsError>>, ObjectsError> {
    let unreadable = |source| failed("read a segment", source);
    if range.is_empty() {
        return Ok(futures::stream::empty().boxed());
    }
    let options = GetOptions::new().with_range(Some(range.clone()));
    let found = store.get_opts(path, options).await.map_err(unreadable)?;
    if found.range != range {
        return Err(ObjectsError::Altered);
    }
    match found.payload {
        GetResultPayload::File(file, _) => {
            let broken = move |source: std::io::Error| {
                unreadable(object_store::Error::Generic { store: "file", source: source.into() })
            };
            let mut file = tokio::fs::File::from_std(file);
            file.seek(std::io::SeekFrom::Start(range.start)).await.map_err(broken)?;
            let pieces = ReaderStream::with_capacity(file.take(range.end - range.start), READ_BYTES);
            Ok(pieces.map(move |piece| piece.map_err(broken)).boxed())
        }
        GetResultPayload::Stream(pieces) => Ok(pieces.map(move |piece| piece.map_err(unreadable)).boxed()),
    }
}

fn failed(action: &'static str, source: object_store::Error) -> ObjectsError {
    ObjectsError::Store { action, source }
}

/// A place among the uploads that are taken in.
#[derive(Debug)]
pub(crate) struct UploadPlace {
    _room: OwnedSemaphorePermit,
    _own: Entry<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;

    fn key(content: &[u8], number: i64) -> SegmentKey {
        SegmentKey { digest: Digest::of(content), number }
    }

    async fn whole(objects: &Objects, key: SegmentKey, range: Range<u64>) -> Vec<u8> {
        let mut pieces = objects.get(key, range).await.unwrap();
        let mut content = Vec::new();
        while let Some(piece) = pieces.next().await {
            content.extend_from_slice(&piece.unwrap());
        }
        content
    }

    #[tokio::test]
    async fn what_is_stored_is_read_in_part_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let objects = Objects::open(&ObjectsConfig::default(), directory.path(), true).unwrap();
        objects.try_out().await.unwrap();
        let content: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let (first, second) = (key(&content, 1), key(&content, 2));
        objects.put(first, content.clone().into()).await.unwrap();
        objects.put(second, content.clone().into()).await.unwrap();
        assert_eq!(whole(&objects, first, 0..1_000_000).await, content);
        assert_eq!(whole(&objects, first, 299_999..700_001).await, content[299_999..700_001]);
        assert_eq!(whole(&objects, first, 5..5).await, b"");
        assert!(matches!(objects.get(first, 0..1_000_001).await, Err(ObjectsError::Altered)));
        objects.delete(first).await.unwrap();
        objects.delete(first).await.unwrap();
        assert!(objects.get(first, 0..1).await.is_err());
        assert_eq!(whole(&objects, second, 0..1).await, content[..1], "another key, another segment");
    }

    /// As much of the protocol as is needed: PUT, GET of a range, DELETE, and who asks.
    async fn bucket() -> (String, Arc<Mutex<BTreeMap<String, Bytes>>>) {
        use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
        let kept: Arc<Mutex<BTreeMap<String, Bytes>>> = Arc::default();
        let answer = {
            let kept = Arc::clone(&kept);
            move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
                let signed =
                    headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
                if !signed.starts_with("AWS4-HMAC-SHA256 Credential=somebody/") {
                    return (StatusCode::FORBIDDEN, HeaderMap::new(), Bytes::new());
                }
                let mut kept = kept.lock().unwrap();
                let mut told = HeaderMap::new();
                told.insert(header::ETAG, "\"tag\"".parse().unwrap());
                told.insert(header::LAST_MODIFIED, "Mon, 23 Nov 2026 09:11:00 GMT".parse().unwrap());
                match method {
                    Method::PUT => {
                        kept.insert(uri.path().to_owned(), body);
                        (StatusCode::OK, told, Bytes::new())
                    }
                    Method::DELETE => {
                        kept.remove(uri.path());
                        (StatusCode::NO_CONTENT, told, Bytes::new())
                    }
                    _ => match (kept.get(uri.path()), headers.get(header::RANGE)) {
                        (Some(content), Some(range)) => {
                            let (from, to) = range.to_str().unwrap()["bytes=".len()..].split_once('-').unwrap();
                            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
                            let text = format!("bytes {from}-{to}/{}", content.len());
                            told.insert(header::CONTENT_RANGE, text.parse().unwrap());
                            (StatusCode::PARTIAL_CONTENT, told, content.slice(from..=to))
                        }
                        (Some(content), None) => (StatusCode::OK, told, content.clone()),
                        (None, _) => (StatusCode::NOT_FOUND, told, Bytes::new()),
                    },
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = axum::Router::new().fallback(answer);
        tokio::spawn(async move { axum::serve(listener, router).await });
        (format!("http://{address}"), kept)
    }

    #[tokio::test]
    async fn a_bucket_is_used_as_a_directory_is() {
        let directory = tempfile::tempdir().unwrap();
        let (endpoint, kept) = bucket().await;
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "whispered\n").unwrap();
        let options = crate::config::StoreOptions::default()
            .with("endpoint", endpoint)
            .with("allow_http", "true")
            .with("region", "here")
            .with("disable_bulk_delete", "true")
            .with("access_key_id", "somebody")
            .with("secret_access_key_file", secret.display().to_string());
        let config = ObjectsConfig { url: Some("s3://payloads/of/ours".into()), options, ..ObjectsConfig::default() };
        crate::config::Config { objects: config.clone(), ..Default::default() }.check().unwrap();
        let objects = Objects::open(&config, directory.path(), true).unwrap();
        objects.try_out().await.unwrap();
        let content = Bytes::from(vec![7; 300_000]);
        let first = key(&content, 1);
        objects.put(first, content.clone()).await.unwrap();
        assert_eq!(whole(&objects, first, 10..299_999).await, content[10..299_999]);
        let path = format!("/payloads/of/ours/sha256/{}/{}.1", &first.digest.to_string()[..2], first.digest);
        assert_eq!(kept.lock().unwrap().keys().collect::<Vec<_>>(), [&path]);
        objects.delete(first).await.unwrap();
        assert!(kept.lock().unwrap().is_empty());
        assert!(matches!(objects.get(first, 0..1).await, Err(ObjectsError::Store { .. })));
    }

    #[tokio::test]
    async fn a_caller_has_some_uploads_under_way_and_no_more() {
        let directory = tempfile::tempdir().unwrap();
        let objects = Objects::open(&ObjectsConfig::default(), directory.path(), false).unwrap();
        let mut places = Vec::new();
        for _ in 0..UPLOADS_OF_ONE {
            places.push(objects.take_place("user:1".into()).await.unwrap());
        }
        assert!(objects.take_place("user:1".into()).await.is_none());
        assert!(objects.take_place("user:2".into()).await.is_some());
        places.pop();
        assert!(objects.take_place("user:1".into()).await.is_some());
        drop(places);
        assert!(objects.uploads.is_empty());
        assert_eq!(objects.room.available_permits(), UPLOADS);
    }
}
