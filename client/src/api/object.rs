//! Payloads that are kept outside of the rows: up and down in streams, going on where a connection broke.

use std::io::{self, Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::header::{HeaderMap, HeaderValue, IF_RANGE, RANGE};
use reqwest::{Method, Response};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::ObjectId;
use twinmesh_protocol::wire::{
    REPR_DIGEST, UPLOAD_COMPLETE, UPLOAD_OFFSET, UploadProgress, Uploaded, write_repr_digest,
};

use super::{ANSWER_TIMEOUT, Api, ApiError, NO_BODY, Query, SLOWEST_UPLOAD};

/// How much one request brings at most, so that none takes very long.
const PART_BYTES: u64 = 64 << 20;
/// How much of a file is read at once.
const READ_BYTES: usize = 256 << 10;
/// How often an upload is found at another place than it was thought to be, before that is an error: a request that
/// broke off may still be on its way.
const SURPRISES: u32 = 50;
/// The pause after each of them.
const SURPRISE_PAUSE: Duration = Duration::from_millis(200);
/// How often a download is taken up again where it broke off, without anything having come in between.
const BREAKS: u32 = 5;

/// What is to be uploaded.
#[derive(Clone)]
pub enum ObjectSource {
    /// Something in memory.
    Memory(Bytes),
    /// A file that does not change.
    File {
        /// Where it is.
        path: PathBuf,
        /// How long it is.
        size: u64,
    },
}

impl std::fmt::Debug for ObjectSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Memory(content) => f.debug_tuple("Memory").field(&content.len()).finish(),
            Self::File { path, size } => f.debug_struct("File").field("path", path).field("size", size).finish(),
        }
    }
}

impl ObjectSource {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(content) => content.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    /// Part of it as the body of a request.
    fn part(&self, from: u64, to: u64) -> reqwest::Body {
        match self {
            Self::Memory(content) => {
                let [from, to] = [from, to].map(|at| usize::try_from(at).unwrap_or(usize::MAX).min(content.len()));
                content.slice(from..to).into()
            }
            Self::File { path, .. } => {
                let path = path.clone();
                let pieces = futures::stream::once(async move { open(path, from, to).await });
                reqwest::Body::wrap_stream(pieces.try_flatten())
            }
        }
    }
}

/// Reads part of a file, apart from the threads that others wait on.
async fn open(path: PathBuf, from: u64, to: u64) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
    let open = move || {
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(from))?;
        Ok::<_, io::Error>(file.take(to - from))
    };
    let file = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??;
    let next = |mut file: io::Take<std::fs::File>| async move {
        let read = move || {
            let mut piece = vec![0; READ_BYTES];
            let length = file.read(&mut piece)?;
            piece.truncate(length);
            Ok::<_, io::Error>((file, piece))
        };
        let (file, piece) = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        Ok(if piece.is_empty() {
            if file.limit() > 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            None
        } else {
            Some((Bytes::from(piece), file))
        })
    };
    Ok(futures::stream::try_unfold(file, next).boxed())
}

impl Api {
    /// Begins an upload, of which nothing has been sent yet.
    ///
    /// # Errors
    /// When the caller may not upload, and as every request.
    pub async fn object_begin(&self) -> Result<ObjectId, ApiError> {
        let headers = header(UPLOAD_COMPLETE, "?0");
        let begun: Uploaded = self.request_with(Method::POST, "blobstream", &Query::new(), NO_BODY, headers).await?;
        Ok(begun.uuid)
    }

    /// Sends what is missing of an upload until it is whole. May be called again after an error, also by another
    /// process: it goes on where the coordinator says that it broke off.
    ///
    /// # Errors
    /// 404 when the upload was given up because nothing came for long; 400 when what arrived does not hash to
    /// `digest`; and as every request.
    pub async fn object_send(&self, id: ObjectId, source: &ObjectSource, digest: Digest) -> Result<(), ApiError> {
        let path = format!("blobstream/upload/{id}");
        let mut surprises = 0;
        loop {
            let progress: UploadProgress = self.request(Method::GET, &path, &Query::new(), NO_BODY).await?;
            if progress.complete {
                return Ok(());
            }
            let (from, size) = (progress.offset, source.size());
            let to = size.min(from.saturating_add(PART_BYTES));
            let mut headers = header(UPLOAD_OFFSET, &from.to_string());
            if to == size {
                headers.extend(header(UPLOAD_COMPLETE, "?1"));
                headers.extend(header(REPR_DIGEST, &write_repr_digest(digest)));
            }
            let part = to.saturating_sub(from);
            let patience = ANSWER_TIMEOUT + Duration::from_secs(part / SLOWEST_UPLOAD);
            let build = || {
                let request = self.builder(Method::PATCH, &path, &Query::new()).headers(headers.clone());
                // Without a length a proxy may read all of it first.
                request.header(reqwest::header::CONTENT_LENGTH, part).body(source.part(from, to.max(from)))
            };
            match self.send(&format!("PATCH /{path}"), patience, build).await {
                Ok(_) => surprises = 0,
                Err(error) if error.status() == Some(409) && surprises < SURPRISES => {
                    surprises += 1;
                    tokio::time::sleep(SURPRISE_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Uploads a payload and returns what stands for it in a task or a run.
    ///
    /// # Errors
    /// As [`Api::object_begin`] and [`Api::object_send`].
    pub async fn object_upload(&self, source: &ObjectSource, digest: Digest) -> Result<ObjectId, ApiError> {
        let id = self.object_begin().await?;
        self.object_send(id, source, digest).await?;
        Ok(id)
    }

    /// Downloads a payload, a piece at a time.
    ///
    /// # Errors
    /// 404 when there is none, or none that the caller may know of; and as every request.
    pub async fn object_open(&self, id: ObjectId) -> Result<ObjectReader, ApiError> {
        let path = format!("blobstream/{id}");
        let response = self.stream(&path, &Query::new(), HeaderMap::new()).await?;
        let size = response.content_length().unwrap_or(0);
        let tag = response.headers().get(reqwest::header::ETAG).cloned();
        Ok(ObjectReader { api: self.clone(), path, size, read: 0, tag, response: Some(response), breaks: 0 })
    }

    /// Downloads a payload into memory. Not more than `limit` bytes are taken.
    ///
    /// # Errors
    /// As [`Api::object_open`]; also when the payload is larger.
    pub async fn object_get(&self, id: ObjectId, limit: u64) -> Result<Vec<u8>, ApiError> {
        let mut reader = self.object_open(id).await?;
        let too_large = || ApiError::PayloadTooLarge { id, limit };
        if reader.size() > limit {
            return Err(too_large());
        }
        let mut content = Vec::with_capacity(usize::try_from(reader.size()).unwrap_or(0));
        while let Some(piece) = reader.next().await? {
            if (content.len() + piece.len()) as u64 > limit {
                return Err(too_large());
            }
            content.extend_from_slice(&piece);
        }
        Ok(content)
    }
}

/// A payload that is being downloaded. A connection that breaks is made anew, and the payload goes on behind what came.
#[derive(Debug)]
pub struct ObjectReader {
    api: Api,
    path: String,
    size: u64,
    read: u64,
    /// What the coordinator calls this content: should it be another when it goes on, it begins anew and is refused.
    tag: Option<HeaderValue>,
    response: Option<Response>,
    breaks: u32,
}

impl ObjectReader {
    /// How long the payload is, in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// When the connection breaks again and again, and as every request.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            if self.read >= self.size {
                return Ok(None);
            }
            let error = match self.try_next().await {
                Ok(piece) => {
                    self.read += piece.len() as u64;
                    self.breaks = 0;
                    return Ok(Some(piece));
                }
                Err(error) => error,
            };
            self.response = None;
            if !error.is_transient() || self.breaks >= BREAKS {
                return Err(error);
            }
            self.breaks += 1;
            tokio::time::sleep(Duration::from_millis(100) * 2_u32.pow(self.breaks)).await;
        }
    }

    async fn try_next(&mut self) -> Result<Bytes, ApiError> {
        let interrupted = |reason: String| ApiError::Interrupted { url: self.api.base().to_owned(), reason };
        let response = match &mut self.response {
            Some(response) => response,
            None => {
                let mut headers = HeaderMap::new();
                if let Ok(range) = HeaderValue::from_str(&format!("bytes={}-", self.read)) {
                    headers.insert(RANGE, range);
                }
                if let Some(tag) = &self.tag {
                    headers.insert(IF_RANGE, tag.clone());
                }
                let response = self.api.stream(&self.path, &Query::new(), headers).await?;
                if self.read > 0 && response.status() != reqwest::StatusCode::PARTIAL_CONTENT {
                    return Err(interrupted("the payload does not go on where it broke off".into()));
                }
                self.response.insert(response)
            }
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, response.chunk()).await {
            Ok(Ok(Some(piece))) => Ok(piece),
            Ok(Ok(None)) => Err(interrupted("the payload ended too early".into())),
            Ok(Err(error)) => Err(self.api.network_error(error)),
            Err(_) => Err(interrupted(format!("the payload paused for {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }
}

fn header(name: &'static str, value: &str) -> HeaderMap {
    let value = HeaderValue::from_str(value);
    value.into_iter().map(|value| (reqwest::header::HeaderName::from_static(name), value)).collect()
}
