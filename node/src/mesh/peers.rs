use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use twinmesh_client::Api;
use twinmesh_overlay::{
    Clock,
    gate::{Gate, Listed},
    mesh::peer_id,
};
use twinmesh_protocol::{
    certificate::verify_certificate,
    id::{CollaborationId, OrganizationId},
    wire::PeerRecord,
};

use crate::trust::Sources;

/// How long the list of nodes is left alone after a stranger knocked, however many more do.
const STRANGERS_PAUSE: Duration = Duration::from_secs(1);

/// How long a run's start waits for the list of its twins' nodes.
const EXPECT_PATIENCE: Duration = Duration::from_secs(2);

/// The overlay's door: opens to nodes that an organization has certified whose key is pinned here.
#[derive(Debug, Default)]
pub struct KnownNodes {
    listed: Listed,
    /// Somebody knocked who is not listed: perhaps a node that has registered a moment ago.
    missed: Notify,
}

impl Gate for KnownNodes {
    fn admits(&self, peer: &twinmesh_overlay::PeerId) -> bool {
        let admits = self.listed.admits(peer);
        if !admits {
            self.missed.notify_one();
        }
        admits
    }
}

/// Where other nodes are, as the coordinator tells. Not trusted: their certificates are checked on every use.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    api: Api,
    collaboration_id: CollaborationId,
    sources: Arc<dyn Sources>,
    clock: Clock,
    door: Arc<KnownNodes>,
    known: Mutex<BTreeMap<OrganizationId, PeerRecord>>,
    /// Ends the task that follows the door.
    _stop: DropGuard,
}

impl Peers {
    /// Keeps the door's list up to date as long as one of the clones lives.
    pub fn new(
        api: Api,
        collaboration_id: CollaborationId,
        sources: Arc<dyn Sources>,
        clock: Clock,
        door: Arc<KnownNodes>,
    ) -> Self {
        let stop = CancellationToken::new();
        let inner = Arc::new(Inner {
            api,
            collaboration_id,
            sources,
            clock,
            door: door.clone(),
            known: Mutex::default(),
            _stop: stop.clone().drop_guard(),
        });
        let follower = Arc::downgrade(&inner);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = door.missed.notified() => {}
                    () = stop.cancelled() => return,
                }
                let Some(inner) = follower.upgrade() else { return };
                if let Err(error) = inner.fetch().await {
                    tracing::debug!(error, "the list of nodes cannot be had");
                }
                drop(inner);
                tokio::time::sleep(STRANGERS_PAUSE).await;
            }
        });
        Self { inner }
    }

    /// The node of an organization.
    pub(super) async fn find(&self, organization: OrganizationId) -> Result<PeerRecord, String> {
        let known = self.inner.known().get(&organization).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        self.inner.fetch().await?;
        self.inner
            .known()
            .get(&organization)
            .cloned()
            .ok_or_else(|| format!("the node of organization {organization} has not registered with the overlay"))
    }

    /// Asks for the list if one of these is not in it yet.
    pub(super) async fn expect(&self, organizations: impl Iterator<Item = &OrganizationId>) {
        let is_missing = {
            let known = self.inner.known();
            organizations.into_iter().any(|organization| !known.contains_key(organization))
        };
        if is_missing {
            // Whoever is missing still is waited for when dialled, and let in when it knocks.
            let _ = tokio::time::timeout(EXPECT_PATIENCE, self.inner.fetch()).await;
        }
    }

    /// Asks anew the next time.
    pub(super) fn forget(&self) {
        self.inner.known().clear();
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, BTreeMap<OrganizationId, PeerRecord>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn fetch(&self) -> Result<(), String> {
        let records = self.api.peer_list(self.collaboration_id).await.map_err(|error| error.to_string())?;
        let mut nodes = BTreeSet::new();
        for record in &records {
            match self.certified(record).await {
                Ok(peer) => {
                    nodes.insert(peer);
                }
                Err(reason) => {
                    tracing::debug!(organization.id = %record.organization_id, reason, "its node may not connect");
                }
            }
        }
        self.door.listed.set(nodes);
        self.known().extend(records.into_iter().map(|record| (record.organization_id, record)));
        Ok(())
    }

    /// The overlay identity of a node that its organization has certified.
    async fn certified(&self, record: &PeerRecord) -> Result<twinmesh_overlay::PeerId, String> {
        let organization = record.organization_id;
        let key = self.sources.key(organization).await.map_err(|error| error.to_string())?;
        let key = key.ed25519().ok_or("its organization has an RSA key, which certifies no node")?;
        let certificate = verify_certificate(&record.certificate, organization, &key, (self.clock)())
            .map_err(|error| error.to_string())?;
        if certificate.collaboration_id != self.collaboration_id {
            return Err("its certificate is for another collaboration".into());
        }
        peer_id(&certificate.node_key).ok_or_else(|| "its key is none".into())
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}
