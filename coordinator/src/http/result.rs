//! Results: a view on runs (contract A.6).

use axum::Json;
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::id::RunId;
use twinmesh_protocol::wire::RunResult;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::caller::Caller;
use super::path::Id;
use super::problem::Problem;
use super::run::{self, list};
use crate::authz::action::ViewRun;
use crate::store;
use crate::store::run::ResultRecord;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list::results)).routes(routes!(fetch))
}

/// The result of one run.
#[utoipa::path(get, path = "/result/{id}", tag = "result", responses((status = 200, body = RunResult)))]
async fn fetch(mut caller: Caller, Id(id): Id<RunId>) -> Result<Response, Problem> {
    let place = run::find(&mut caller, id).await?;
    caller.permit::<ViewRun>(place.id, &run::target(&place))?;
    let record = store::run::result_fetch(caller.tx.conn(), place.id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Result id={id} not found!")))?;
    Ok(Json(view(&caller.state, record)).into_response())
}

/// A result as it goes over the wire.
pub(crate) fn view(state: &AppState, record: ResultRecord) -> RunResult {
    RunResult {
        id: record.id,
        result: record.result,
        cleanup_at: record.cleanup_at,
        blob_storage_used: record.blob_storage_used,
        run: Some(state.run_link("run", record.id)),
        task: Some(state.task_link(record.task_id)),
    }
}
