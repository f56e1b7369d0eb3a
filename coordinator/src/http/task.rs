//! Tasks (contract A.7.7).
//!
//! [`opening`] – who opens one, many at a time. [`weigh`] – whether it may be opened. [`repeat`] – whether it was before.

pub(crate) mod list;
pub(crate) mod opening;
mod repeat;
mod status;
pub(crate) mod view;
mod weigh;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::id::TaskId;
use twinmesh_protocol::wire::{NewTask, Task};
use utoipa::IntoParams;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::algorithm_store;
use super::answer::Message;
use super::body::Body;
use super::caller::{Caller, Visitor};
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use crate::authz::Target;
use crate::authz::action::{DeleteTask, ViewRun, ViewTask};
use crate::ledger;
use crate::ledger::open::KnownInput;
use crate::limits::{self, Limit};
use crate::store;
use crate::store::task::TaskRecord;
use opening::{Asking, Opened};
use repeat::find_repeated;
use weigh::{Places, Weighed, check_manifest, weigh};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list::list, create))
        .routes(routes!(fetch, delete))
        .routes(routes!(status::status))
}

/// Opens a task.
#[utoipa::path(
    post, path = "/task", tag = "task",
    params(IdempotencyKey),
    request_body = NewTask,
    responses((status = 200, description = "The task that this request has made before", body = Task), (status = 201, body = Task), (status = 403, description = "The algorithm store is not for this collaboration"), (status = 409, description = "The same key or manifest with other content"), (status = 413, description = "The body is larger than the operator allows: 256 MiB unless said otherwise")),
    security(("user" = []), ("container" = [])),
)]
#[tracing::instrument(name = "http.task.create", skip_all)]
async fn create(visitor: Visitor, headers: HeaderMap, Body(request): Body<NewTask>) -> Result<Response, Problem> {
    open(visitor, &headers, request).await
}

/// Opens a task, whichever route it was asked for by.
pub(super) async fn open(visitor: Visitor, headers: &HeaderMap, request: NewTask) -> Result<Response, Problem> {
    let key = idempotency_key(headers)?;
    let known = ledger::open::look_at_inputs(&request);
    let reviewed = reviewed_image(&visitor, headers, key.as_deref(), &request, &known).await?;
    let state = visitor.state.clone();
    let asking = Asking::new(visitor, key, request, known, reviewed);
    let (status, record) = match opening::open(asking).await? {
        Opened::New(record) => (StatusCode::CREATED, record),
        Opened::Repeated(record) => (StatusCode::OK, record),
    };
    Ok((status, Json(view::task(&state, record))).into_response())
}

/// Refuses what [`open`] would refuse, and opens nothing.
pub(super) async fn check(caller: &mut Caller, request: &NewTask) -> Result<(), Problem> {
    let known = ledger::open::look_at_inputs(request);
    let Weighed { task, parent_manifest, .. } = weigh(caller, &mut Places::default(), request.clone(), &known).await?;
    check_manifest(caller, &task, parent_manifest.as_ref()).await
}

/// The image of a user's task as the store it names has reviewed it (contract A.11). Nothing is locked while the store
/// is asked, and it is asked only what would be opened otherwise. Subtasks have the image of their parent.
async fn reviewed_image(
    visitor: &Visitor,
    headers: &HeaderMap,
    key: Option<&str>,
    request: &NewTask,
    known: &[KnownInput],
) -> Result<Option<String>, Problem> {
    let Some(store_id) = request.store_id else { return Ok(None) };
    let mut caller = visitor.begin_read().await?;
    if caller.actor.container().is_some() || find_repeated(&mut caller, key, request).await?.is_some() {
        return Ok(None);
    }
    weigh(&mut caller, &mut Places::default(), request.clone(), known).await?;
    let link = algorithm_store::find(&mut caller, store_id).await?;
    drop(caller);
    let image =
        algorithm_store::resolve(visitor, headers, &link, request.server_url.as_deref(), &request.image).await?;
    if request.manifest.is_some() && image != request.image {
        let text = format!(
            "The task was signed for image `{}`, which the algorithm store knows as `{image}`: sign it for that",
            request.image
        );
        return Err(Problem::bad_request("image_not_signed", text));
    }
    Ok(Some(image))
}

/// One task.
#[utoipa::path(
    get, path = "/task/{id}", tag = "task",
    params(
        ("include" = Option<String>, Query, description = "`runs`, `results` or both: these in place of their links"),
    ),
    responses((status = 200, body = Task)),
)]
async fn fetch(mut caller: Caller, params: Params, Id(id): Id<TaskId>) -> Result<Response, Problem> {
    let record = find(&mut caller, id).await?;
    caller.permit::<ViewTask>(record.id, &target(&record))?;
    let include = view::Include::read(&params);
    if include.any() {
        // What is nested is seen by the rules of what it is.
        caller.permit::<ViewRun>(super::run::view::any_run(), &target(&record))?;
    }
    let tasks = view::tasks(&mut caller, vec![record], include).await?;
    let task = tasks.into_iter().next().ok_or_else(|| not_found(id))?;
    Ok(Json(task).into_response())
}

/// Removes a task and everything below it; what still runs is killed first.
#[utoipa::path(
    delete, path = "/task/{id}", tag = "task",
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.task.delete", skip_all, fields(task.id = %id))]
async fn delete(mut caller: Caller, Id(id): Id<TaskId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<DeleteTask>(record.id, &target(&record))?;
    store::task::task_remove(&mut caller.tx, permit, caller.now).await?;
    caller.commit().await?;
    tracing::info!(task.id = %record.id, "task deleted");
    Ok(Message::new(format!("task id={} and its algorithm run data have been successfully deleted", record.id)))
}

/// What decides who may see a task: who initiated it, where, and for whom.
pub(crate) fn target(task: &TaskRecord) -> Target {
    Target::organization_in(task.init_org, task.collaboration_id).owned_by(task.init_user)
}

/// Finds a task.
pub(crate) async fn find(caller: &mut Caller, id: TaskId) -> Result<TaskRecord, Problem> {
    store::task::task_fetch(caller.tx.conn(), id).await?.ok_or_else(|| not_found(id))
}

fn not_found(id: TaskId) -> Problem {
    Problem::not_found(format!("Task id={id} is not found!"))
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(text) if limits::IDEMPOTENCY_KEY.fault(&text).is_none() => Ok(Some(text.to_owned())),
        Ok(_) | Err(_) => {
            let Limit { min, max } = limits::IDEMPOTENCY_KEY;
            let text = format!("The header Idempotency-Key must have {min} to {max} visible characters");
            Err(Problem::bad_request("invalid_idempotency_key", text))
        }
    }
}

/// The declaration of the header that [`idempotency_key`] reads.
pub(super) struct IdempotencyKey;

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let Limit { min, max } = limits::IDEMPOTENCY_KEY;
        let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(min)).max_length(Some(max));
        let header = ParameterBuilder::new()
            .name("idempotency-key")
            .parameter_in(ParameterIn::Header)
            .description(Some("Repeating a request under the same key makes nothing new"))
            .schema(Some(text));
        vec![header.build()]
    }
}

/// Whether this request has made its task before.
pub(crate) async fn is_repeated(caller: &mut Caller, headers: &HeaderMap, request: &NewTask) -> Result<bool, Problem> {
    let key = idempotency_key(headers)?;
    Ok(find_repeated(caller, key.as_deref(), request).await?.is_some())
}
