//! Payloads that are kept outside of the rows (contract A.7.9 and A.9.3): `/blobstream`.
//!
//! The contract's `POST` takes a payload whole. Our own clients and nodes can break off and go on, as in Resumable
//! Uploads for HTTP (draft-ietf-httpbis-resumable-upload): `POST` with `Upload-Complete: ?0` begins an upload,
//! `GET` or `HEAD /blobstream/upload/<uuid>` tells how much has arrived, `PATCH` there goes on at `Upload-Offset`, and the last
//! request says `Upload-Complete: ?1`. `Repr-Digest` (RFC 9530), where given, must be what arrived hashes to.

mod download;
pub(crate) mod fuzzing;
mod range;
mod upload;

use axum::Json;
use axum::extract::Request;
use axum::http::Method;
use serde::Serialize;
use twinmesh_protocol::id::ObjectId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::caller::{Caller, Visitor};
use super::problem::Problem;
use crate::authz::Target;
use crate::store;
use crate::store::object::{ObjectRecord, Uploader};

const PATH: &str = "/blobstream";
const UPLOAD_PATH: &str = "/blobstream/upload/";

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(upload::create))
        .routes(routes!(status))
        .routes(routes!(download::fetch))
        .routes(routes!(upload::offset, upload::resume, upload::discard))
}

/// Whether there is a store for large inputs and results.
#[derive(Debug, Serialize, ToSchema)]
struct BlobStatus {
    /// Whether stock clients are to upload their inputs.
    blob_store_enabled: bool,
}

/// Whether a request's body is taken in as it comes, by its handler, and is not to be read before.
pub(crate) fn is_streamed(state: &AppState, request: &Request) -> bool {
    let Some(path) = request.uri().path().strip_prefix(state.api_path()) else { return false };
    let method = request.method();
    (method == Method::POST && path == PATH) || (method == Method::PATCH && path.starts_with(UPLOAD_PATH))
}

/// Whether large inputs and results are kept as objects.
#[utoipa::path(get, path = "/blobstream/status", tag = "object", responses((status = 200, body = BlobStatus)))]
async fn status(visitor: Visitor) -> Json<BlobStatus> {
    Json(BlobStatus { blob_store_enabled: visitor.state.objects().settings().stock_clients })
}

/// Finds an object.
async fn find(caller: &mut Caller, id: ObjectId) -> Result<ObjectRecord, Problem> {
    store::object::object_fetch(caller.tx.conn(), id).await?.ok_or_else(|| missing(id))
}

fn missing(id: ObjectId) -> Problem {
    Problem::not_found(format!("There is no payload {id}"))
}

/// What decides who may go on with an upload: who began it.
fn target(object: &ObjectRecord, caller: &Caller) -> Target {
    let target = Target::organization(object.organization_id, caller.actor.collaborations.iter().copied());
    match object.uploader {
        Uploader::User(id) => target.owned_by(Some(id)),
        Uploader::Node(id) => target.at_node(Some(id)),
        Uploader::Run(id) => target.made_by_run(Some(id)),
    }
}
