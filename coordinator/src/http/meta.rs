//! What the coordinator says of itself (contract A.7.9), and what this release does not have.

use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::AppState;
use super::caller::{Caller, Visitor};
use super::page::PageRequest;
use super::params::Params;
use super::problem::Problem;
use crate::authz::action::ViewCollaboration;

/// The release whose contract we keep.
const CONTRACT_VERSION: &str = "4.15.2";

pub(crate) fn routes() -> Router<AppState> {
    Router::new()
        .route("/version", get(version))
        .route("/health", get(health))
        .route("/blobstream/status", get(blob_status))
        .route("/algorithmstore", get(algorithm_stores))
}

/// Outside of the API's path.
pub(crate) fn root_routes() -> Router<AppState> {
    Router::new().route("/robots.txt", get(robots))
}

async fn version() -> Json<Value> {
    Json(json!({"version": CONTRACT_VERSION, "twinmesh": env!("CARGO_PKG_VERSION")}))
}

async fn health(State(state): State<AppState>) -> Json<Value> {
    Json(json!({"database": state.store().is_well().await}))
}

async fn robots() -> &'static str {
    "User-agent: *\nDisallow: /\n"
}

async fn blob_status(_: Visitor) -> Json<Value> {
    Json(json!({"blob_store_enabled": false}))
}

/// No algorithm store is linked to this coordinator.
async fn algorithm_stores(caller: Caller, params: Params) -> Result<Response, Problem> {
    caller.reach::<ViewCollaboration>()?;
    let page = PageRequest::read(&params, &[("id", "id"), ("name", "name"), ("url", "url")])?;
    Ok(page.answer::<Value>(&params, Vec::new(), 0))
}
