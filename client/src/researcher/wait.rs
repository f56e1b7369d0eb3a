use std::time::Duration;

use tokio::time::Instant;
use twinmesh_protocol::id::{OrganizationId, RunId, TaskId};
use twinmesh_protocol::status::{RunStatus, task_status};
use twinmesh_protocol::wire::Run;

use super::{Client, ClientError};

/// The shortest pause between questions to a coordinator that does not hold its answers.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause, and between looks at the runs.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An answer that took so long was held, so the next question may follow at once.
const HELD: Duration = Duration::from_secs(1);

/// How far a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Its status, as it follows from its runs.
    pub status: RunStatus,
    /// Its runs, by organization.
    pub runs: Vec<RunProgress>,
    /// How long it has been awaited.
    pub elapsed: Duration,
}

impl Progress {
    /// The number of runs that have ended.
    #[must_use]
    pub fn finished(&self) -> usize {
        self.runs.iter().filter(|run| run.status.is_finished()).count()
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunProgress {
    /// The run.
    pub run_id: RunId,
    /// Who runs it.
    pub organization_id: Option<OrganizationId>,
    /// Its status.
    pub status: RunStatus,
}

impl Client {
    /// Waits until a task has ended, well or not, and returns how. Learns it within a round trip of the coordinator,
    /// which holds its answer; waits for a coordinator that is away.
    ///
    /// # Errors
    /// When the task cannot be asked about, or the coordinator is away for too long.
    pub async fn wait(&self, task: TaskId) -> Result<RunStatus, ClientError> {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let asked = Instant::now();
            let status = self.retried(|| self.api.task_status(task)).await?.status;
            if status.is_finished() {
                return Ok(status);
            }
            if asked.elapsed() < HELD {
                tokio::time::sleep(pause).await;
                pause = longer(pause);
            }
        }
    }

    /// As [`Client::wait`], telling how far the task is from time to time and at its end.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub async fn wait_with_progress(
        &self,
        task: TaskId,
        mut tell: impl FnMut(&Progress),
    ) -> Result<RunStatus, ClientError> {
        let started = Instant::now();
        let mut pause = SHORTEST_PAUSE;
        let waited = self.wait(task);
        tokio::pin!(waited);
        let status = loop {
            // Progress is a courtesy: when it cannot be had, waiting goes on.
            let look = async {
                if let Ok(runs) = self.api.run_list(task).await {
                    tell(&progress(&runs, started.elapsed()));
                }
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                biased;
                status = &mut waited => break status,
                () = look => {}
            }
            pause = longer(pause);
        };
        if let Ok(runs) = self.api.run_list(task).await {
            tell(&progress(&runs, started.elapsed()));
        }
        status
    }
}

fn longer(pause: Duration) -> Duration {
    pause.mul_f64(1.5).min(LONGEST_PAUSE)
}

fn progress(runs: &[Run], elapsed: Duration) -> Progress {
    let mut runs: Vec<RunProgress> = runs
        .iter()
        .map(|run| RunProgress {
            run_id: run.id,
            organization_id: run.organization.as_ref().map(|link| OrganizationId::new(link.id)),
            status: run.status,
        })
        .collect();
    runs.sort_by_key(|run| (run.organization_id, run.run_id));
    Progress { status: task_status(runs.iter().map(|run| run.status)), runs, elapsed }
}
