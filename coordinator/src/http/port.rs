//! Ports that runs expose to their twins (contract A.7.9).

use axum::Json;
use axum::http::StatusCode;
use twinmesh_protocol::id::RunId;
use twinmesh_protocol::wire::{NewPort, Port};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::Body;
use super::caller::Caller;
use super::params::{Params, invalid};
use super::problem::Problem;
use super::run;
use crate::authz::action::OpenPort;
use crate::store;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(create, delete))
}

/// Registers a port of a run.
#[utoipa::path(
    post, path = "/port", tag = "port",
    request_body = NewPort,
    responses((status = 201, body = Port)),
    security(("node" = [])),
)]
#[tracing::instrument(name = "http.port.create", skip_all, fields(run.id = %new.run_id))]
async fn create(mut caller: Caller, Body(new): Body<NewPort>) -> Result<(StatusCode, Json<Port>), Problem> {
    let place = run::view::find(&mut caller, new.run_id).await?;
    let permit = caller.permit::<OpenPort>(place.id, &run::view::target(&place))?;
    if place.state.is_finished() {
        return Err(Problem::bad_request("run_finished", "A finished run cannot expose a port"));
    }
    let port = store::port::port_insert(&mut caller.tx, permit, &place, &new, caller.now).await?;
    caller.commit().await?;
    Ok((StatusCode::CREATED, Json(port)))
}

/// Takes all ports of a run back.
#[utoipa::path(
    delete, path = "/port", tag = "port",
    params(("run_id" = RunId, Query, description = "The run")),
    responses((status = 200, body = Message)),
    security(("node" = [])),
)]
#[tracing::instrument(name = "http.port.delete", skip_all)]
async fn delete(mut caller: Caller, params: Params) -> Result<Json<Message>, Problem> {
    let id = params.get::<RunId>("run_id")?.ok_or_else(|| invalid("run_id", "it is required"))?;
    let place = run::view::find(&mut caller, id).await?;
    let permit = caller.permit::<OpenPort>(place.id, &run::view::target(&place))?;
    store::port::port_delete(&mut caller.tx, permit).await?;
    caller.commit().await?;
    Ok(Message::new("Ports removed from the database."))
}
