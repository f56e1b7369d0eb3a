//! The columns of a database (contract A.7.9).

use axum::Json;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::wire::{ColumnRequest, Columns, NewTask, NewTaskDatabase, Task};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::Body;
use super::caller::Visitor;
use super::problem::Problem;
use super::{AppState, collaboration, task};
use crate::authz::Target;
use crate::authz::action::CreateTask;
use crate::store;

/// What stock servers call the task.
const TASK_NAME: &str = "get_column_names";

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(columns))
}

/// Tells the columns of a database where a node has shared them, else opens the task that asks for them. Who may not
/// open that task is told nothing.
#[utoipa::path(
    post, path = "/column", tag = "task",
    params(task::IdempotencyKey),
    request_body = ColumnRequest,
    responses(
        (status = 200, description = "The columns, or the task that this request has made before", body = ColumnAnswer),
        (status = 201, description = "The task that asks for them", body = Task),
        (status = 409, description = "The same key or manifest with other content"),
        (status = 413, description = "The body is larger than the operator allows: 256 MiB unless said otherwise"),
    ),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.column.columns", skip_all)]
async fn columns(
    visitor: Visitor,
    headers: HeaderMap,
    Body(request): Body<ColumnRequest>,
) -> Result<Response, Problem> {
    let (id, label) = (request.collaboration_id, request.db_label.clone());
    let asking = asking_task(request, visitor.state.basics_image());
    let mut caller = visitor.begin_read().await?;
    collaboration::find(&mut caller, id).await?;
    // Algorithms make subtasks by another right.
    caller.permit::<CreateTask>(id, &Target::collaboration(id))?;
    if task::is_repeated(&mut caller, &headers, &asking).await? {
        drop(caller);
        return task::open(visitor, &headers, asking).await;
    }
    task::check(&mut caller, &asking).await?;
    let columns = store::node::column_list(caller.tx.conn(), id, &label).await?;
    drop(caller);
    if columns.is_empty() {
        return task::open(visitor, &headers, asking).await;
    }
    Ok(Json(Columns { columns }).into_response())
}

/// The answers of status 200.
#[derive(utoipa::ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes the answers")]
enum ColumnAnswer {
    /// A node has shared them.
    Columns(Columns),
    /// The task was made before.
    Task(Box<Task>),
}

/// The task that asks.
fn asking_task(request: ColumnRequest, image: &str) -> NewTask {
    let given = |text: &String| !text.is_empty();
    let database = NewTaskDatabase {
        label: request.db_label,
        query: request.query.filter(given),
        sheet_name: request.sheet_name.filter(given),
        ..NewTaskDatabase::default()
    };
    NewTask {
        name: Some(TASK_NAME.into()),
        description: None,
        image: image.into(),
        collaboration_id: Some(request.collaboration_id),
        study_id: None,
        store_id: None,
        server_url: None,
        organizations: request.organizations,
        databases: Some(vec![database]),
        manifest: request.manifest,
    }
}
