//! Tasks as they go over the wire (contract A.6).

use std::collections::BTreeMap;

use twinmesh_protocol::id::{AlgorithmStoreId, StudyId, TaskId};
use twinmesh_protocol::wire::{Many, Run, RunResult, Task};

use crate::http::AppState;
use crate::http::caller::Caller;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::{result::view as result, run::view as run};
use crate::store;
use crate::store::task::TaskRecord;

/// What stands in a task in place of its link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Include {
    pub(crate) runs: bool,
    pub(crate) results: bool,
}

impl Include {
    pub(crate) fn read(params: &Params) -> Self {
        Self { runs: params.includes("runs"), results: params.includes("results") }
    }

    /// Whether anything of runs is shown.
    pub(crate) fn any(self) -> bool {
        self.runs || self.results
    }
}

/// One task with links only.
pub(crate) fn task(state: &AppState, record: TaskRecord) -> Task {
    let id = record.id;
    Task {
        id,
        name: record.name,
        description: record.description,
        image: record.image,
        job_id: record.job_id,
        created_at: Some(record.created_at),
        status: record.status,
        finished_at: record.finished_at,
        collaboration: Some(state.link("collaboration", record.collaboration_id)),
        study: record.study_id.map(|id: StudyId| state.link("study", id)),
        algorithm_store: record.store_id.map(|id: AlgorithmStoreId| state.link("algorithmstore", id)),
        init_org: Some(state.link("organization", record.init_org)),
        init_user: record.init_user.map(|id| state.link("user", id)),
        parent: record.parent_id.map(|id| state.task_link(id)),
        children: state.many("task", "parent_id", id),
        runs: Some(Many::Link(state.many("run", "task_id", id))),
        results: Many::Link(state.many("result", "task_id", id)),
        databases: record.databases,
        manifest: record.manifest,
    }
}

/// Tasks with what is to be included, in one query of each kind for all of them.
pub(crate) async fn tasks(
    caller: &mut Caller,
    records: Vec<TaskRecord>,
    include: Include,
) -> Result<Vec<Task>, Problem> {
    let state = caller.state.clone();
    let ids: Vec<TaskId> = records.iter().map(|record| record.id).collect();
    let mut tasks: Vec<Task> = records.into_iter().map(|record| task(&state, record)).collect();
    if include.runs {
        let mut runs: BTreeMap<TaskId, Vec<Run>> = BTreeMap::new();
        for record in store::run::run_list(caller.tx.conn(), ids.iter().copied()).await? {
            runs.entry(record.task_id).or_default().push(run::view(&state, record, None));
        }
        for task in &mut tasks {
            task.runs = Some(Many::Items(runs.remove(&task.id).unwrap_or_default()));
        }
    }
    if include.results {
        let mut results: BTreeMap<TaskId, Vec<RunResult>> = BTreeMap::new();
        for record in store::run::result_list(caller.tx.conn(), ids.iter().copied()).await? {
            results.entry(record.task_id).or_default().push(result::view(&state, record));
        }
        for task in &mut tasks {
            task.results = Many::Items(results.remove(&task.id).unwrap_or_default());
        }
    }
    Ok(tasks)
}
