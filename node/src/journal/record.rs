use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, sqlite::SqliteRow};
use twinmesh_protocol::{
    digest::Digest,
    id::{JobId, OrganizationId, RunId, TaskId},
    manifest::SignedManifest,
    time::Time,
};

use super::JournalError;

/// The seed of a run's random choices, the same in every attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

impl Seed {
    pub(super) fn random() -> Self {
        Self(rand::random())
    }

    /// The form in which a run gets it.
    pub fn to_hex(self) -> String {
        HEXLOWER.encode(&self.0)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed([redacted])")
    }
}

/// What of a task is needed until its run is done with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    pub image: String,
    /// The organization that asked.
    pub initiator: OrganizationId,
    /// What was signed, if anything.
    pub manifest: Option<SignedManifest>,
    /// The name of the job's mesh.
    pub mesh: String,
    /// The organizations that may take part in the job.
    pub members: Vec<OrganizationId>,
}

/// An external port of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRecord {
    pub external: u16,
    pub internal: u16,
    pub label: Option<String>,
}

impl PortRecord {
    pub(super) fn from_row(row: &SqliteRow) -> Result<Self, JournalError> {
        let port = |name: &str| -> Result<u16, JournalError> {
            let run_id = row.try_get("run_id")?;
            u16::try_from(row.try_get::<i64, _>(name)?)
                .map_err(|_| JournalError::Entry { run_id, problem: format!("`{name}` is no port") })
        };
        Ok(Self { external: port("external")?, internal: port("internal")?, label: row.try_get("label")? })
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// So many attempts were begun; the last may still run.
    Begun { attempts: u32 },
    /// It ended, and its report waits for delivery.
    Finished,
    /// The coordinator has its report.
    Delivered { at: Time },
}

/// What the journal knows about a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub run_id: RunId,
    pub task_id: TaskId,
    pub job_id: JobId,
    pub parent_id: Option<TaskId>,
    /// Absent when the run was refused.
    pub accepted: Option<Accepted>,
    pub accepted_at: Time,
    /// When the last attempt began.
    pub started_at: Time,
    pub stage: Stage,
}

/// What the journal knows about a run that was not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    pub seed: Seed,
    pub details: Details,
    pub ports: Vec<PortRecord>,
    pub token_digest: Digest,
}

impl Record {
    pub(super) fn from_row(row: &SqliteRow, ports: Vec<PortRecord>) -> Result<Self, JournalError> {
        let run_id: i64 = row.try_get("run_id")?;
        let unreadable = |problem: String| JournalError::Entry { run_id, problem };
        let attempts = u32::try_from(row.try_get::<i64, _>("attempts")?)
            .map_err(|_| unreadable("`attempts` is no number of attempts".into()))?;
        let time = |name: &str| row.try_get::<i64, _>(name).map(Time::from_micros);
        let delivered: Option<i64> = row.try_get("delivered_at")?;
        let finished: Option<i64> = row.try_get("finished_at")?;
        let details: String = row.try_get("details")?;
        let accepted = if details.is_empty() {
            None
        } else {
            let seed: Vec<u8> = row.try_get("seed")?;
            let digest: String = row.try_get("token_digest")?;
            Some(Accepted {
                seed: Seed(seed.try_into().map_err(|_| unreadable("`seed` has another length".into()))?),
                details: serde_json::from_str(&details).map_err(|error| unreadable(format!("`details`: {error}")))?,
                ports,
                token_digest: digest.parse().map_err(|error| unreadable(format!("`token_digest`: {error}")))?,
            })
        };
        Ok(Self {
            run_id: RunId::new(run_id),
            task_id: TaskId::new(row.try_get("task_id")?),
            job_id: JobId::new(row.try_get("job_id")?),
            parent_id: row.try_get::<Option<i64>, _>("parent_id")?.map(TaskId::new),
            accepted,
            accepted_at: time("accepted_at")?,
            started_at: time("started_at")?,
            stage: match (delivered, finished) {
                (Some(at), _) => Stage::Delivered { at: Time::from_micros(at) },
                (None, Some(_)) => Stage::Finished,
                (None, None) => Stage::Begun { attempts },
            },
        })
    }
}
