//! Which subtasks a run made, so that a run that starts over gets those it made before.
//!
//! A subtask is named by its content and by how often this attempt asked for the same content before: the second
//! attempt's first request for some content is the first attempt's first, and so on. A request whose answer never
//! reached the run does not count.

use std::collections::BTreeSet;

use sqlx::Row as _;
use twinmesh_protocol::{
    digest::Digest,
    id::{RunId, TaskId},
};

use super::{Journal, JournalError};

/// The digest of what a run asks for in a subtask.
pub type ContentKey = Digest;

/// The place that a request for a subtask takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubtaskClaim {
    pub run_id: RunId,
    pub content: ContentKey,
    pub occurrence: u32,
    /// The task that was made for it before.
    pub task_id: Option<TaskId>,
}

impl Journal {
    /// Claims the next place for a request of an attempt; `busy` are the places of requests that are under way.
    ///
    /// The caller lets one claim of a run be made at a time.
    pub async fn subtask_claim(
        &self,
        run_id: RunId,
        attempt: u32,
        content: ContentKey,
        busy: &BTreeSet<(ContentKey, u32)>,
    ) -> Result<SubtaskClaim, JournalError> {
        let rows = sqlx::query("SELECT * FROM subtask WHERE run_id = ? AND content = ? ORDER BY occurrence")
            .bind(run_id.get())
            .bind(content.to_string())
            .fetch_all(&self.pool)
            .await?;
        for row in &rows {
            let occurrence = number(row.try_get("occurrence")?, run_id)?;
            let answered: bool = row.try_get::<i64, _>("answered")? != 0;
            let of_this_attempt = row.try_get::<i64, _>("attempt")? == i64::from(attempt);
            if (of_this_attempt && answered) || busy.contains(&(content, occurrence)) {
                continue;
            }
            sqlx::query(
                "UPDATE subtask SET attempt = ?, answered = 0 WHERE run_id = ? AND content = ? AND occurrence = ?",
            )
            .bind(i64::from(attempt))
            .bind(run_id.get())
            .bind(content.to_string())
            .bind(i64::from(occurrence))
            .execute(&self.pool)
            .await?;
            let task_id = row.try_get::<Option<i64>, _>("task_id")?.map(TaskId::new);
            return Ok(SubtaskClaim { run_id, content, occurrence, task_id });
        }
        let occurrence = number(i64::try_from(rows.len()).unwrap_or(i64::MAX), run_id)?;
        sqlx::query(
            "INSERT INTO subtask (run_id, content, occurrence, attempt, answered, task_id) VALUES (?, ?, ?, ?, 0, NULL)",
        )
        .bind(run_id.get())
        .bind(content.to_string())
        .bind(i64::from(occurrence))
        .bind(i64::from(attempt))
        .execute(&self.pool)
        .await?;
        Ok(SubtaskClaim { run_id, content, occurrence, task_id: None })
    }

    /// Records which task was made, and that the run is now told of it.
    pub async fn subtask_answered(&self, claim: &SubtaskClaim, task_id: TaskId) -> Result<(), JournalError> {
        sqlx::query("UPDATE subtask SET task_id = ?, answered = 1 WHERE run_id = ? AND content = ? AND occurrence = ?")
            .bind(task_id.get())
            .bind(claim.run_id.get())
            .bind(claim.content.to_string())
            .bind(i64::from(claim.occurrence))
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

fn number(value: i64, run_id: RunId) -> Result<u32, JournalError> {
    u32::try_from(value)
        .map_err(|_| JournalError::Entry { run_id: run_id.get(), problem: "`occurrence` is out of range".into() })
}
