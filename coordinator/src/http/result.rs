//! Results: a view on runs (contract A.6).

pub(crate) mod view;

use axum::Json;
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::id::RunId;
use twinmesh_protocol::wire::RunResult;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::view::view;
use super::AppState;
use super::caller::Caller;
use super::path::Id;
use super::problem::Problem;
use super::run::list;
use super::run::view::{find, target};
use crate::authz::action::ViewRun;
use crate::store;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list::results)).routes(routes!(fetch))
}

/// The result of one run.
#[utoipa::path(get, path = "/result/{id}", tag = "result", responses((status = 200, body = RunResult)))]
async fn fetch(mut caller: Caller, Id(id): Id<RunId>) -> Result<Response, Problem> {
    let place = find(&mut caller, id).await?;
    caller.permit::<ViewRun>(place.id, &target(&place))?;
    let record = store::run::result_fetch(caller.tx.conn(), place.id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Result id={id} not found!")))?;
    Ok(Json(view(&caller.state, record)).into_response())
}
