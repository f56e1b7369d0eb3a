//! Killing tasks (contract A.8.4, F.1-12): the whole tree, confirmed by the nodes.

use axum::Json;
use twinmesh_protocol::id::{NodeId, TaskId};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, IdBody};
use super::caller::Caller;
use super::problem::Problem;
use super::task;
use crate::authz::Target;
use crate::authz::action::{KillNodeTasks, KillTask};
use crate::store;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(kill_task)).routes(routes!(kill_node_tasks))
}

/// Ends a task and everything below it.
#[utoipa::path(
    post, path = "/kill/task", tag = "task",
    request_body = IdBody,
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.kill.task", skip_all, fields(task.id = %body.id))]
async fn kill_task(mut caller: Caller, Body(body): Body<IdBody>) -> Result<Json<Message>, Problem> {
    let record = task::find(&mut caller, TaskId::new(body.id)).await?;
    let permit = caller.permit::<KillTask>(TaskId::new(body.id), &task::target(&record))?;
    let steps = store::run::kill_task(&mut caller.tx, permit, caller.now).await?;
    if steps == 0 {
        return Err(Problem::bad_request(
            "task_finished",
            format!("Task id={} already finished with status '{}'", body.id, record.status),
        ));
    }
    caller.commit().await?;
    tracing::info!(runs = steps, "task is being killed");
    Ok(Message::new(format!("The runs of task id={} and of its subtasks are being killed", body.id)))
}

/// Ends everything at a node.
#[utoipa::path(
    post, path = "/kill/node/tasks", tag = "task",
    request_body = IdBody,
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.kill.node_tasks", skip_all, fields(node.id = %body.id))]
async fn kill_node_tasks(mut caller: Caller, Body(body): Body<IdBody>) -> Result<Json<Message>, Problem> {
    let missing = || Problem::not_found(format!("Node id={} not found", body.id));
    let node = store::run::node_place(caller.tx.conn(), NodeId::new(body.id)).await?.ok_or_else(missing)?;
    let target = Target::organization_in(node.organization_id, node.collaboration_id);
    let permit = caller.permit::<KillNodeTasks>(node.id, &target)?;
    let steps = store::run::kill_node_tasks(&mut caller.tx, permit, caller.now).await?;
    caller.commit().await?;
    tracing::info!(runs = steps, "the node's tasks are being killed");
    Ok(Message::new(format!("All {steps} tasks at node id={} are being killed", body.id)))
}
