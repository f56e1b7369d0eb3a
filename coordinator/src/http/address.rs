//! Where algorithm twins reach each other (contract D.7).

use axum::Json;
use axum::http::StatusCode;
use axum::routing::any;
use twinmesh_protocol::wire::AlgorithmAddresses;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::caller::Caller;
use super::params::Params;
use super::problem::{Problem, wrong_verb};
use crate::authz::Target;
use crate::authz::action::ViewTwinAddresses;
use crate::store;
use crate::store::port::Twins;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(addresses))
        .routes(routes!(vpn))
        // Stock nodes ask for it; there is nothing to update.
        .route("/vpn/update", any(wrong_verb))
}

/// The OpenVPN configuration of stock nodes. Twins reach each other over the overlay instead.
#[utoipa::path(
    get, path = "/vpn", tag = "port",
    responses((status = 501, description = "There is none")),
    security(("node" = [])),
)]
async fn vpn(caller: Caller) -> Problem {
    if caller.actor.node().is_none() {
        return Problem::permission();
    }
    Problem::new(StatusCode::NOT_IMPLEMENTED, "no_vpn", "This server does not support VPN")
}

/// Lists the addresses of the runs asked for.
#[utoipa::path(
    get, path = "/vpn/algorithm/addresses", tag = "port",
    params(
        ("label" = Option<String>, Query, description = "Ports with this label"),
        ("only_children" = Option<bool>, Query, description = "Only those of subtasks"),
        ("only_parent" = Option<bool>, Query, description = "Only those of the parent task"),
        ("only_siblings" = Option<bool>, Query, description = "Only those of the same task at other organizations"),
        ("only_self" = Option<bool>, Query, description = "Only one's own"),
        ("include_children" = Option<bool>, Query, description = "Those of subtasks too"),
        ("include_parent" = Option<bool>, Query, description = "Those of the parent task too"),
    ),
    responses((status = 200, body = AlgorithmAddresses)),
    security(("container" = [])),
)]
async fn addresses(mut caller: Caller, params: Params) -> Result<Json<AlgorithmAddresses>, Problem> {
    let Some(container) = caller.actor.container().cloned() else { return Err(Problem::permission()) };
    caller.permit::<ViewTwinAddresses>(container.run, &Target::collaboration(container.collaboration))?;
    let task = container.task;
    let organization = caller.actor.organization;

    let only = ["only_children", "only_parent", "only_siblings", "only_self"];
    let asked: Vec<&str> = only.into_iter().filter(|name| flag(&params, name)).collect();
    let twins = match asked.as_slice() {
        [] => {
            let mut twins = vec![Twins::Of(task)];
            if flag(&params, "include_children") {
                twins.push(Twins::Below(task));
            }
            if flag(&params, "include_parent") {
                twins.extend(parent(&mut caller).await?);
            }
            twins
        }
        ["only_children"] => vec![Twins::Below(task)],
        ["only_parent"] => parent(&mut caller).await?.into_iter().collect(),
        ["only_siblings"] => vec![Twins::Beside(task, organization)],
        ["only_self"] => vec![Twins::At(task, organization)],
        _ => {
            return Err(Problem::bad_request(
                "several_only_flags",
                format!("Only one of {} can be used at a time", only.join(", ")),
            ));
        }
    };
    let addresses = store::port::address_list(caller.tx.conn(), &twins, params.text("label")).await?;
    Ok(Json(AlgorithmAddresses { addresses }))
}

/// A flag that is there is meant, unless it says that it is not.
fn flag(params: &Params, name: &str) -> bool {
    params.flag(name).unwrap_or(true)
}

async fn parent(caller: &mut Caller) -> Result<Option<Twins>, Problem> {
    let Some(task) = caller.actor.container().map(|container| container.task) else { return Ok(None) };
    let record = store::task::task_fetch(caller.tx.conn(), task).await?;
    Ok(record.and_then(|record| record.parent_id).map(Twins::Of))
}
