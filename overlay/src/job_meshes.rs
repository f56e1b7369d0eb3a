//! The node's interface to its twins: opens and closes meshes, dials twins, and hands out those who dial.
//!
//! The shell around [`crate::mesh`]: it reads and writes the openings and answers, and cuts a mesh's streams when the
//! mesh is closed.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use libp2p::PeerId;
use tokio::{
    io::AsyncWriteExt,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;
use twinmesh_protocol::{
    certificate::SignedCertificate,
    id::{CollaborationId, OrganizationId},
    key::OrganizationPublicKey,
    time::Time,
    wire::PeerRecord,
};

use crate::{
    mesh::{Admitted, Mesh, Meshes},
    opening::{
        Answer, ExchangeError, MAX_ANSWER_BYTES, MAX_OPENING_BYTES, MeshId, Opening, Refusal, read_message,
        write_message,
    },
    stream::TwinStream,
    swarm::{Incoming, OpenError, Overlay},
};

/// How many streams of one peer may be at their opening at a time; further ones wait their turn. With
/// [`MAX_OPENING_BYTES`] it bounds what one peer can make us hold to 4 MiB.
const OPENINGS_PER_PEER: usize = 64;

/// How many streams of all peers together may be at their opening at a time: 32 MiB.
const OPENINGS: usize = 512;

/// Admitted streams that the node has not looked at yet. More wait, and their senders with them.
const ARRIVALS: usize = 64;

/// Why streams end with their mesh.
const MESH_CLOSED: &str = "the mesh of the job was closed";

/// Tells the time by which certificates are judged.
pub type Clock = Arc<dyn Fn() -> Time + Send + Sync>;

/// Who this node is to others.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The organization that the node speaks for.
    pub organization_id: OrganizationId,
    /// That organization's word for it.
    pub certificate: SignedCertificate,
}

/// Why a twin could not be dialled.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// This node itself refuses, before anything is sent: the peer is not what it is said to be.
    #[error("the node of organization {organization_id} is not trusted: {refusal}")]
    NotTrusted {
        /// The organization to be dialled.
        organization_id: OrganizationId,
        /// What is wrong.
        refusal: Refusal,
    },
    /// The twin's node refuses.
    #[error("the node of organization {organization_id} refuses: {refusal}")]
    Refused {
        /// The organization that was dialled.
        organization_id: OrganizationId,
        /// Its reason.
        refusal: Refusal,
    },
    /// The twin's node cannot be reached.
    #[error("cannot reach the node of organization {organization_id}")]
    Open {
        /// The organization to be dialled.
        organization_id: OrganizationId,
        /// Why.
        source: OpenError,
    },
    /// The twin's node was reached, but did not answer as it should.
    #[error("the node of organization {organization_id} did not answer properly: {reason}")]
    Exchange {
        /// The organization that was dialled.
        organization_id: OrganizationId,
        /// What happened.
        reason: String,
    },
}

impl DialError {
    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NotTrusted { .. } => false,
            Self::Refused { refusal, .. } => refusal.may_pass(),
            Self::Open { source, .. } => match source {
                OpenError::Unreachable { .. } | OpenError::Broken { .. } | OpenError::TooMany { .. } => true,
                OpenError::Unsupported { .. } | OpenError::Own { .. } | OpenError::Stopped => false,
            },
            Self::Exchange { .. } => true,
        }
    }
}

/// The job meshes of a node. Clones share them.
#[derive(Clone)]
pub struct JobMeshes {
    shared: Arc<Shared>,
}

struct Shared {
    overlay: Overlay,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    credentials: Credentials,
    meshes: Meshes,
    /// Cancelled when the mesh closes; every stream of the mesh hangs on it.
    cuts: BTreeMap<MeshId, CancellationToken>,
}

impl JobMeshes {
    /// Takes over a node's overlay: from now on its streams are admitted by mesh and certificate.
    #[must_use]
    pub fn start(overlay: Overlay, incoming: Incoming, credentials: Credentials, clock: Clock) -> (Self, Arrivals) {
        let state = State { credentials, meshes: Meshes::default(), cuts: BTreeMap::new() };
        let meshes = Self { shared: Arc::new(Shared { overlay, clock, state: Mutex::new(state) }) };
        let (sender, receiver) = mpsc::channel(ARRIVALS);
        // The task must not keep the overlay alive: it ends with the overlay, and that with its last handle.
        tokio::spawn(accept(incoming, Arc::downgrade(&meshes.shared), sender));
        (meshes, Arrivals { receiver })
    }

    /// The overlay under the meshes.
    #[must_use]
    pub fn overlay(&self) -> &Overlay {
        &self.shared.overlay
    }

    /// Replaces the certificate shown to others, before the old one expires.
    pub fn set_credentials(&self, credentials: Credentials) {
        self.shared.state().credentials = credentials;
    }

    /// Opens the mesh of a job to its members' nodes, each known by the key this node has pinned for the organization.
    /// Opening it again changes the members; streams that run stay.
    pub fn open_mesh(
        &self,
        mesh: MeshId,
        collaboration: CollaborationId,
        members: BTreeMap<OrganizationId, OrganizationPublicKey>,
    ) {
        let mut state = self.shared.state();
        state.cuts.entry(mesh.clone()).or_default();
        if state.meshes.open(mesh.clone(), Mesh { collaboration_id: collaboration, members }) {
            tracing::info!(%mesh, "mesh opened");
        }
    }

    /// Closes the mesh of a job: nobody enters any more, and its streams are cut, in both directions and at once.
    pub fn close_mesh(&self, mesh: &MeshId) {
        let mut state = self.shared.state();
        if state.meshes.close(mesh) {
            tracing::info!(%mesh, "mesh closed");
        }
        if let Some(cut) = state.cuts.remove(mesh) {
            cut.cancel();
        }
    }

    /// Whether the mesh is open here.
    #[must_use]
    pub fn is_open(&self, mesh: &MeshId) -> bool {
        self.shared.state().meshes.is_open(mesh)
    }

    /// Dials the given external port of an organization's node, over its peer record.
    ///
    /// The record's certificate is verified against the pinned key first, the node proves its key when the connection
    /// is made, and it verifies this node's certificate in turn.
    ///
    /// # Errors
    ///
    /// [`DialError`]; [`DialError::may_pass`] tells whether the twin may only not have started yet.
    pub async fn dial(
        &self,
        mesh: &MeshId,
        organization: OrganizationId,
        record: &PeerRecord,
        port: u16,
    ) -> Result<TwinStream, DialError> {
        let (peer, opening, cut) = {
            let state = self.shared.state();
            let not_trusted = |refusal| DialError::NotTrusted { organization_id: organization, refusal };
            let peer =
                state.meshes.verify_peer(mesh, organization, record, (self.shared.clock)()).map_err(not_trusted)?;
            let opening = Opening {
                mesh: mesh.clone(),
                organization_id: state.credentials.organization_id,
                certificate: state.credentials.certificate.clone(),
                port,
            };
            let cut = state
                .cuts
                .get(mesh)
                .cloned()
                .ok_or_else(|| not_trusted(Refusal::MeshNotOpen { mesh: mesh.clone() }))?;
            (peer, opening, cut)
        };
        let mut second_try = false;
        loop {
            let mut stream = self
                .shared
                .overlay
                .open(peer.peer, &peer.addresses)
                .await
                .map_err(|source| DialError::Open { organization_id: organization, source })?;
            stream.cut_by(cut.clone(), MESH_CLOSED);
            match ask(&mut stream, &opening).await {
                Ok(Answer::Ok(_)) => return Ok(stream),
                Ok(Answer::Refused(refusal)) => {
                    return Err(DialError::Refused { organization_id: organization, refusal });
                }
                // The connection may have been to a process that had died; a new one tells.
                Err(ExchangeError::Io(_)) if !second_try => second_try = true,
                Err(error) => {
                    return Err(DialError::Exchange { organization_id: organization, reason: error.to_string() });
                }
            }
        }
    }
}

impl fmt::Debug for JobMeshes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open: Vec<MeshId> = self.shared.state().cuts.keys().cloned().collect();
        f.debug_struct("JobMeshes").field("open", &open).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, remote: PeerId, opening: &Opening) -> Result<(Admitted, CancellationToken), Refusal> {
        let state = self.state();
        let admitted = state.meshes.admit(remote, opening, (self.clock)())?;
        let cut = state
            .cuts
            .get(&opening.mesh)
            .cloned()
            .ok_or_else(|| Refusal::MeshNotOpen { mesh: opening.mesh.clone() })?;
        Ok((admitted, cut))
    }
}

async fn ask(stream: &mut TwinStream, opening: &Opening) -> Result<Answer, ExchangeError> {
    write_message(stream, opening).await?;
    read_message(stream, MAX_ANSWER_BYTES).await
}

/// The streams that members' nodes have opened.
#[derive(Debug)]
pub struct Arrivals {
    receiver: mpsc::Receiver<Arrival>,
}

impl Arrivals {
    /// Waits for the next stream; `None` once the overlay has been shut down.
    pub async fn next(&mut self) -> Option<Arrival> {
        self.receiver.recv().await
    }
}

/// A stream that may enter its mesh, and whose opener waits to hear whether the port is there.
#[derive(Debug)]
pub struct Arrival {
    /// Who it is, and what they want.
    pub admitted: Admitted,
    stream: TwinStream,
    cut: CancellationToken,
}

/// The opener of a stream had gone before it got its answer.
#[derive(Debug, thiserror::Error)]
#[error("the twin's node was gone before it could be answered: {reason}")]
pub struct OpenerGone {
    reason: String,
}

impl Arrival {
    /// Tells the opener that its stream is connected, and hands it out.
    ///
    /// # Errors
    ///
    /// [`OpenerGone`] when nobody is there to hear it.
    pub async fn accept(mut self) -> Result<TwinStream, OpenerGone> {
        self.stream.cut_by(self.cut, MESH_CLOSED);
        match write_message(&mut self.stream, &Answer::Ok(true)).await {
            Ok(()) => Ok(self.stream),
            Err(error) => Err(OpenerGone { reason: error.to_string() }),
        }
    }

    /// Tells the opener why it is not connected.
    pub async fn refuse(self, refusal: Refusal) {
        refuse(self.stream, refusal).await;
    }
}

/// Reads the openings of arriving streams, each in its own task, so that a slow one holds nobody else up.
async fn accept(mut incoming: Incoming, shared: std::sync::Weak<Shared>, arrivals: mpsc::Sender<Arrival>) {
    let mut turns: BTreeMap<PeerId, Arc<Semaphore>> = BTreeMap::new();
    let places = Arc::new(Semaphore::new(OPENINGS));
    loop {
        let stream = tokio::select! {
            stream = incoming.next() => stream,
            () = arrivals.closed() => None,
        };
        let Some(stream) = stream else { return };
        turns.retain(|_, turns| Arc::strong_count(turns) > 1);
        let turns = turns.entry(stream.peer()).or_insert_with(|| Arc::new(Semaphore::new(OPENINGS_PER_PEER))).clone();
        tokio::spawn(negotiate(stream, [turns, places.clone()], shared.clone(), arrivals.clone()));
    }
}

async fn negotiate(
    mut stream: TwinStream,
    [turns, places]: [Arc<Semaphore>; 2],
    shared: std::sync::Weak<Shared>,
    arrivals: mpsc::Sender<Arrival>,
) {
    // First its turn among its peer's, so that one peer's many do not wait in the way of all others.
    let Ok(turn): Result<OwnedSemaphorePermit, _> = turns.acquire_owned().await else { return };
    let Ok(place) = places.acquire_owned().await else { return };
    let peer = stream.peer();
    let opening: Opening = match read_message(&mut stream, MAX_OPENING_BYTES).await {
        Ok(opening) => opening,
        Err(error) => {
            tracing::debug!(%peer, %error, "a stream's opening cannot be read");
            return refuse(stream, Refusal::Malformed { reason: error.to_string() }).await;
        }
    };
    let Some(decision) = shared.upgrade().map(|shared| shared.admit(peer, &opening)) else { return };
    match decision {
        Ok((admitted, cut)) => {
            // If the receiver has gone, so has the node.
            let _ = arrivals.send(Arrival { admitted, stream, cut }).await;
        }
        Err(refusal) => {
            tracing::warn!(%peer, mesh = %opening.mesh, organization.id = %opening.organization_id, %refusal, "stream refused");
            refuse(stream, refusal).await;
        }
    }
    drop((turn, place));
}

async fn refuse(mut stream: TwinStream, refusal: Refusal) {
    let answer = Answer::Refused(refusal);
    if let Err(error) = write_message(&mut stream, &answer).await {
        tracing::debug!(peer = %stream.peer(), %error, "a refusal was not heard");
        return;
    }
    // Waiting for the end to be acknowledged has its limit; whoever does not listen has none to complain.
    let _ = tokio::time::timeout(crate::opening::EXCHANGE_TIMEOUT, stream.shutdown()).await;
}
