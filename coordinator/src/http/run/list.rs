//! Lists of runs and results.

use std::collections::BTreeMap;

use axum::response::Response;
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, TaskId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{Page, Run, RunResult, Task};
use utoipa::IntoParams;

use super::view::{any_run, view};
use crate::authz::Target;
use crate::authz::action::{ViewRun, ViewTask};
use crate::http::caller::Caller;
use crate::http::openapi::sortable;
use crate::http::page::PageRequest;
use crate::http::params::{Params, invalid};
use crate::http::problem::Problem;
use crate::http::result::view as result;
use crate::http::task::list::scope;
use crate::http::task::view::task;
use crate::limits::RECEIVERS;
use crate::store;
use crate::store::filter::Filter;
use crate::store::run::{IS_OPEN, RunRecord, SORTABLE};

/// How many runs or results of one task are listed at once when nobody asked for pages (contract F.1-2): all that a task
/// can have, since whoever goes on to a second page asks for it without the size of the first.
const ALL: i64 = RECEIVERS.max as i64;

/// What narrows lists of runs and of results. [`Params`] reads it; this declares it.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its declaration is used")]
struct RunFilters {
    /// Those of this task; all on one page unless pages are asked for
    task_id: Option<TaskId>,
    /// Those of this collaboration
    collaboration_id: Option<CollaborationId>,
    /// At this organization
    organization_id: Option<OrganizationId>,
    /// At this node
    node_id: Option<NodeId>,
    /// `open`: those that have not ended
    state: Option<String>,
    /// Assigned at this instant or later
    assigned_from: Option<Time>,
    /// Assigned at this instant or earlier
    assigned_till: Option<Time>,
    /// Started at this instant or later
    started_from: Option<Time>,
    /// Started at this instant or earlier
    started_till: Option<Time>,
    /// Finished at this instant or later
    finished_from: Option<Time>,
    /// Finished at this instant or earlier
    finished_till: Option<Time>,
    /// Exposing this port
    port: Option<u16>,
}

/// Lists the runs that the caller may see, newest first.
#[utoipa::path(
    get, path = "/run", tag = "run",
    params(
        PageRequest,
        RunFilters,
        ("include" = Option<String>, Query, description = "`task`: the task in place of its link"),
    ),
    responses((status = 200, body = Page<Run>)),
    extensions(("x-sort" = json!(sortable(SORTABLE)))),
)]
pub(crate) async fn runs(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let (filter, request) = read(&mut caller, &params).await?;
    let (records, total) = store::run::run_page(caller.tx.conn(), &filter, &request).await?;
    let runs = complete(&mut caller, records, params.includes("task")).await?;
    Ok(request.answer(&params, runs, total))
}

/// Lists the results that the caller may see, newest first.
#[utoipa::path(
    get, path = "/result", tag = "result",
    params(
        PageRequest,
        RunFilters,
    ),
    responses((status = 200, body = Page<RunResult>)),
    extensions(("x-sort" = json!(sortable(SORTABLE)))),
)]
pub(crate) async fn results(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let (filter, request) = read(&mut caller, &params).await?;
    let (records, total) = store::run::result_page(caller.tx.conn(), &filter, &request).await?;
    let results = records.into_iter().map(|record| result::view(&caller.state, record)).collect();
    Ok(request.answer(&params, results, total))
}

/// Runs as they go over the wire, with their tasks if asked for.
pub(crate) async fn complete(
    caller: &mut Caller,
    records: Vec<RunRecord>,
    include_task: bool,
) -> Result<Vec<Run>, Problem> {
    let state = caller.state.clone();
    let mut tasks: BTreeMap<TaskId, Task> = BTreeMap::new();
    if include_task {
        let reach = caller.reach::<ViewTask>()?;
        let mut filter = Filter::default();
        scope(&mut filter, caller, reach);
        let ids = records.iter().map(|record| record.task_id);
        for record in store::task::task_list(caller.tx.conn(), &filter, ids).await? {
            tasks.insert(record.id, Task { runs: None, ..task(&state, record) });
        }
    }
    let run = |record: RunRecord| {
        let task = tasks.get(&record.task_id).cloned();
        view(&state, record, task)
    };
    Ok(records.into_iter().map(run).collect())
}

async fn read(caller: &mut Caller, params: &Params) -> Result<(Filter, PageRequest), Problem> {
    let reach = caller.reach::<ViewRun>()?;
    let mut filter = Filter::default();
    scope(&mut filter, caller, reach);
    let mut request = PageRequest::read(params, SORTABLE)?;

    // Stock proxies send some arguments twice; the first counts.
    if let Some(id) = params.get::<TaskId>("task_id")? {
        filter.and_equal("run.task_id", Some(id.get()));
        request = request.or_all(ALL);
    }
    if let Some(id) = params.get::<CollaborationId>("collaboration_id")? {
        let target = Target::collaboration(id);
        caller.permit::<ViewRun>(any_run(), &target).map_err(|_| lacks("collaboration", id))?;
        filter.and_equal("task.collaboration_id", Some(id.get()));
    }
    if let Some(id) = params.get::<OrganizationId>("organization_id")? {
        let collaborations = store::identity::collaborations_of(caller.tx.conn(), id).await?;
        let target = Target::organization(id, collaborations);
        caller.permit::<ViewRun>(any_run(), &target).map_err(|_| lacks("organization", id))?;
        filter.and_equal("run.organization_id", Some(id.get()));
    }
    filter.and_equal("node.id", params.get::<NodeId>("node_id")?.map(NodeId::get));
    match params.text("state") {
        None => {}
        Some("open") => filter.and(IS_OPEN, []),
        Some(_) => return Err(invalid("state", "the only state to ask for is `open`")),
    }
    for (name, condition) in [
        ("assigned_from", "run.assigned_at >= ?"),
        ("assigned_till", "run.assigned_at <= ?"),
        ("started_from", "run.started_at >= ?"),
        ("started_till", "run.started_at <= ?"),
        ("finished_from", "run.finished_at >= ?"),
        ("finished_till", "run.finished_at <= ?"),
    ] {
        if let Some(at) = params.time(name)? {
            filter.and(condition, [at.micros().into()]);
        }
    }
    if let Some(port) = params.get::<u16>("port")? {
        let sql = "EXISTS (SELECT 1 FROM algorithm_port p WHERE p.run_id = run.id AND p.port = ?)";
        filter.and(sql, [i64::from(port).into()]);
    }
    Ok((filter, request))
}

fn lacks(noun: &str, id: impl std::fmt::Display) -> Problem {
    Problem::unauthorized("not_allowed", format!("You lack the permission to view runs from {noun} {id}!"))
}
