//! The runs and results of a run's own subtasks.
//!
//! A coordinator may lie about both. So a run gets results of the subtasks only that the journal knows as its own; whose
//! they are and for what follows from what this node signed for the subtask; and each of its receivers has exactly one.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
};

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use twinmesh_client::Api;
use twinmesh_protocol::{
    id::{ObjectId, OrganizationId, RunId, TaskId},
    manifest::TaskManifest,
    payload,
    sealed::Direction,
    status::RunStatus,
    wire::{One, Run, RunResult},
};

use super::{Failure, Gateway, forward::patiently, query::Arguments};
use crate::{sealing::Correspondent, trust::Sources as _};

/// The largest result of a subtask that a run is handed, as it is handed in memory.
const MAX_RESULT_BYTES: u64 = 128 << 20;

type Runs = Arc<BTreeMap<RunId, OrganizationId>>;

impl Gateway {
    /// Runs: those of an own subtask are checked, all others are the coordinator's word.
    pub(super) async fn runs(&self, api: &Api, arguments: &Arguments, target: &str) -> Result<Value, Failure> {
        let manifest = match arguments.number("task_id")?.map(TaskId::new) {
            Some(task_id) => self.own_subtask(task_id).await?.flatten().map(|manifest| (task_id, manifest)),
            None => None,
        };
        let Some((task_id, manifest)) = manifest else {
            return self.forward(api, Method::GET, target).await;
        };
        if arguments.number("page")?.is_some_and(|page| page > 1) {
            return Ok(whole::<()>(&[]));
        }
        let known = self.runs_of(api, task_id, &manifest).await?;
        let mut listed = patiently(|| api.run_list(task_id)).await?;
        if checked(task_id, &manifest, &listed)? != *known {
            return Err(lie(format!("the coordinator lists other runs of task {task_id} than before")));
        }
        listed.sort_by_key(|run| std::cmp::Reverse(run.id));
        Ok(whole(&listed))
    }

    /// One run, checked when it is of an own subtask.
    pub(super) async fn run(&self, api: &Api, target: &str) -> Result<Value, Failure> {
        let item = self.forward(api, Method::GET, target).await?;
        let run: Run = serde_json::from_value(item.clone())
            .map_err(|error| Failure::new(StatusCode::BAD_GATEWAY, format!("the coordinator's run: {error}")))?;
        if let Some(task_id) = task_of(&run)
            && let Some(Some(manifest)) = self.own_subtask(task_id).await?
        {
            let known = self.runs_of(api, task_id, &manifest).await?.get(&run.id).copied();
            if known.is_none() || known != organization_of(&run) {
                return Err(lie(format!("the coordinator does not say the same of run {} as before", run.id)));
            }
        }
        Ok(item)
    }

    /// The results of an own subtask, opened: all of them on the first page.
    pub(super) async fn results(&self, api: &Api, arguments: &Arguments) -> Result<Value, Failure> {
        let Some(task_id) = arguments.number("task_id")?.map(TaskId::new) else {
            return Err(Failure::new(StatusCode::BAD_REQUEST, "give the `task_id` whose results are wanted"));
        };
        let manifest = self.subtask(task_id).await?;
        if arguments.number("page")?.is_some_and(|page| page > 1) {
            return Ok(whole::<()>(&[]));
        }
        let mut results = patiently(|| api.result_list(task_id)).await?;
        results.sort_by_key(|result| std::cmp::Reverse(result.id));
        for result in &mut results {
            fetch(api, result).await?;
        }
        if let Some(manifest) = manifest {
            let runs = self.runs_of(api, task_id, &manifest).await?;
            // The runs come in the opposite order.
            if !results.iter().map(|result| &result.id).eq(runs.keys().rev()) {
                return Err(lie(format!(
                    "the coordinator's {} results are not those of the {} runs of task {task_id}",
                    results.len(),
                    runs.len()
                )));
            }
            for result in &mut results {
                self.open(api, task_id, &manifest, &runs, result).await?;
            }
        }
        Ok(whole(&results))
    }

    /// One result of an own subtask, opened.
    pub(super) async fn result(&self, api: &Api, run_id: RunId) -> Result<Value, Failure> {
        let mut result = patiently(|| api.result_get(run_id)).await?;
        let task_id = result.task.as_ref().map(|task| TaskId::new(task.id));
        let task_id = task_id.ok_or_else(|| lie(format!("the result of run {run_id} does not name its task")))?;
        let manifest = self.subtask(task_id).await?;
        if result.id != run_id {
            return Err(lie(format!("the coordinator answers with run {} when asked for {run_id}", result.id)));
        }
        fetch(api, &mut result).await?;
        if let Some(manifest) = manifest {
            let runs = self.runs_of(api, task_id, &manifest).await?;
            self.open(api, task_id, &manifest, &runs, &mut result).await?;
        }
        Ok(json!(result))
    }

    /// What a task is, if the run may read its results; none in an open collaboration without signatures.
    async fn subtask(&self, task_id: TaskId) -> Result<Option<TaskManifest>, Failure> {
        let manifest = self.own_subtask(task_id).await?.ok_or_else(|| {
            Failure::new(
                StatusCode::FORBIDDEN,
                format!("task {task_id} is no subtask of this run, so its results are not for it"),
            )
        })?;
        if manifest.is_none() && self.services.home.encrypted {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                format!(
                    "it is not known for whom task {task_id} was sealed, so its results cannot be told from forged ones"
                ),
            ));
        }
        Ok(manifest)
    }

    /// Whether a task is a subtask that this run made, and what it is as far as it was sealed or signed.
    async fn own_subtask(&self, task_id: TaskId) -> Result<Option<Option<TaskManifest>>, Failure> {
        let failed = |text: String| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, text);
        let subtask = self.services.journal.subtask_fetch(self.served.run_id, task_id).await;
        let Some(subtask) = subtask.map_err(|error| failed(error.to_string()))? else { return Ok(None) };
        let Some(made) = subtask.made else { return Ok(Some(None)) };
        let manifest = made.manifest().map_err(|error| failed(format!("the journal's {error}")))?;
        let parent = self.served.accepted.details.manifest.as_ref().map(|parent| parent.digest());
        if manifest.parent != parent {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                format!("task {task_id} is a subtask of another task than this run's"),
            ));
        }
        Ok(Some(Some(manifest)))
    }

    /// The runs of a subtask: one for each receiver.
    async fn runs_of(&self, api: &Api, task_id: TaskId, manifest: &TaskManifest) -> Result<Runs, Failure> {
        let known = self.runs.lock().unwrap_or_else(PoisonError::into_inner).get(&task_id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let listed = patiently(|| api.run_list(task_id)).await?;
        let checked = Arc::new(checked(task_id, manifest, &listed)?);
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever came first is believed, or two questions at once could be answered differently.
        Ok(Arc::clone(runs.entry(task_id).or_insert(checked)))
    }

    /// Replaces a sealed result by base64 of its content.
    ///
    /// One that is not sealed, or cannot be opened, is an error: a central function must not go on without noticing.
    async fn open(
        &self,
        api: &Api,
        task_id: TaskId,
        manifest: &TaskManifest,
        runs: &BTreeMap<RunId, OrganizationId>,
        result: &mut RunResult,
    ) -> Result<(), Failure> {
        let run_id = result.id;
        let organization_id = runs.get(&run_id).copied().ok_or_else(|| {
            lie(format!("the coordinator offers run {run_id} as one of task {task_id}, which it is not"))
        })?;
        let refuse = |reason: &dyn std::fmt::Display| {
            lie(format!("the result of organization {organization_id} (run {run_id}) cannot be opened: {reason}"))
        };
        if result.task.as_ref().map(|task| TaskId::new(task.id)) != Some(task_id)
            || result.run.as_ref().is_some_and(|run| RunId::new(run.id) != run_id)
        {
            return Err(refuse(&format!("it is said to be of another run or task than {task_id}")));
        }
        if !self.services.home.encrypted {
            return Ok(());
        }
        let Some(text) = result.result.as_ref().filter(|text| !text.is_empty()) else {
            let run = patiently(|| api.run_get(run_id)).await?;
            return match run.status {
                RunStatus::Completed => Err(refuse(&"it is missing, though the run is completed")),
                _ => Ok(()),
            };
        };
        let key = self.services.keyring.key(organization_id).await.map_err(|error| {
            let status = if error.is_transient() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN };
            Failure::new(status, format!("the result of organization {organization_id} cannot be opened: {error}"))
        })?;
        let from = Correspondent { organization_id, key, nonce: Some(manifest.nonce) };
        let content = self.services.home.read(Direction::Result, Some(&from), text).map_err(|error| refuse(&error))?;
        result.result = Some(payload::to_text(&content));
        Ok(())
    }
}

/// Puts a result that is kept as an object where small ones are, which is where algorithms look.
async fn fetch(api: &Api, result: &mut RunResult) -> Result<(), Failure> {
    let object = result.result.as_deref().and_then(|text| text.parse::<ObjectId>().ok());
    let Some(id) = object.filter(|_| result.blob_storage_used) else { return Ok(()) };
    let object = patiently(|| api.object_get(id, MAX_RESULT_BYTES)).await?;
    let unreadable = |error| lie(format!("the result of run {} cannot be read: {error}", result.id));
    result.result = Some(payload::text_from_object(object).map_err(unreadable)?);
    result.blob_storage_used = false;
    Ok(())
}

/// A list that is complete on its first page.
fn whole<T: serde::Serialize>(items: &[T]) -> Value {
    json!({"data": items, "links": {}})
}

/// What the coordinator says cannot be true.
fn lie(text: String) -> Failure {
    tracing::warn!("{text}");
    Failure::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}

/// Whether the runs listed are those of a subtask, each receiver's once.
pub(super) fn checked(
    task_id: TaskId,
    manifest: &TaskManifest,
    listed: &[Run],
) -> Result<BTreeMap<RunId, OrganizationId>, Failure> {
    let mut runs = BTreeMap::new();
    for run in listed {
        if task_of(run).is_some_and(|named| named != task_id) {
            return Err(lie(format!("the coordinator lists run {} under task {task_id}, of which it is not", run.id)));
        }
        let organization = organization_of(run);
        let organization =
            organization.ok_or_else(|| lie(format!("the coordinator does not say where run {} runs", run.id)))?;
        if runs.insert(run.id, organization).is_some() {
            return Err(lie(format!("the coordinator lists run {} of task {task_id} twice", run.id)));
        }
    }
    let mut found: Vec<OrganizationId> = runs.values().copied().collect();
    let mut asked: Vec<OrganizationId> = manifest.receivers.iter().map(|receiver| receiver.organization_id).collect();
    found.sort_unstable();
    asked.sort_unstable();
    if found == asked {
        return Ok(runs);
    }
    let names = |ids: &[OrganizationId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    Err(lie(format!(
        "task {task_id} asked the organizations {}, but the coordinator lists runs of {}",
        names(&asked),
        if found.is_empty() { "none".into() } else { names(&found) }
    )))
}

fn task_of(run: &Run) -> Option<TaskId> {
    run.task.as_ref().map(|task| match task {
        One::Link(link) => TaskId::new(link.id),
        One::Item(task) => task.id,
    })
}

fn organization_of(run: &Run) -> Option<OrganizationId> {
    run.organization.as_ref().map(|organization| OrganizationId::new(organization.id))
}
