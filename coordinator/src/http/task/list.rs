//! Lists of tasks.

use axum::response::Response;
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, JobId, OrganizationId, RunId, StudyId, TaskId, UserId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::wire::{Page, Task};

use super::view::{Include, tasks};
use crate::authz::action::{ViewRun, ViewTask};
use crate::authz::{Reach, Target};
use crate::http::caller::Caller;
use crate::http::openapi::sortable;
use crate::http::page::PageRequest;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::store;
use crate::store::filter::{Filter, Value};
use crate::store::task::{Known, SORTABLE};

/// Lists the tasks that the caller may see, newest first.
#[utoipa::path(
    get, path = "/task", tag = "task",
    params(
        PageRequest,
        ("collaboration_id" = Option<CollaborationId>, Query, description = "Those of this collaboration"),
        ("init_org_id" = Option<OrganizationId>, Query, description = "Asked by this organization"),
        ("init_user_id" = Option<UserId>, Query, description = "Asked by this user"),
        ("study_id" = Option<StudyId>, Query, description = "Those of this study"),
        ("parent_id" = Option<TaskId>, Query, description = "Made by the central function of this task"),
        ("job_id" = Option<JobId>, Query, description = "Those of this job"),
        ("store_id" = Option<AlgorithmStoreId>, Query, description = "Vouched for by this algorithm store"),
        ("run_id" = Option<RunId>, Query, description = "The one of this run"),
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("image" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("description" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("database" = Option<String>, Query, description = "With this database"),
        ("status" = Option<RunStatus>, Query, description = "With this status"),
        ("is_user_created" = Option<bool>, Query, description = "Whether asked by a user rather than a central function"),
        ("include" = Option<String>, Query, description = "`runs`, `results` or both: these in place of their links"),
    ),
    responses((status = 200, body = Page<Task>)),
    extensions(("x-sort" = json!(sortable(SORTABLE)))),
)]
pub(super) async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let reach = caller.reach::<ViewTask>()?;
    let include = Include::read(&params);
    if include.any() && !covers(caller.reach::<ViewRun>()?, reach) {
        return Err(Problem::unauthorized(
            "results_beyond_reach",
            "You cannot view the runs and results of all tasks that you may view",
        ));
    }
    let mut filter = Filter::default();
    scope(&mut filter, &caller, reach);
    narrow(&mut filter, &mut caller, &params).await?;
    let request = PageRequest::read(&params, SORTABLE)?;
    let (records, total) = store::task::task_page(caller.tx.conn(), &filter, &request).await?;
    let tasks = tasks(&mut caller, records, include).await?;
    Ok(request.answer(&params, tasks, total))
}

/// Leaves what the caller may see at all.
pub(crate) fn scope(filter: &mut Filter, caller: &Caller, reach: Reach) {
    if reach.all {
        return;
    }
    let actor = &caller.actor;
    let mut alternatives: Vec<(String, Vec<Value>)> = Vec::new();
    if reach.collaboration {
        let ids = actor.collaborations.iter().map(|id| id.get());
        alternatives.push(store::filter::in_list("task.collaboration_id", ids));
    }
    if reach.organization {
        alternatives.push(("task.init_org_id = ?".into(), vec![actor.organization.get().into()]));
    }
    if let (true, Some(user)) = (reach.own, actor.user()) {
        alternatives.push(("task.init_user_id = ?".into(), vec![user.get().into()]));
    }
    filter.and_any(alternatives);
}

async fn narrow(filter: &mut Filter, caller: &mut Caller, params: &Params) -> Result<(), Problem> {
    if let Some(id) = params.get::<CollaborationId>("collaboration_id")? {
        caller.permit::<ViewTask>(any_task(), &Target::collaboration(id)).map_err(|_| lacks("collaboration", id))?;
        filter.and_equal("task.collaboration_id", Some(id.get()));
    }
    if let Some(id) = params.get::<OrganizationId>("init_org_id")? {
        let collaborations = store::identity::collaborations_of(caller.tx.conn(), id).await?;
        let target = Target::organization(id, collaborations);
        caller.permit::<ViewTask>(any_task(), &target).map_err(|_| lacks("organization", id))?;
        filter.and_equal("task.init_org_id", Some(id.get()));
    }
    if let Some(id) = params.get::<UserId>("init_user_id")? {
        exists(caller, "User", Known::User(id), id).await?;
        filter.and_equal("task.init_user_id", Some(id.get()));
    }
    if let Some(id) = params.get::<StudyId>("study_id")? {
        exists(caller, "Study", Known::Study(id), id).await?;
        filter.and_equal("task.study_id", Some(id.get()));
    }
    if let Some(id) = params.get::<TaskId>("parent_id")? {
        exists(caller, "Parent task", Known::Task(id), id).await?;
        filter.and_equal("task.parent_id", Some(id.get()));
    }
    if let Some(id) = params.get::<JobId>("job_id")? {
        exists(caller, "Job", Known::Job(id), id).await?;
        filter.and_equal("task.job_id", Some(id.get()));
    }
    if let Some(id) = params.get::<AlgorithmStoreId>("store_id")? {
        exists(caller, "Algorithm store", Known::AlgorithmStore(id), id).await?;
        filter.and_equal("task.algorithm_store_id", Some(id.get()));
    }
    if let Some(id) = params.get::<RunId>("run_id")? {
        exists(caller, "Run", Known::Run(id), id).await?;
        filter.and("task.id = (SELECT task_id FROM run WHERE id = ?)", [id.get().into()]);
    }
    filter.and_like("task.name", params.pattern("name")?);
    filter.and_like("task.image", params.pattern("image")?);
    filter.and_like("task.description", params.pattern("description")?);
    if let Some(label) = params.text("database") {
        let sql = "EXISTS (SELECT 1 FROM task_database d WHERE d.task_id = task.id AND d.label = ?)";
        filter.and(sql, [label.into()]);
    }
    if let Some(status) = params.get::<RunStatus>("status")? {
        store::task::has_status(filter, status);
    }
    if let Some(made_by_user) = params.truth("is_user_created")? {
        filter.and(if made_by_user { "task.parent_id IS NULL" } else { "task.parent_id IS NOT NULL" }, []);
    }
    Ok(())
}

async fn exists(caller: &mut Caller, noun: &str, thing: Known, id: impl std::fmt::Display) -> Result<(), Problem> {
    if store::task::is_known(caller.tx.conn(), thing).await? {
        Ok(())
    } else {
        Err(Problem::bad_request("unknown_filter", format!("{noun} id={id} does not exist!")))
    }
}

/// Whether one reach is at least as wide as another.
fn covers(wide: Reach, narrow: Reach) -> bool {
    wide.all
        || (!narrow.all
            && (wide.collaboration
                || (!narrow.collaboration && (wide.organization || (!narrow.organization && wide.own)))))
}

fn lacks(noun: &str, id: impl std::fmt::Display) -> Problem {
    Problem::unauthorized("not_allowed", format!("You lack the permission to view tasks from {noun} {id}!"))
}

/// An id for decisions about tasks in general.
fn any_task() -> TaskId {
    TaskId::new(0)
}
