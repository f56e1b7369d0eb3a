use std::time::Duration;

use axum::Json;
use axum::body::Body as HttpBody;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures::StreamExt as _;
use sha2::digest::common::hazmat::SerializableState as _;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tracing::Instrument as _;
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{ObjectId, OrganizationId};
use twinmesh_protocol::payload::{OBJECT_HEAD_BYTES, classify_object};
use twinmesh_protocol::wire::{
    REPR_DIGEST, UPLOAD_COMPLETE, UPLOAD_OFFSET, UploadProgress, Uploaded, read_flag, read_repr_digest,
};

use super::download::pieces;
use super::{find, missing, target};
use crate::authz::Target;
use crate::authz::action::{HandleUpload, UploadInput, UploadPayload};
use crate::authz::actor::Who;
use crate::http::AppState;
use crate::http::caller::{Caller, Visitor};
use crate::http::path::Id;
use crate::http::problem::Problem;
use crate::objects::{ObjectsError, SEGMENT_BYTES, UploadPlace};
use crate::store::object::{Added, ObjectRecord, ObjectStage, Upload, UploadPermit, Uploader};
use crate::store::{self, Tx};

/// How many pauses a segment may take to arrive: who sends a byte now and then does not hold a place for ever.
const PAUSES: u32 = 20;

/// After how many bytes it is asked again what else the organization has uploaded: adding it up takes longer the more
/// there is.
const RECKONED_EVERY: u64 = 16 * SEGMENT_BYTES as u64;

/// Takes in a payload, or begins to.
#[utoipa::path(
    post, path = "/blobstream", tag = "object",
    params(
        ("upload-complete" = Option<String>, Header,
            description = "`?0` where the payload goes on with further requests, `?1` where it may have to"),
        ("repr-digest" = Option<String>, Header, description = "What the whole hashes to (RFC 9530)"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = Uploaded),
        (status = 413, description = "The payload is larger than the operator allows, or too much was uploaded that belongs to no run"),
        (status = 429, description = "Too many uploads are under way, or begun and not ended"),
    ),
)]
#[tracing::instrument(name = "http.object.create", skip_all)]
pub(super) async fn create(visitor: Visitor, headers: HeaderMap, body: HttpBody) -> Result<Response, Problem> {
    let ask = Ask::read(&headers)?;
    let state = visitor.state.clone();
    let settings = *state.objects().settings();
    check_size(ask.length.unwrap_or(0), settings.limit)?;

    let mut caller = visitor.begin_read().await?;
    let permit = permit(&caller)?;
    let organization = caller.actor.organization;
    let allowed = Allowed::reckon(&mut caller.tx, organization, settings.pending).await?;
    let uploader = Uploader::of(&caller.actor);
    let (who, now) = (caller.actor.key(), caller.now);
    // Nothing is held while a place or the body is waited for.
    drop(caller);

    let place = take_place(&state, who).await?;
    let id = ObjectId::from_u128(uuid::Uuid::new_v4().as_u128());
    let mut tx = state.store().note().await?;
    let (hash, most) = (save(&Sha256::new()), settings.open_uploads);
    let begun = store::object::object_insert(&mut tx, permit, uploader, id, hash, most, now).await?;
    let upload = begun.ok_or_else(too_many_open)?;
    tx.commit().await?;
    let can_go_on = ask.complete.is_some();
    let is_last = ask.complete.unwrap_or(true);
    let intake =
        Intake { state: state.clone(), upload, allowed, digest: ask.digest, is_last, can_go_on, _place: place };
    let taken = intake.take_in(body).await?;
    let location = format!("{}/blobstream/upload/{id}", state.api_path());
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], told(taken), Json(Uploaded { uuid: id })).into_response())
}

/// Goes on with an upload.
#[utoipa::path(
    patch, path = "/blobstream/upload/{id}", tag = "object",
    params(
        ("id" = ObjectId, Path),
        ("upload-offset" = u64, Header, description = "Where the upload goes on, in bytes"),
        ("upload-complete" = Option<String>, Header, description = "`?1` in the last request"),
        ("repr-digest" = Option<String>, Header, description = "What the whole hashes to (RFC 9530)"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = UploadProgress),
        (status = 409, description = "The upload is at another place"),
        (status = 413, description = "The payload is larger than the operator allows, or too much was uploaded that belongs to no run"),
        (status = 429, description = "Too many uploads are under way"),
    ),
)]
#[tracing::instrument(name = "http.object.resume", skip_all, fields(object.id = %id))]
pub(super) async fn resume(
    visitor: Visitor,
    Id(id): Id<ObjectId>,
    headers: HeaderMap,
    body: HttpBody,
) -> Result<Response, Problem> {
    let ask = Ask::read(&headers)?;
    let offset = ask.offset.ok_or_else(|| {
        Problem::bad_request("invalid_upload", "The header Upload-Offset must say where the upload goes on")
    })?;
    let state = visitor.state.clone();
    check_size(offset.saturating_add(ask.length.unwrap_or(0)), state.objects().settings().limit)?;
    let mut caller = visitor.begin_read().await?;
    let object = find(&mut caller, id).await?;
    let permit = caller.permit::<HandleUpload>(id, &target(&object, &caller)).map_err(|_| missing(id))?;
    let who = caller.actor.key();
    let (organization, pending) = (object.organization_id, state.objects().settings().pending);
    let allowed = match ask.length {
        // It only says that this was all.
        Some(0) => Allowed { organization, bytes: 0 },
        Some(_) | None => Allowed::reckon(&mut caller.tx, organization, pending).await?,
    };
    drop(caller);
    let upload = match store::object::upload_open(permit, &object) {
        Some(upload) if upload.size == offset => upload,
        Some(_) | None => return Ok(conflict(progress(&object))),
    };
    let place = take_place(&state, who).await?;
    let is_last = ask.complete.unwrap_or(false);
    let intake = Intake { state, upload, allowed, digest: ask.digest, is_last, can_go_on: true, _place: place };
    let taken = intake.take_in(body).await?;
    Ok((told(taken), Json(taken)).into_response())
}

/// How far an upload is.
#[utoipa::path(
    get, path = "/blobstream/upload/{id}", tag = "object",
    params(("id" = ObjectId, Path)),
    responses((status = 200, body = UploadProgress)),
)]
pub(super) async fn offset(mut caller: Caller, Id(id): Id<ObjectId>) -> Result<Response, Problem> {
    let object = find(&mut caller, id).await?;
    caller.permit::<HandleUpload>(id, &target(&object, &caller)).map_err(|_| missing(id))?;
    let progress = progress(&object);
    Ok((told(progress), [(header::CACHE_CONTROL, "no-store")], Json(progress)).into_response())
}

/// Forgets an upload that belongs to no run.
#[utoipa::path(
    delete, path = "/blobstream/upload/{id}", tag = "object",
    params(("id" = ObjectId, Path)),
    responses((status = 204), (status = 409, description = "It belongs to a run")),
)]
#[tracing::instrument(name = "http.object.discard", skip_all, fields(object.id = %id))]
pub(super) async fn discard(mut caller: Caller, Id(id): Id<ObjectId>) -> Result<Response, Problem> {
    let object = find(&mut caller, id).await?;
    let permit = caller.permit::<HandleUpload>(id, &target(&object, &caller)).map_err(|_| missing(id))?;
    let now = caller.now;
    if !store::object::object_discard(&mut caller.tx, permit, &object, now).await? {
        return Err(Problem::new(StatusCode::CONFLICT, "upload_in_use", "The payload belongs to a run"));
    }
    caller.commit().await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What the headers of an upload say.
#[derive(Debug)]
pub(super) struct Ask {
    /// Whether the request brings the upload's end; absent where the payload comes whole and cannot be gone on with.
    complete: Option<bool>,
    offset: Option<u64>,
    digest: Option<Digest>,
    /// The length of this request's body.
    length: Option<u64>,
}

impl Ask {
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Problem> {
        fn given<T>(
            headers: &HeaderMap,
            name: &'static str,
            read: impl Fn(&str) -> Option<T>,
        ) -> Result<Option<T>, Problem> {
            let Some(value) = headers.get(name) else { return Ok(None) };
            match value.to_str().ok().and_then(read) {
                Some(value) => Ok(Some(value)),
                None => Err(Problem::bad_request("invalid_upload", format!("The header {name} does not read"))),
            }
        }
        let number = |text: &str| text.trim().parse().ok();
        Ok(Self {
            complete: given(headers, UPLOAD_COMPLETE, read_flag)?,
            offset: given(headers, UPLOAD_OFFSET, number)?,
            digest: given(headers, REPR_DIGEST, read_repr_digest)?,
            length: given(headers, "content-length", number)?,
        })
    }
}

fn permit(caller: &Caller) -> Result<UploadPermit, Problem> {
    let organization = caller.actor.organization;
    let target = Target::organization(organization, caller.actor.collaborations.iter().copied());
    Ok(match &caller.actor.who {
        Who::User { .. } => UploadPermit::Input(caller.permit::<UploadInput>(organization, &target)?),
        Who::Node { .. } | Who::Container(_) => {
            UploadPermit::Payload(caller.permit::<UploadPayload>(organization, &target)?)
        }
    })
}

async fn take_place(state: &AppState, who: String) -> Result<UploadPlace, Problem> {
    state.objects().take_place(who).await.ok_or_else(|| {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", "There are too many uploads under way")
            .with_detail("Try again when one of them has ended.")
    })
}

fn too_many_open() -> Problem {
    let msg = "Your organization has begun too many uploads that have not ended";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", msg)
        .with_detail("End or discard some of them; the operator may raise `objects.open_uploads`.")
}

/// What an organization may still upload that belongs to no run.
#[derive(Debug, Clone, Copy)]
struct Allowed {
    organization: OrganizationId,
    /// In bytes, until it is reckoned again.
    bytes: u64,
}

impl Allowed {
    /// Reckons it from what is there.
    async fn reckon(tx: &mut Tx, organization: OrganizationId, pending: u64) -> Result<Self, Problem> {
        let there = store::object::pending_bytes(tx.conn(), organization).await?;
        if there >= pending {
            return Err(too_much_pending());
        }
        Ok(Self { organization, bytes: (pending - there).min(RECKONED_EVERY) })
    }
}

fn too_much_pending() -> Problem {
    let msg = "Your organization has uploaded too much that belongs to no run";
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "uploads_pending", msg)
        .with_detail("What is not used is removed after a while; the operator may raise `objects.pending`.")
}

fn check_size(size: u64, limit: u64) -> Result<(), Problem> {
    if size > limit { Err(too_large(limit)) } else { Ok(()) }
}

fn too_large(limit: u64) -> Problem {
    let msg = format!("A payload may have up to {limit} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", msg)
}

fn progress(object: &ObjectRecord) -> UploadProgress {
    let complete = matches!(object.stage, ObjectStage::Complete { .. });
    UploadProgress { uuid: object.id, offset: object.size, complete }
}

fn conflict(progress: UploadProgress) -> Response {
    let problem = Problem::new(StatusCode::CONFLICT, "upload_elsewhere", "The upload is not at this place")
        .with_detail("Ask how far it is, and go on there.");
    (told(progress), problem).into_response()
}

fn told(progress: UploadProgress) -> [(HeaderName, String); 2] {
    let flag = if progress.complete { "?1" } else { "?0" };
    [
        (HeaderName::from_static(UPLOAD_OFFSET), progress.offset.to_string()),
        (HeaderName::from_static(UPLOAD_COMPLETE), flag.to_owned()),
    ]
}

/// Takes in the body of one request.
struct Intake {
    state: AppState,
    upload: Upload,
    allowed: Allowed,
    /// What the whole must hash to.
    digest: Option<Digest>,
    /// Whether the body's end is the upload's end.
    is_last: bool,
    /// Whether what has arrived is kept if the body breaks off.
    can_go_on: bool,
    /// Held for as long as the body is taken in.
    _place: UploadPlace,
}

/// Why a body was not taken in to its end.
enum Broken {
    /// The sender went away, or was too slow.
    Off(Problem),
    /// What was sent is refused as a whole.
    Refused(Problem),
    /// We failed, or somebody else goes on with the upload.
    Failed(Problem),
}

impl<E: Into<Problem>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl From<ObjectsError> for Problem {
    fn from(error: ObjectsError) -> Self {
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        tracing::error!(cause, "{error}");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "object_store", "Large payloads cannot be kept at the moment")
    }
}

impl Intake {
    /// Works apart from the request, whose end must not cut off what has arrived.
    async fn take_in(self, body: HttpBody) -> Result<UploadProgress, Problem> {
        let work = tokio::spawn(self.run(body).in_current_span());
        work.await.map_err(|error| Problem::internal(&error))?
    }

    async fn run(mut self, body: HttpBody) -> Result<UploadProgress, Problem> {
        let outcome = self.work(body).await;
        let (problem, keeps) = match outcome {
            Ok(taken) => return Ok(taken),
            Err(Broken::Off(problem)) => (problem, self.can_go_on),
            Err(Broken::Refused(problem)) => (problem, false),
            // What has been kept is whole, whatever happened.
            Err(Broken::Failed(problem)) => (problem, self.can_go_on),
        };
        if !keeps {
            let now = self.state.now();
            let mut tx = self.state.store().note().await?;
            store::object::upload_drop(&mut tx, &self.upload, now).await?;
            tx.commit().await?;
        }
        Err(problem)
    }

    async fn work(&mut self, body: HttpBody) -> Result<UploadProgress, Broken> {
        let settings = *self.state.objects().settings();
        let mut hash = restore(&self.upload.hash_state)?;
        let mut pieces = body.into_data_stream();
        let mut buffer = BytesMut::new();
        let mut patience = Instant::now() + settings.idle * PAUSES;
        let ended = loop {
            let pause = patience.min(Instant::now() + settings.idle);
            let next = tokio::select! {
                next = tokio::time::timeout_at(pause, pieces.next()) => next,
                () = self.state.shutdown().cancelled() => break Err(Broken::Off(stopping())),
            };
            let mut piece = match next {
                Err(_) => break Err(Broken::Off(too_slow(settings.idle))),
                Ok(None) => break Ok(()),
                Ok(Some(Err(_))) => break Err(Broken::Off(cut_short())),
                Ok(Some(Ok(piece))) => piece,
            };
            if self.upload.size + (buffer.len() + piece.len()) as u64 > settings.limit {
                return Err(Broken::Refused(too_large(settings.limit)));
            }
            while !piece.is_empty() {
                if buffer.capacity() == 0 {
                    buffer = BytesMut::with_capacity(SEGMENT_BYTES);
                }
                let taken = piece.split_to(piece.len().min(SEGMENT_BYTES - buffer.len()));
                buffer.extend_from_slice(&taken);
                if buffer.len() == SEGMENT_BYTES {
                    hash = self.keep(hash, std::mem::take(&mut buffer).freeze()).await?;
                    patience = Instant::now() + settings.idle * PAUSES;
                }
            }
        };
        if !buffer.is_empty() && (ended.is_ok() || self.can_go_on) {
            hash = self.keep(hash, buffer.freeze()).await?;
        }
        ended?;
        if self.is_last {
            self.finish(hash).await?;
        }
        Ok(UploadProgress { uuid: self.upload.id, offset: self.upload.size, complete: self.is_last })
    }

    /// Takes so many bytes of what the organization may upload. Others of its uploads may be under way, so it is reckoned
    /// anew now and then.
    async fn spend(&mut self, length: u64) -> Result<(), Broken> {
        if self.allowed.bytes < length {
            let pending = self.state.objects().settings().pending;
            let mut tx = self.state.store().read().await?;
            self.allowed = Allowed::reckon(&mut tx, self.allowed.organization, pending).await.map_err(Broken::Off)?;
        }
        self.allowed.bytes = self.allowed.bytes.checked_sub(length).ok_or_else(|| Broken::Off(too_much_pending()))?;
        Ok(())
    }

    /// Stores a segment, then notes that it is part of the upload.
    async fn keep(&mut self, hash: Sha256, content: Bytes) -> Result<Sha256, Broken> {
        let length = content.len() as u64;
        self.spend(length).await?;
        let hashed = content.clone();
        // Takes milliseconds, for which others should not wait.
        let hashing = tokio::task::spawn_blocking(move || (Digest::of(&hashed), hash.chain_update(&hashed)));
        let (digest, hash) = hashing.await.map_err(|error| Problem::internal(&error))?;
        let hash_state = save(&hash);
        let (state, objects) = (self.state.clone(), self.state.objects().clone());
        loop {
            let mut tx = state.store().note().await?;
            let reserved = store::object::segment_reserve(&mut tx, digest, length, state.now()).await?;
            tx.commit().await?;
            if !reserved.stored {
                objects.put(reserved.key, content.clone()).await.map_err(Problem::from)?;
            }
            let mut tx = state.store().note().await?;
            let now = state.now();
            match store::object::segment_add(&mut tx, &self.upload, reserved.key, length, &hash_state, now).await? {
                Added::Kept => tx.commit().await?,
                // Storing it took so long that it was taken for left behind.
                Added::Lost => continue,
                Added::Moved => return Err(Broken::Failed(moved())),
                Added::TooMany => return Err(Broken::Refused(too_many())),
            }
            self.upload.size += length;
            self.upload.hash_state = hash_state;
            return Ok(hash);
        }
    }

    async fn finish(&mut self, hash: Sha256) -> Result<(), Broken> {
        let digest = Digest::from_bytes(hash.finalize().into());
        if self.digest.is_some_and(|announced| announced != digest) {
            let problem =
                Problem::bad_request("digest_mismatch", "What arrived does not hash to what Repr-Digest announced");
            return Err(Broken::Refused(problem));
        }
        let mut tx = self.state.store().read().await?;
        let segments = store::object::upload_segments(tx.conn(), &self.upload).await?;
        drop(tx);
        let mut head = Vec::new();
        let start = pieces(self.state.objects().clone(), segments, 0..OBJECT_HEAD_BYTES as u64);
        let mut start = std::pin::pin!(start);
        while let Some(piece) = start.next().await {
            head.extend_from_slice(&piece.map_err(Problem::from)?);
        }
        let mut tx = self.state.store().note().await?;
        let now = self.state.now();
        let is_finished =
            store::object::upload_finish(&mut tx, &self.upload, digest, classify_object(&head), now).await?;
        if !is_finished {
            return Err(Broken::Failed(moved()));
        }
        tx.commit().await?;
        tracing::info!(object.id = %self.upload.id, size_bytes = self.upload.size, "payload uploaded");
        Ok(())
    }
}

/// The state of a hash as text, so that whoever goes on with the upload need not read again what is there.
fn save(hash: &Sha256) -> String {
    HEXLOWER.encode(&hash.serialize())
}

fn restore(text: &str) -> Result<Sha256, Problem> {
    let state = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.as_slice().try_into().ok());
    let hash = state.and_then(|state| Sha256::deserialize(&state).ok());
    hash.ok_or_else(|| {
        Problem::from(store::StoreError::Corrupt { value: text.into(), expected: "the state of a SHA-256" })
    })
}

fn too_slow(idle: Duration) -> Problem {
    let msg = format!("Nothing came for {} s, or very little for long", idle.as_secs());
    Problem::new(StatusCode::REQUEST_TIMEOUT, "upload_too_slow", msg)
}

fn cut_short() -> Problem {
    Problem::bad_request("body_unreadable", "The request body ended too early")
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "The coordinator is stopping")
}

fn moved() -> Problem {
    Problem::new(StatusCode::CONFLICT, "upload_elsewhere", "Somebody else went on with this upload, or discarded it")
}

fn too_many() -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_pieces", "The upload came in too many pieces")
}
