//! Whether a request has made its task before.

use axum::http::StatusCode;
use twinmesh_protocol::wire::{NewTask, TaskDatabase};

use crate::algorithm_store::repository;
use crate::http::caller::Caller;
use crate::http::problem::Problem;
use crate::store;
use crate::store::task::TaskRecord;

/// The task that this request has made before, by the caller's own key or by its manifest.
pub(super) async fn find_repeated(
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
    if !is_repeat(request, &found, caller) || !has_inputs(caller, &found, request).await? {
        return Err(conflict(how));
    }
    Ok(Some(found))
}

/// Whether a task has the inputs of a request. Nothing longer than what the request brought is read for that.
async fn has_inputs(caller: &mut Caller, found: &TaskRecord, request: &NewTask) -> Result<bool, Problem> {
    let asked = || request.organizations.iter().map(|entry| (entry.id, entry.input.as_str()));
    let lengths = store::task::input_lengths(caller.tx.conn(), found.id).await?;
    if !asked().map(|(id, input)| (id, input.len() as u64)).eq(lengths) {
        return Ok(false);
    }
    let inputs = store::task::input_list(caller.tx.conn(), found.id).await?;
    Ok(asked().eq(inputs.iter().map(|(id, input)| (*id, input.as_str()))))
}

/// Whether everything but the inputs is the same.
fn is_repeat(request: &NewTask, found: &TaskRecord, caller: &Caller) -> bool {
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
