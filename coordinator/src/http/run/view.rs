//! Runs as they go over the wire (contract A.6), and what is asked of each before anything else.

use twinmesh_protocol::id::{ObjectId, RunId};
use twinmesh_protocol::wire::{One, Run, RunResultLink, Task};

use crate::authz::Target;
use crate::http::AppState;
use crate::http::caller::Caller;
use crate::http::problem::Problem;
use crate::ledger::open::KeptPayload;
use crate::store;
use crate::store::run::{RunPlace, RunRecord};

/// One run.
pub(crate) fn view(state: &AppState, record: RunRecord, task: Option<Task>) -> Run {
    let result = state.run_link("result", record.id);
    Run {
        id: record.id,
        status: record.state.status(),
        // What was removed by age is empty text (contract A.6).
        input: Some(record.input.unwrap_or_default()),
        log: record.log,
        assigned_at: Some(record.assigned_at),
        started_at: record.state.started_at(),
        finished_at: record.state.finished_at(),
        cleanup_at: record.cleanup_at,
        blob_storage_used: record.blob_storage_used,
        organization: Some(state.link("organization", record.organization_id)),
        task: Some(match task {
            Some(task) => One::Item(Box::new(task)),
            None => One::Link(state.task_link(record.task_id)),
        }),
        results: Some(RunResultLink { id: record.id, link: result.link, methods: result.methods }),
        node: record.node,
        ports: record.ports,
        kill_requested: record.state.kill_requested(),
    }
}

/// What decides who may see a run or report on it: whose task it is, where, and which node works on it.
pub(crate) fn target(place: &RunPlace) -> Target {
    Target::organization_in(place.init_org, place.collaboration_id).owned_by(place.init_user).at_node(place.node_id)
}

/// Finds a run.
pub(crate) async fn find(caller: &mut Caller, id: RunId) -> Result<RunPlace, Problem> {
    store::run::run_place(caller.tx.conn(), id).await?.ok_or_else(|| missing(id))
}

pub(crate) fn missing(id: RunId) -> Problem {
    Problem::not_found(format!("Run id={id} not found!"))
}

/// What is kept outside of the rows, if a payload's text names such; it must be whole and uploaded by the caller's
/// organization.
pub(crate) async fn find_kept(caller: &mut Caller, text: &str) -> Result<Option<KeptPayload>, Problem> {
    let Ok(id) = text.parse::<ObjectId>() else { return Ok(None) };
    let kept = store::object::object_claim(&mut caller.tx, id, caller.actor.organization).await?;
    let unknown = || Problem::bad_request("payload_unknown", format!("Your organization has no whole upload {id}"));
    Ok(Some(kept.ok_or_else(unknown)?))
}

/// An id for decisions about runs in general.
pub(crate) fn any_run() -> RunId {
    RunId::new(0)
}
