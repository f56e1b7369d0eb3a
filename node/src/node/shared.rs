use std::sync::Arc;

use camino::Utf8PathBuf;
use twinmesh_client::Api;
use twinmesh_overlay::Clock;
use twinmesh_protocol::{
    id::{NodeId, RunId},
    time::Time,
};

use super::spool::Spool;
use crate::{
    config::Config, gateway::Services, journal::Journal, mesh::RunMeshes, policy::Policy, runtime::Runtime,
    sealing::Home, trust::Keyring,
};

/// What every part of a running node uses.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) node_id: NodeId,
    pub(super) home: Arc<Home>,
    pub(super) policy: Policy,
    pub(super) api: Api,
    pub(super) keyring: Arc<Keyring>,
    pub(super) journal: Journal,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) meshes: Option<RunMeshes>,
    pub(super) clock: DebugClock,
}

/// A clock that can stand in a struct that prints itself.
#[derive(Clone)]
pub(super) struct DebugClock(pub(super) Clock);

impl std::fmt::Debug for DebugClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Shared {
    pub(super) fn now(&self) -> Time {
        (self.clock.0)()
    }

    pub(super) fn services(&self) -> Services {
        Services {
            home: self.home.clone(),
            api: self.api.clone(),
            keyring: self.keyring.clone(),
            journal: self.journal.clone(),
            meshes: self.meshes.clone(),
            clock: self.clock.0.clone(),
        }
    }

    pub(super) fn run_directory(&self, run_id: RunId) -> Utf8PathBuf {
        self.config.state_directory.join("runs").join(run_id.to_string())
    }

    /// The directory of one attempt.
    pub(super) fn attempt_directory(&self, run_id: RunId, attempt: u32) -> Utf8PathBuf {
        self.run_directory(run_id).join(attempt.to_string())
    }

    /// Where large results wait for delivery.
    pub(super) fn spool(&self) -> Spool {
        Spool::new(&self.config.state_directory)
    }

    /// The folder that the runs of a job share. Named after the job's mesh, and so after what was signed: else the
    /// coordinator could have two jobs share it.
    pub(super) fn job_directory(&self, mesh: &str) -> Utf8PathBuf {
        self.config.state_directory.join("jobs").join(mesh)
    }
}
