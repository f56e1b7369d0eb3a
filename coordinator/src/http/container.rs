//! Tokens of algorithms (contract A.2.4).

use axum::Json;
use serde_json::{Map, Value};
use twinmesh_protocol::wire::{ContainerToken, ContainerTokenRequest, TaskDatabase};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::body::Body;
use super::caller::Caller;
use super::problem::Problem;
use super::run;
use crate::authn::token::{ClientType, ContainerSubject};
use crate::authz::action::IssueContainerToken;
use crate::store;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(issue))
}

/// Gives a node the token of one of its runs. It is good until the run is finished.
#[utoipa::path(
    post, path = "/token/container", tag = "token",
    request_body = ContainerTokenRequest,
    responses((status = 200, body = ContainerToken)),
    security(("node" = [])),
)]
#[tracing::instrument(name = "http.token.container", skip_all, fields(task.id = %request.task_id))]
async fn issue(
    mut caller: Caller,
    Body(request): Body<ContainerTokenRequest>,
) -> Result<Json<ContainerToken>, Problem> {
    let Some(node) = caller.actor.node() else { return Err(Problem::permission()) };
    let organization = caller.actor.organization;
    let conn = caller.tx.conn();
    let unknown = || Problem::bad_request("no_task", format!("Task id={} does not exist!", request.task_id));
    let task = store::task::task_fetch(conn, request.task_id).await?.ok_or_else(unknown)?;
    if !caller.actor.collaborations.contains(&task.collaboration_id) {
        return Err(Problem::unauthorized("other_collaboration", "The task is in another collaboration than the node"));
    }
    let conn = caller.tx.conn();
    let Some(id) = store::run::run_of(conn, task.id, organization).await? else {
        return Err(Problem::unauthorized("not_receiver", "The task has no run at the node's organization"));
    };
    let place = run::view::find(&mut caller, id).await?;
    caller.permit::<IssueContainerToken>(id, &run::view::target(&place))?;
    if task.image != request.image {
        return Err(Problem::unauthorized("other_image", "The image is not that of the task"));
    }
    if place.state.is_finished() {
        return Err(Problem::bad_request("run_finished", "The run is already finished"));
    }
    let subject = ContainerSubject {
        client_type: ClientType::Container,
        image: task.image,
        databases: task.databases.iter().map(merge).collect(),
        node_id: node,
        collaboration_id: task.collaboration_id,
        organization_id: organization,
        study_id: task.study_id,
        store_id: task.store_id,
        task_id: task.id,
    };
    let container_token = caller.state.tokens().container(&subject, caller.now);
    Ok(Json(ContainerToken { container_token }))
}

/// The database with its parameters beside its label.
fn merge(database: &TaskDatabase) -> Value {
    let mut merged: Map<String, Value> = serde_json::from_str(&database.parameters).unwrap_or_default();
    merged.insert("label".into(), database.label.clone().into());
    Value::Object(merged)
}
