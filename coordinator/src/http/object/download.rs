use std::ops::Range;

use axum::body::Body as HttpBody;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use twinmesh_protocol::id::ObjectId;
use twinmesh_protocol::wire::{REPR_DIGEST, write_repr_digest};

use super::range::{Wanted, read};
use super::{find, missing, target};
use crate::authz::action::{HandleUpload, ViewRun};
use crate::http::caller::Caller;
use crate::http::path::Id;
use crate::http::problem::Problem;
use crate::http::run;
use crate::objects::{Objects, ObjectsError, SegmentKey};
use crate::store;
use crate::store::object::{ObjectRecord, ObjectStage};

/// A payload, or part of it, to who may see its run; before it has one, to who uploaded it.
#[utoipa::path(
    get, path = "/blobstream/{id}", tag = "object",
    params(
        ("id" = ObjectId, Path),
        ("range" = Option<String>, Header, description = "The part wanted, as `bytes=100-199`"),
        ("if-range" = Option<String>, Header, description = "The `ETag` for which the range is meant"),
        ("if-none-match" = Option<String>, Header, description = "The `ETag` that is known already"),
    ),
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "The part"),
        (status = 304, description = "It is what is known already"),
        (status = 416, description = "There is no such part"),
    ),
)]
pub(super) async fn fetch(mut caller: Caller, headers: HeaderMap, Id(id): Id<ObjectId>) -> Result<Response, Problem> {
    let object = find(&mut caller, id).await?;
    let ObjectStage::Complete { digest, .. } = object.stage else { return Err(missing(id)) };
    if !may_see(&mut caller, &object).await? {
        return Err(missing(id));
    }
    let tag = format!("\"{digest}\"");
    let given = |name| headers.get(name).and_then(|value| value.to_str().ok());
    if given(header::IF_NONE_MATCH).is_some_and(|tags| tags == "*" || tags.split(',').any(|one| one.trim() == tag)) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let is_same = given(header::IF_RANGE).is_none_or(|known| known.trim() == tag);
    let wanted = if is_same { read(given(header::RANGE), object.size) } else { Wanted::Whole };
    let (status, range) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0..object.size),
        Wanted::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Wanted::Nothing => {
            let problem = Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "range_not_satisfiable",
                format!("The payload has {} bytes", object.size),
            );
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{}", object.size))], problem).into_response());
        }
    };
    let segments = store::object::segment_list(caller.tx.conn(), object.row).await?;
    let objects = caller.state.objects().clone();
    // What follows may take long, and needs the database no more.
    drop(caller);

    let mut response = (
        status,
        [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{id}\"")),
            (header::CONTENT_LENGTH, (range.end - range.start).to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::CACHE_CONTROL, "private, no-cache".to_owned()),
            (header::ETAG, tag),
        ],
        [(REPR_DIGEST, write_repr_digest(digest))],
    )
        .into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let text = format!("bytes {}-{}/{}", range.start, range.end - 1, object.size);
        if let Ok(value) = text.parse() {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    *response.body_mut() = HttpBody::from_stream(pieces(objects, segments, range));
    Ok(response)
}

async fn may_see(caller: &mut Caller, object: &ObjectRecord) -> Result<bool, Problem> {
    let runs = store::object::object_runs(caller.tx.conn(), object.row).await?;
    if runs.is_empty() {
        return Ok(caller.permit::<HandleUpload>(object.id, &target(object, caller)).is_ok());
    }
    for id in runs {
        if let Some(place) = store::run::run_place(caller.tx.conn(), id).await?
            && caller.permit::<ViewRun>(place.id, &run::view::target(&place)).is_ok()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads one segment after the other, as fast as they are taken.
pub(super) fn pieces(
    objects: Objects,
    segments: Vec<(SegmentKey, u64, u64)>,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, ObjectsError>> {
    async_stream::try_stream! {
        for (key, start, length) in segments {
            let from = range.start.max(start);
            let to = range.end.min(start + length);
            if from >= to {
                continue;
            }
            let mut segment = objects.get(key, from - start..to - start).await.inspect_err(|error| report(key, error))?;
            while let Some(piece) = segment.next().await {
                yield piece.inspect_err(|error| report(key, error))?;
            }
        }
    }
}

/// The answer has begun, so its reader only sees that it breaks off.
fn report(key: SegmentKey, error: &ObjectsError) {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::error!(segment.digest = %key.digest, segment.number = key.number, cause, "{error}");
}
