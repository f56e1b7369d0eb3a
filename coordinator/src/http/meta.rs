//! What the coordinator says of itself (contract A.7.9).

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;

/// The release whose contract we keep.
const CONTRACT_VERSION: &str = "4.15.2";

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(version))
}

/// Outside of the API's path.
pub(crate) fn root_routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(robots))
}

/// What this release is.
#[derive(Debug, Serialize, ToSchema)]
struct Version {
    /// The vantage6 release whose contract it keeps.
    version: &'static str,
    /// Its own version.
    twinmesh: &'static str,
}

/// Which release this is, and of what contract.
#[utoipa::path(get, path = "/version", tag = "meta", responses((status = 200, body = Version)), security(()))]
async fn version() -> Json<Version> {
    Json(Version { version: CONTRACT_VERSION, twinmesh: env!("CARGO_PKG_VERSION") })
}

/// Tells crawlers to stay away.
#[utoipa::path(
    get, path = "/robots.txt", tag = "meta",
    responses((status = 200, body = String, content_type = "text/plain")),
    security(()),
)]
async fn robots() -> &'static str {
    "User-agent: *\nDisallow: /\n"
}
