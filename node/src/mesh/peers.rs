use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use twinmesh_client::Api;
use twinmesh_protocol::{
    id::{CollaborationId, OrganizationId},
    wire::PeerRecord,
};

/// Where other nodes are, as the coordinator tells. Not trusted: their certificates are checked on every use.
#[derive(Debug)]
pub struct Peers {
    api: Api,
    collaboration_id: CollaborationId,
    known: Mutex<BTreeMap<OrganizationId, PeerRecord>>,
}

impl Peers {
    pub fn new(api: Api, collaboration_id: CollaborationId) -> Self {
        Self { api, collaboration_id, known: Mutex::default() }
    }

    /// The node of an organization.
    pub(super) async fn find(&self, organization: OrganizationId) -> Result<PeerRecord, String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&organization).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let records = self.api.peer_list(self.collaboration_id).await.map_err(|error| error.to_string())?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            known.insert(record.organization_id, record);
        }
        known
            .get(&organization)
            .cloned()
            .ok_or_else(|| format!("the node of organization {organization} has not registered with the overlay"))
    }

    /// Asks anew the next time.
    pub(super) fn forget(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
