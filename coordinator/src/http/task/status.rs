//! The held answer to "is it done yet?" (contract C.3).
//!
//! Stock clients ask at growing intervals. An answer that waits for the end tells them at once, and they need no
//! change for it. They take anything but a status for the end, so there is no error here that may pass by itself.

use std::future::pending;
use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use twinmesh_protocol::id::{EventSequence, TaskId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::wire::{EventKind, StatusAnswer};

use super::{find, not_found, target};
use crate::authz::action::ViewTask;
use crate::http::caller::Visitor;
use crate::http::path::Id;
use crate::http::problem::Problem;
use crate::store;
use crate::tally::Entry;

/// How long to wait before trying again what failed and may not be told.
const RETRY: Duration = Duration::from_millis(500);

/// Answers with the task's status: at once when it is finished, else when it finishes or the hold is over.
///
/// Whoever has many answers held already is told at once in any case.
#[utoipa::path(get, path = "/task/{id}/status", tag = "task", responses((status = 200, body = StatusAnswer)))]
#[tracing::instrument(name = "http.task.status", skip_all, fields(task.id = %id))]
pub(super) async fn status(visitor: Visitor, Id(id): Id<TaskId>) -> Response {
    let stop = visitor.state.shutdown().clone();
    tokio::select! {
        biased;
        // The connection ends without a word, and the client asks again where it finds somebody.
        () = stop.cancelled() => pending().await,
        answer = held(&visitor, id) => answer,
    }
}

async fn held(visitor: &Visitor, task: TaskId) -> Response {
    let (mut cursor, status, place) = loop {
        match look(visitor, task).await {
            Ok(found) => break found,
            Err(problem) => {
                let answer = problem.into_response();
                if !answer.status().is_server_error() {
                    return answer;
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    // Beyond what one may have held, questions are answered as stock servers do: an error would be taken for the end.
    let (false, Some(_place)) = (status.is_finished(), place) else { return answer(status) };
    let _held = visitor.state.meter().held();
    let over = tokio::time::sleep(visitor.state.status_hold());
    tokio::pin!(over);
    loop {
        let last = tokio::select! {
            () = wait(visitor, task, &mut cursor) => false,
            () = &mut over => true,
        };
        match read(visitor, task).await {
            Ok(Some(status)) if status.is_finished() || last => return answer(status),
            Ok(Some(_)) => {}
            Ok(None) => return not_found(task).into_response(),
            // Better late than wrong.
            Err(problem) => {
                drop(problem);
                tokio::time::sleep(RETRY).await;
                if last {
                    over.as_mut().reset(tokio::time::Instant::now());
                }
            }
        }
    }
}

/// Who asks may see the task, which stands so at this place of the log; and their place among those who wait.
async fn look(visitor: &Visitor, task: TaskId) -> Result<(EventSequence, RunStatus, Option<Entry<String>>), Problem> {
    // The place first: what is committed after it wakes, what was before is read.
    let cursor = visitor.state.follow().hub().await?.head();
    let mut caller = visitor.begin_read().await?;
    let record = find(&mut caller, task).await?;
    caller.permit::<ViewTask>(record.id, &target(&record))?;
    let place = if record.status.is_finished() { None } else { visitor.state.hold(&caller.actor) };
    Ok((cursor, record.status, place))
}

async fn wait(visitor: &Visitor, task: TaskId, cursor: &mut EventSequence) {
    match visitor.state.follow().hub().await {
        Ok(hub) => {
            let fits = |event: &twinmesh_protocol::wire::Event| {
                event.task_id == Some(task)
                    && event.kind == EventKind::RunStatus
                    && event.status.is_some_and(RunStatus::is_finished)
            };
            hub.wait_for(cursor, fits).await;
        }
        Err(_) => tokio::time::sleep(RETRY).await,
    }
}

async fn read(visitor: &Visitor, task: TaskId) -> Result<Option<RunStatus>, Problem> {
    let mut tx = visitor.state.store().read().await?;
    Ok(store::task::task_status_fetch(tx.conn(), task).await?)
}

fn answer(status: RunStatus) -> Response {
    Json(StatusAnswer { status }).into_response()
}
