//! Which subtasks a run made, so that a run that starts over gets those it made before.
//!
//! A subtask is named by its content and by how often this attempt asked for the same content before: the second
//! attempt's first request for some content is the first attempt's first, and so on. A request whose answer never
//! reached the run does not count; of one that has a key this is known for sure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use twinmesh_protocol::{
    digest::Digest,
    id::{RunId, TaskId},
    manifest::{SignedManifest, TaskManifest},
    signed::SignedError,
    wire::NewTask,
};

use super::{Journal, JournalError};

/// The digest of what a run asks for in a subtask.
pub type ContentKey = Digest;

/// How many subtasks a run may make. Some rounds over all organizations are a few hundred.
pub const MAX_SUBTASKS: i64 = 10_000;

/// A subtask that a run made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subtask {
    /// What it is; known of all that this node sealed or signed.
    pub made: Option<Made>,
}

/// What a subtask is, as this node made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Made {
    Signed(SignedManifest),
    /// By an organization with an RSA key: the coordinator never sees this.
    Unsigned(TaskManifest),
}

impl Made {
    /// What the subtask is.
    ///
    /// # Errors
    ///
    /// When the journal was altered.
    pub fn manifest(self) -> Result<TaskManifest, SignedError> {
        match self {
            Self::Signed(signed) => signed.read_unverified(),
            Self::Unsigned(manifest) => Ok(manifest),
        }
    }
}

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
    ///
    /// # Errors
    ///
    /// [`JournalError::Subtasks`] when the run asked for too many already.
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
        self.subtask_room(run_id).await?;
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

    /// Claims the place of a request that the run gave a key, which its content comprises: it has only one, however often it
    /// is sent.
    ///
    /// # Errors
    ///
    /// As [`subtask_claim`](Self::subtask_claim).
    pub async fn subtask_claim_keyed(
        &self,
        run_id: RunId,
        attempt: u32,
        content: ContentKey,
    ) -> Result<SubtaskClaim, JournalError> {
        let select = "SELECT task_id FROM subtask WHERE run_id = ? AND content = ? AND occurrence = 0";
        let known: Option<Option<i64>> =
            sqlx::query_scalar(select).bind(run_id.get()).bind(content.to_string()).fetch_optional(&self.pool).await?;
        if known.is_none() {
            self.subtask_room(run_id).await?;
            sqlx::query(
                "INSERT INTO subtask (run_id, content, occurrence, attempt, answered, task_id) VALUES (?, ?, 0, ?, 0, NULL)",
            )
            .bind(run_id.get())
            .bind(content.to_string())
            .bind(i64::from(attempt))
            .execute(&self.pool)
            .await?;
        }
        Ok(SubtaskClaim { run_id, content, occurrence: 0, task_id: known.flatten().map(TaskId::new) })
    }

    async fn subtask_room(&self, run_id: RunId) -> Result<(), JournalError> {
        let made: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM subtask WHERE run_id = ?")
            .bind(run_id.get())
            .fetch_one(&self.pool)
            .await?;
        if made >= MAX_SUBTASKS { Err(JournalError::Subtasks) } else { Ok(()) }
    }

    /// Records what is asked of the coordinator for a subtask, with what it is, before anybody else sees it.
    ///
    /// Sealing draws new keys each time, so only the very same request is the same task to the coordinator.
    pub async fn subtask_made(&self, claim: &SubtaskClaim, made: &Made, request: &NewTask) -> Result<(), JournalError> {
        let entry =
            |error: serde_json::Error| JournalError::Entry { run_id: claim.run_id.get(), problem: error.to_string() };
        sqlx::query("UPDATE subtask SET manifest = ?, request = ? WHERE run_id = ? AND content = ? AND occurrence = ?")
            .bind(serde_json::to_string(made).map_err(entry)?)
            .bind(serde_json::to_string(request).map_err(entry)?)
            .bind(claim.run_id.get())
            .bind(claim.content.to_string())
            .bind(i64::from(claim.occurrence))
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// The request that was sent for a subtask and not answered yet, if there is one.
    pub async fn subtask_request(&self, claim: &SubtaskClaim) -> Result<Option<NewTask>, JournalError> {
        let request: Option<Option<String>> =
            sqlx::query_scalar("SELECT request FROM subtask WHERE run_id = ? AND content = ? AND occurrence = ?")
                .bind(claim.run_id.get())
                .bind(claim.content.to_string())
                .bind(i64::from(claim.occurrence))
                .fetch_optional(&self.pool)
                .await?;
        request
            .flatten()
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| JournalError::Entry { run_id: claim.run_id.get(), problem: error.to_string() })
    }

    /// Records which task was made, and that the run is now told of it.
    ///
    /// Answers `false`, and records nothing, when the task is that of another subtask.
    pub async fn subtask_answered(&self, claim: &SubtaskClaim, task_id: TaskId) -> Result<bool, JournalError> {
        let updated = sqlx::query(
            "UPDATE OR IGNORE subtask SET task_id = ?, answered = 1, request = NULL WHERE run_id = ? AND content = ? AND occurrence = ? \
             AND (task_id IS NULL OR task_id = ?)",
        )
        .bind(task_id.get())
        .bind(claim.run_id.get())
        .bind(claim.content.to_string())
        .bind(i64::from(claim.occurrence))
        .bind(task_id.get())
        .execute(&self.pool)
        .await?;
        Ok(updated.rows_affected() == 1)
    }

    /// The subtask of a run that a task is, if it is one.
    pub async fn subtask_fetch(&self, run_id: RunId, task_id: TaskId) -> Result<Option<Subtask>, JournalError> {
        let row = sqlx::query("SELECT manifest FROM subtask WHERE run_id = ? AND task_id = ?")
            .bind(run_id.get())
            .bind(task_id.get())
            .fetch_optional(&self.pool)
            .await?;
        let Some(row) = row else { return Ok(None) };
        let made = row
            .try_get::<Option<String>, _>("manifest")?
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| JournalError::Entry { run_id: run_id.get(), problem: error.to_string() })?;
        Ok(Some(Subtask { made }))
    }
}

fn number(value: i64, run_id: RunId) -> Result<u32, JournalError> {
    u32::try_from(value)
        .map_err(|_| JournalError::Entry { run_id: run_id.get(), problem: "`occurrence` is out of range".into() })
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use twinmesh_protocol::{
        id::{CollaborationId, JobId, OrganizationId},
        key::OrganizationKey,
        manifest::{MANIFEST_VERSION, Nonce, TaskManifest},
        signed::Signed,
        time::Time,
    };

    use super::*;
    use crate::journal::{Acceptance, Details};

    async fn journal(folder: &tempfile::TempDir) -> Journal {
        let journal = Journal::open(Utf8Path::from_path(folder.path()).unwrap(), None).await.unwrap();
        for run in [1, 2] {
            let details = Details {
                image: "image".into(),
                initiator: OrganizationId::new(1),
                manifest: None,
                mesh: "job-1".into(),
                members: vec![OrganizationId::new(1)],
            };
            let acceptance = Acceptance {
                run_id: RunId::new(run),
                task_id: TaskId::new(run),
                job_id: JobId::new(1),
                parent_id: None,
                details,
                manifest: None,
                ports: Vec::new(),
                token_digest: Digest::of(b"token"),
            };
            journal.run_begin(&acceptance, 1, Time::from_micros(0)).await.unwrap();
        }
        journal
    }

    #[tokio::test]
    async fn a_task_is_one_subtask_of_one_run() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder).await;
        let (task, none) = (TaskId::new(10), BTreeSet::new());
        let first = journal.subtask_claim(RunId::new(1), 1, Digest::of(b"first"), &none).await.unwrap();
        let second = journal.subtask_claim(RunId::new(1), 1, Digest::of(b"second"), &none).await.unwrap();
        let other = journal.subtask_claim(RunId::new(2), 1, Digest::of(b"first"), &none).await.unwrap();
        assert!(journal.subtask_answered(&first, task).await.unwrap());
        assert!(journal.subtask_answered(&first, task).await.unwrap(), "the same once more");
        assert!(!journal.subtask_answered(&second, task).await.unwrap());
        assert!(!journal.subtask_answered(&other, task).await.unwrap());
        assert!(!journal.subtask_answered(&first, TaskId::new(11)).await.unwrap());
        assert_eq!(journal.subtask_fetch(RunId::new(1), task).await.unwrap(), Some(Subtask { made: None }));
        assert_eq!(journal.subtask_fetch(RunId::new(2), task).await.unwrap(), None);
        assert_eq!(journal.subtask_fetch(RunId::new(1), TaskId::new(11)).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_request_is_kept_word_for_word_until_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder).await;
        let key = OrganizationKey::from_seed(&[1; 32]);
        let manifest = TaskManifest {
            version: MANIFEST_VERSION,
            collaboration_id: CollaborationId::new(1),
            image: "image".into(),
            function: "partial".into(),
            databases: Vec::new(),
            receivers: Vec::new(),
            initiator: OrganizationId::new(1),
            user_id: None,
            parent: None,
            delegation: None,
            nonce: Nonce::random(),
            issued_at: 0,
            not_after: 1,
        };
        let signed = Signed::sign(&manifest, &key).unwrap();
        for (task, made) in [(7, Made::Signed(signed)), (8, Made::Unsigned(manifest.clone()))] {
            let request: NewTask = serde_json::from_value(serde_json::json!({
                "image": "image", "organizations": [{"id": 1, "input": "sealed once"}],
            }))
            .unwrap();
            let content = Digest::of(&[task]);
            let claim = journal.subtask_claim_keyed(RunId::new(1), 1, content).await.unwrap();
            assert_eq!(journal.subtask_request(&claim).await.unwrap(), None);
            journal.subtask_made(&claim, &made, &request).await.unwrap();
            // The next attempt claims the same place and finds what was sent.
            let again = journal.subtask_claim_keyed(RunId::new(1), 2, content).await.unwrap();
            assert_eq!(journal.subtask_request(&again).await.unwrap(), Some(request));
            let task = TaskId::new(task.into());
            assert!(journal.subtask_answered(&again, task).await.unwrap());
            assert_eq!(journal.subtask_request(&again).await.unwrap(), None);
            let known = journal.subtask_fetch(RunId::new(1), task).await.unwrap().unwrap();
            assert_eq!(known.made, Some(made.clone()));
            assert_eq!(made.manifest().unwrap(), manifest);
        }
    }

    #[tokio::test]
    async fn a_run_makes_so_many_subtasks_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let journal = journal(&folder).await;
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) \
             INSERT INTO subtask (run_id, content, occurrence, attempt, answered) SELECT 1, i, 0, 1, 1 FROM n",
        )
        .bind(MAX_SUBTASKS)
        .execute(&journal.pool)
        .await
        .unwrap();
        let claim = |run| {
            let journal = journal.clone();
            async move { journal.subtask_claim(RunId::new(run), 1, Digest::of(b"one more"), &BTreeSet::new()).await }
        };
        assert!(matches!(claim(1).await, Err(JournalError::Subtasks)));
        assert!(claim(2).await.is_ok());
    }
}
