//! Tasks (contract A.7.7).

pub(crate) mod list;
mod status;
pub(crate) mod view;

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::id::{OrganizationId, TaskId};
use twinmesh_protocol::manifest::SignedManifest;
use twinmesh_protocol::wire::{NewTask, Task, TaskDatabase};
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
use crate::algorithm_store::repository;
use crate::authz::action::{CreateSubtask, CreateTask, DeleteTask, ViewRun, ViewTask};
use crate::authz::{Target, decide};
use crate::ledger;
use crate::ledger::manifest::ManifestContext;
use crate::ledger::open::{Asker, AskingRun, KnownInput, OpenRefusal, OpenedTask, ParentTask};
use crate::limits::{self, Limit};
use crate::store;
use crate::store::task::{Opener, TaskRecord};

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
    responses((status = 200, description = "The task that this request has made before", body = Task), (status = 201, body = Task), (status = 403, description = "The algorithm store is not for this collaboration"), (status = 409, description = "The same key or manifest with other content")),
    security(("user" = []), ("container" = [])),
)]
#[tracing::instrument(name = "http.task.create", skip_all)]
async fn create(visitor: Visitor, headers: HeaderMap, Body(request): Body<NewTask>) -> Result<Response, Problem> {
    open(&visitor, &headers, request).await
}

/// Opens a task, whichever route it was asked for by.
pub(super) async fn open(visitor: &Visitor, headers: &HeaderMap, request: NewTask) -> Result<Response, Problem> {
    let key = idempotency_key(headers)?;
    let known = ledger::open::look_at_inputs(&request);
    let reviewed = reviewed_image(visitor, headers, key.as_deref(), &request, &known).await?;
    let mut caller = visitor.begin_write().await?;
    if let Some(repeated) = find_repeated(&mut caller, key.as_deref(), &request).await? {
        let task = view::task(&caller.state, repeated);
        return Ok((StatusCode::OK, Json(task)).into_response());
    }

    let Weighed { mut task, opener, parent_manifest } = weigh(&mut caller, request, &known).await?;
    if let Some(image) = reviewed {
        task.image = image;
    }
    check_manifest(&mut caller, &task, parent_manifest.as_ref()).await?;
    let runs = task.inputs.len();
    let record = store::task::task_insert(&mut caller.tx, opener, task, caller.now).await?;
    let id = record.id;
    if let Some(key) = &key {
        store::task::key_insert(&mut caller.tx, &caller.actor.key(), key, id, caller.now).await?;
    }
    let answer = view::task(&caller.state, record);
    let state = caller.state.clone();
    caller.commit().await?;
    state.meter().task_created();
    tracing::info!(task.id = %id, runs, "task created");
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

/// Refuses what [`open`] would refuse, and opens nothing.
pub(super) async fn check(caller: &mut Caller, request: &NewTask) -> Result<(), Problem> {
    let known = ledger::open::look_at_inputs(request);
    let Weighed { task, parent_manifest, .. } = weigh(caller, request.clone(), &known).await?;
    check_manifest(caller, &task, parent_manifest.as_ref()).await
}

/// A task that may be opened, but for its manifest.
struct Weighed {
    task: OpenedTask,
    opener: Opener,
    /// The manifest of the task whose run asks.
    parent_manifest: Option<SignedManifest>,
}

/// Decides whether a task may be opened.
async fn weigh(caller: &mut Caller, request: NewTask, known: &[KnownInput]) -> Result<Weighed, Problem> {
    let (run, parent) = asking_run(caller).await?.unzip();
    let study = ledger::open::study(request.study_id, run.as_ref()).map_err(refuse)?;
    let (collaboration, store_id) = (request.collaboration_id, request.store_id);
    let place = store::task::place_fetch(caller.tx.conn(), collaboration, study, store_id).await?;
    let target = place.collaboration.as_ref().map_or_else(Target::anywhere, |known| Target::collaboration(known.id));
    let subject = place.collaboration.as_ref().map_or(collaboration.unwrap_or_else(nowhere), |known| known.id);
    let may_create = decide::<CreateTask>(&caller.actor, subject, &target);
    let may_continue = decide::<CreateSubtask>(&caller.actor, subject, &target);
    let (user, parent_manifest) = match parent {
        Some(parent) => (parent.init_user, parent.manifest),
        None => (Some(caller.actor.user().ok_or_else(Problem::permission)?), None),
    };
    let may = run.is_none() && may_create.is_ok();
    let asker = Asker { organization: caller.actor.organization, user, may_create: may, run };

    let mut known = known.to_vec();
    for (entry, known) in request.organizations.iter().zip(&mut known) {
        if let Some(kept) = super::run::view::find_kept(caller, &entry.input).await? {
            *known = KnownInput { form: kept.form, kept: Some(kept) };
        }
    }
    let task = ledger::open::open_task(request, &known, &asker, &place).map_err(refuse)?;
    let opener = match asker.run {
        Some(_) => Opener::Run(may_continue?),
        None => Opener::User(may_create?),
    };
    Ok(Weighed { task, opener, parent_manifest })
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
    weigh(&mut caller, request.clone(), known).await?;
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

/// An id that nothing has, for decisions about what there is not.
fn nowhere() -> twinmesh_protocol::id::CollaborationId {
    twinmesh_protocol::id::CollaborationId::new(0)
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

/// The task that this request has made before, by the caller's own key or by its manifest.
async fn find_repeated(
    caller: &mut Caller,
    key: Option<&str>,
    request: &NewTask,
) -> Result<Option<TaskRecord>, Problem> {
    let by_key = match key {
        Some(key) => store::task::task_by_key(caller.tx.conn(), &caller.actor.key(), key).await?,
        None => None,
    };
    let (found, how) = match (by_key, &request.manifest) {
        (Some(task), _) => (task, "Idempotency-Key"),
        (None, Some(manifest)) => match store::task::task_by_manifest(caller.tx.conn(), manifest).await? {
            // Whose task it is says nothing to others, not even its id.
            Some(task) if task.init_org == caller.actor.organization => (task, "manifest"),
            Some(_) => return Err(conflict("manifest")),
            None => return Ok(None),
        },
        (None, None) => return Ok(None),
    };
    let inputs = store::task::input_list(caller.tx.conn(), found.id).await?;
    if !is_repeat(request, &found, &inputs, caller) {
        return Err(conflict(how));
    }
    Ok(Some(found))
}

fn is_repeat(request: &NewTask, found: &TaskRecord, inputs: &[(OrganizationId, String)], caller: &Caller) -> bool {
    let asked = request.organizations.iter().map(|entry| (entry.id, entry.input.as_str()));
    let databases = request.databases.iter().flatten().cloned().map(TaskDatabase::from);
    let same_caller = match caller.actor.container() {
        Some(container) => found.parent_id == Some(container.task),
        None => found.parent_id.is_none() && found.init_user == caller.actor.user(),
    };
    // A subtask has its parent's study although it named none.
    let inherits_study = caller.actor.container().is_some() && request.study_id.is_none();
    same_caller
        && found.name.as_deref().unwrap_or_default() == request.name.as_deref().unwrap_or_default()
        && found.description == request.description
        && (found.image.ends_with(&request.image) || was_reviewed(request, found))
        && request.collaboration_id.is_none_or(|id| id == found.collaboration_id)
        && (request.study_id == found.study_id || inherits_study)
        && request.manifest == found.manifest
        && asked.eq(inputs.iter().map(|(id, input)| (*id, input.as_str())))
        && databases.eq(found.databases.iter().cloned())
}

/// Whether the image differs only because a store put its digest there.
fn was_reviewed(request: &NewTask, found: &TaskRecord) -> bool {
    request.store_id.is_some()
        && request.store_id == found.store_id
        && repository(&request.image) == repository(&found.image)
}

fn conflict(how: &str) -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "repeated_with_other_content",
        format!("Another task was made with this {how} before"),
    )
    .with_detail("Repeat a request as it was, or make a new one with a new key and a new manifest.")
}

/// The run that asks, if it is one, and its task.
async fn asking_run(caller: &mut Caller) -> Result<Option<(AskingRun, TaskRecord)>, Problem> {
    let Some(container) = caller.actor.container().cloned() else { return Ok(None) };
    let parent = store::task::task_fetch(caller.tx.conn(), container.task).await?.ok_or_else(Problem::permission)?;
    let place = super::run::view::find(caller, container.run).await?;
    let run = AskingRun {
        image: container.image,
        collaboration_id: container.collaboration,
        kill_requested: place.state.kill_requested(),
        parent: ParentTask {
            id: parent.id,
            job_id: parent.job_id,
            image: parent.image.clone(),
            store_id: parent.store_id,
            study_id: parent.study_id,
            finished: parent.status.is_finished(),
        },
    };
    Ok(Some((run, parent)))
}

/// Refuses a manifest that is not its task's.
async fn check_manifest(
    caller: &mut Caller,
    task: &OpenedTask,
    parent: Option<&SignedManifest>,
) -> Result<(), Problem> {
    let Some(manifest) = &task.manifest else { return Ok(()) };
    let key = store::task::public_key_fetch(caller.tx.conn(), task.init_org).await?;
    let context = ManifestContext { registered_key: key.as_deref().unwrap_or_default(), parent };
    ledger::manifest::check(manifest, task, context, caller.now).map_err(|refusal| {
        Problem::bad_request("manifest_refused", format!("The task's manifest is refused: {refusal}"))
    })
}

fn refuse(refusal: OpenRefusal) -> Problem {
    let text = refusal.to_string();
    let bad_request = |code| Problem::bad_request(code, text.clone());
    match refusal {
        OpenRefusal::Body(errors) => Problem::fields(errors),
        OpenRefusal::NoCollaboration(_) | OpenRefusal::NoStudy(_) => Problem::not_found(text),
        OpenRefusal::StudyElsewhere { .. } => bad_request("study_elsewhere"),
        OpenRefusal::OutsideCollaboration { .. } => bad_request("outside_collaboration"),
        OpenRefusal::OutsideStudy { .. } => bad_request("outside_study"),
        OpenRefusal::NoNode(_) => bad_request("no_node"),
        OpenRefusal::NotAdmitted { .. } => bad_request("not_admitted"),
        OpenRefusal::NotMember { .. } => Problem::unauthorized("not_member", text),
        OpenRefusal::NotAllowed => Problem::permission(),
        OpenRefusal::Token(why) => Problem::unauthorized("container_token", text).with_detail(why),
        OpenRefusal::NoStore(_) => bad_request("no_store"),
        OpenRefusal::StoreElsewhere { .. } => Problem::new(StatusCode::FORBIDDEN, "store_elsewhere", text),
        OpenRefusal::NotEncrypted { .. } => bad_request("input_not_encrypted"),
        OpenRefusal::Encrypted { .. } => bad_request("input_encrypted"),
        OpenRefusal::Malformed { .. } => bad_request("input_malformed"),
    }
}
