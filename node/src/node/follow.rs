//! Twins that appear while runs of the same job are here: their addresses are opened without being asked for, because an
//! algorithm may learn an address by other ways than from its gateway.

use std::{
    collections::BTreeMap,
    net::SocketAddrV4,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use twinmesh_protocol::{
    address::overlay_address,
    id::{JobId, OrganizationId, RunId},
};

use super::shared::Shared;
use crate::gateway::open_addresses;

/// How long a new twin is left alone: most runs end sooner, and nobody dials them.
const DELAY: Duration = Duration::from_millis(150);

/// Follows the ports that runs register.
#[derive(Debug)]
pub(super) struct Twins {
    shared: Arc<Shared>,
    pending: Arc<Mutex<BTreeMap<RunId, JobId>>>,
}

impl Twins {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, pending: Arc::default() }
    }

    /// A run of the job has registered a port.
    pub(super) fn registered(&self, run_id: RunId, job_id: JobId) {
        let Some(meshes) = &self.shared.meshes else { return };
        if meshes.runs_of(job_id).iter().all(|own| *own == run_id) {
            return;
        }
        let is_new = self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(run_id, job_id).is_none();
        if !is_new {
            return;
        }
        let (shared, pending) = (self.shared.clone(), self.pending.clone());
        tokio::spawn(async move {
            tokio::time::sleep(DELAY).await;
            let waits = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&run_id).is_some();
            if waits {
                open(&shared, run_id, job_id).await;
            }
        });
    }

    /// The run has finished, so nobody will dial it.
    pub(super) fn finished(&self, run_id: RunId) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&run_id);
    }
}

async fn open(shared: &Shared, twin: RunId, job_id: JobId) {
    let Some(meshes) = &shared.meshes else { return };
    let run = match shared.api.run_get(twin).await {
        Ok(run) => run,
        Err(error) => return tracing::debug!(run.id = %twin, %error, "cannot look at a twin"),
    };
    let organization = run.organization.as_ref().map(|link| OrganizationId::new(link.id));
    let Some(ip) = organization.and_then(overlay_address) else { return };
    if run.status.is_finished() {
        return;
    }
    let addresses: Vec<SocketAddrV4> = run.ports.iter().map(|port| SocketAddrV4::new(ip, port.port)).collect();
    for own in meshes.runs_of(job_id) {
        let reachable = meshes.reachable(own, &addresses);
        if let Err(error) = open_addresses(&shared.journal, meshes, own, &reachable).await {
            tracing::debug!(run.id = %own, %error, "a twin's address is not opened; the gateway will");
        }
    }
}
