//! The runs' end of the overlay: who of them is in which job's mesh, under which port, and which twins it can dial.
//!
//! A run dials a twin's overlay address inside its own network; the node accepts there and splices the connection into a
//! stream to the twin's node, or to another run here. What other nodes' runs dial arrives as streams of the mesh and is
//! connected to the run that has the port.

mod peers;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddrV4,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use twinmesh_overlay::{
    Arrival, Arrivals, JobMeshes, TwinStream,
    carrier::{Carrier as _, RunSocket, Splice, splice},
    mesh::{MeshId, Refusal},
};
use twinmesh_protocol::{
    address::{overlay_address, overlay_organization},
    id::{CollaborationId, JobId, OrganizationId, RunId},
    key::OrganizationPublicKey,
};

use crate::{
    journal::PortRecord,
    runtime::{RunHandle, RunListener, RunStream},
};

pub use peers::{KnownNodes, Peers};

/// How long a twin that has not started yet is waited for when a run dials it.
const DIAL_PATIENCE: Duration = Duration::from_secs(20);

/// The pauses between attempts at dialling, doubling.
const DIAL_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(500));

/// How long a mesh stays open after its last run here has ended, if twins still read what it sent.
const DRAIN: Duration = Duration::from_secs(30);

/// How many twins' addresses one run may have open. Above what any job needs, below what a node can bear.
const MAX_LISTENERS: usize = 1024;

/// How many connections one run may have to its twins, both ways together. Each takes buffers and two open files of the node.
const MAX_CONNECTIONS: usize = 256;

/// What a run has to do with its job's mesh.
#[derive(Debug, Clone)]
pub struct Membership {
    pub run_id: RunId,
    pub job_id: JobId,
    pub mesh: MeshId,
    pub members: BTreeSet<OrganizationId>,
    pub ports: Vec<PortRecord>,
}

/// The meshes of this node's runs. Clones share them.
#[derive(Clone)]
pub struct RunMeshes {
    shared: Arc<Shared>,
}

struct Shared {
    meshes: JobMeshes,
    peers: Peers,
    organization_id: OrganizationId,
    collaboration_id: CollaborationId,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The runs that hold a mesh open.
    holders: BTreeMap<MeshId, BTreeSet<RunId>>,
    runs: BTreeMap<RunId, Joined>,
    /// Connections that are being carried, by mesh.
    carried: BTreeMap<MeshId, usize>,
}

struct Joined {
    membership: Membership,
    handle: Arc<dyn RunHandle>,
    listeners: BTreeSet<SocketAddrV4>,
    /// Its connections that may still be made.
    connections: Arc<Semaphore>,
    ended: CancellationToken,
}

/// A run that a twin wants to reach.
struct Target {
    handle: Arc<dyn RunHandle>,
    internal: u16,
    /// Absent when the run has as many connections as it may.
    permit: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for RunMeshes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunMeshes").finish_non_exhaustive()
    }
}

impl RunSocket for RunStream {
    fn reset_on_close(&mut self) {
        match self {
            Self::Tcp(stream) => stream.reset_on_close(),
            Self::Unix(stream) => stream.reset_on_close(),
        }
    }
}

impl RunMeshes {
    /// Takes over a node's meshes.
    pub fn start(
        meshes: JobMeshes,
        arrivals: Arrivals,
        peers: Peers,
        organization_id: OrganizationId,
        collaboration_id: CollaborationId,
    ) -> Self {
        let shared = Arc::new(Shared { meshes, peers, organization_id, collaboration_id, state: Mutex::default() });
        tokio::spawn(receive(arrivals, Arc::downgrade(&shared)));
        Self { shared }
    }

    /// The meshes underneath.
    pub fn job_meshes(&self) -> &JobMeshes {
        &self.shared.meshes
    }

    /// Sees to it that the nodes of a run's twins may connect, as far as they are registered.
    pub async fn expect(&self, members: &BTreeSet<OrganizationId>) {
        self.shared.peers.expect(members.iter().filter(|member| **member != self.shared.organization_id)).await;
    }

    /// Opens a run's mesh, before the run starts.
    pub fn open(&self, run_id: RunId, mesh: &MeshId, members: BTreeMap<OrganizationId, OrganizationPublicKey>) {
        let mut state = self.shared.state();
        state.holders.entry(mesh.clone()).or_default().insert(run_id);
        // Under the lock, so that a mesh that is just being closed is open afterwards.
        self.shared.meshes.open_mesh(mesh.clone(), self.shared.collaboration_id, members);
    }

    /// Connects a run that has started to its mesh.
    pub fn join(&self, membership: Membership, handle: Arc<dyn RunHandle>) {
        let mut state = self.shared.state();
        state.holders.entry(membership.mesh.clone()).or_default().insert(membership.run_id);
        let joined = Joined {
            handle,
            listeners: BTreeSet::new(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            ended: CancellationToken::new(),
            membership,
        };
        if let Some(former) = state.runs.insert(joined.membership.run_id, joined) {
            former.ended.cancel();
        }
    }

    /// Takes a run out of its mesh. The mesh is closed when no run here is in it and nothing is under way.
    pub fn leave(&self, run_id: RunId) {
        let mesh = {
            let mut state = self.shared.state();
            if let Some(joined) = state.runs.remove(&run_id) {
                joined.ended.cancel();
            }
            let held = state.holders.iter().find(|(_, runs)| runs.contains(&run_id)).map(|(mesh, _)| mesh.clone());
            let Some(mesh) = held else { return };
            if let Some(runs) = state.holders.get_mut(&mesh) {
                runs.remove(&run_id);
                if !runs.is_empty() {
                    return;
                }
            }
            mesh
        };
        let shared = self.shared.clone();
        tokio::spawn(async move { shared.close_when_drained(mesh).await });
    }

    /// Which of these addresses are twins' that the run may reach: members' own, not anything that somebody registered.
    pub fn reachable(&self, run_id: RunId, addresses: &[SocketAddrV4]) -> Vec<SocketAddrV4> {
        let state = self.shared.state();
        let Some(joined) = state.runs.get(&run_id) else { return Vec::new() };
        addresses.iter().copied().filter(|address| joined.membership.may_reach(address)).collect()
    }

    /// Makes the addresses exist inside the run.
    ///
    /// # Errors
    ///
    /// When the run has ended or does not open one of them.
    pub async fn listen(&self, run_id: RunId, addresses: &[SocketAddrV4]) -> io::Result<()> {
        for address in addresses {
            let (handle, ended) = {
                let mut state = self.shared.state();
                let joined = state.runs.get_mut(&run_id).ok_or(io::ErrorKind::NotConnected)?;
                if joined.listeners.contains(address) {
                    continue;
                }
                if joined.listeners.len() >= MAX_LISTENERS {
                    return Err(io::Error::other(format!("the run has {MAX_LISTENERS} twins' addresses already")));
                }
                joined.listeners.insert(*address);
                (joined.handle.clone(), joined.ended.clone())
            };
            match handle.listen(*address).await {
                Ok(listener) => {
                    let shared = self.shared.clone();
                    tokio::spawn(async move {
                        tokio::select! {
                            () = shared.serve(run_id, listener) => {}
                            () = ended.cancelled() => {}
                        }
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    tracing::debug!(run.id = %run_id, %address, "is listened at already");
                }
                Err(error) => {
                    if let Some(joined) = self.shared.state().runs.get_mut(&run_id) {
                        joined.listeners.remove(address);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The runs of a job that are in its mesh here.
    pub fn runs_of(&self, job_id: JobId) -> Vec<RunId> {
        let state = self.shared.state();
        state.runs.values().filter(|run| run.membership.job_id == job_id).map(|run| run.membership.run_id).collect()
    }

    /// Learns anew where other nodes are.
    pub fn forget_peers(&self) {
        self.shared.peers.forget();
    }
}

impl Membership {
    fn may_reach(&self, address: &SocketAddrV4) -> bool {
        address.port() >= twinmesh_protocol::address::FIRST_EXTERNAL_PORT
            && overlay_organization(*address.ip()).is_some_and(|organization| self.members.contains(&organization))
    }
}

/// Counts a carried connection as long as it lives.
struct Carrying {
    shared: Arc<Shared>,
    mesh: MeshId,
}

impl Drop for Carrying {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if let Some(count) = state.carried.get_mut(&self.mesh) {
            *count -= 1;
            if *count == 0 {
                state.carried.remove(&self.mesh);
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is complete in itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carrying(self: &Arc<Self>, mesh: &MeshId) -> Carrying {
        *self.state().carried.entry(mesh.clone()).or_default() += 1;
        Carrying { shared: self.clone(), mesh: mesh.clone() }
    }

    async fn close_when_drained(&self, mesh: MeshId) {
        let deadline = Instant::now() + DRAIN;
        loop {
            {
                let mut state = self.state();
                if state.holders.get(&mesh).is_none_or(|runs| !runs.is_empty()) {
                    return;
                }
                if !state.carried.contains_key(&mesh) || Instant::now() >= deadline {
                    state.holders.remove(&mesh);
                    self.meshes.close_mesh(&mesh);
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The run that has this port, in this mesh.
    fn target(&self, mesh: &MeshId, external: u16) -> Option<Target> {
        let state = self.state();
        state.runs.values().filter(|run| run.membership.mesh == *mesh).find_map(|run| {
            let port = run.membership.ports.iter().find(|port| port.external == external)?;
            let permit = run.connections.clone().try_acquire_owned().ok();
            Some(Target { handle: run.handle.clone(), internal: port.internal, permit })
        })
    }

    /// Takes what a run dials at one address.
    async fn serve(self: Arc<Self>, run_id: RunId, listener: RunListener) {
        let address = listener.address();
        let mut failures = 0_u32;
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    failures = 0;
                    let shared = self.clone();
                    tokio::spawn(async move { shared.dial(run_id, address, stream).await });
                }
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => {
                    failures += 1;
                    tracing::debug!(run.id = %run_id, %address, %error, "cannot accept what a run dials");
                    if failures > 100 {
                        return;
                    }
                    tokio::time::sleep(DIAL_PAUSE.0).await;
                }
            }
        }
    }

    /// Connects what a run dialled to its twin.
    async fn dial(self: Arc<Self>, run_id: RunId, address: SocketAddrV4, mut run: RunStream) {
        let joined =
            self.state().runs.get(&run_id).map(|joined| (joined.membership.clone(), joined.connections.clone()));
        let (Some((membership, connections)), Some(organization)) = (joined, overlay_organization(*address.ip()))
        else {
            run.reset_on_close();
            return;
        };
        let Ok(_permit) = connections.try_acquire() else {
            tracing::warn!(run.id = %run_id, %address, "the run has {MAX_CONNECTIONS} connections to twins, which is the limit");
            run.reset_on_close();
            return;
        };
        let _carrying = self.carrying(&membership.mesh);
        let result = if organization == self.organization_id {
            match self.dial_here(&membership.mesh, address.port()).await {
                Ok((twin, _permit)) => splice(&mut run, twin).await.map(|_| ()),
                Err(error) => Err(error),
            }
        } else {
            match self.dial_node(&membership.mesh, organization, address.port()).await {
                Ok(twin) => return log_end(run_id, address, Splice.carry(run, twin).await.map(|_| ())),
                Err(reason) => Err(io::Error::other(reason)),
            }
        };
        if result.is_err() {
            run.reset_on_close();
        }
        log_end(run_id, address, result);
    }

    /// Dials another run of this node.
    async fn dial_here(&self, mesh: &MeshId, port: u16) -> io::Result<(RunStream, OwnedSemaphorePermit)> {
        let source = overlay_address(self.organization_id);
        let mut patience = Patience::new();
        loop {
            let error = match self.target(mesh, port) {
                Some(Target { handle, internal, permit: Some(permit) }) => {
                    match handle.connect(source, internal).await {
                        Ok(stream) => return Ok((stream, permit)),
                        Err(error) => error,
                    }
                }
                Some(Target { permit: None, .. }) => io::Error::other("the run has as many connections as it may"),
                None => io::Error::other(format!("no run here has port {port}")),
            };
            if !patience.pause().await {
                return Err(error);
            }
        }
    }

    /// Dials a run of another node; one that has not started yet is waited for.
    async fn dial_node(&self, mesh: &MeshId, organization: OrganizationId, port: u16) -> Result<TwinStream, String> {
        let mut patience = Patience::new();
        loop {
            let reason = match self.peers.find(organization).await {
                Ok(record) => match self.meshes.dial(mesh, organization, &record, port).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => {
                        // A record that changed looks like one that is not trusted, or leads nowhere.
                        self.peers.forget();
                        if !error.may_pass() && patience.attempts > 0 {
                            return Err(error.to_string());
                        }
                        error.to_string()
                    }
                },
                Err(reason) => reason,
            };
            if !patience.pause().await {
                return Err(reason);
            }
        }
    }

    /// Connects a stream of another node to the run that has the port.
    async fn connect(self: Arc<Self>, arrival: Arrival) {
        let admitted = arrival.admitted.clone();
        let Some(Target { handle, internal, permit }) = self.target(&admitted.mesh, admitted.port) else {
            return arrival.refuse(Refusal::NoSuchPort { port: admitted.port }).await;
        };
        let Some(_permit) = permit else {
            tracing::warn!(organization.id = %admitted.organization_id, "a run has {MAX_CONNECTIONS} connections to twins, which is the limit");
            return arrival.refuse(Refusal::NotListening { port: admitted.port }).await;
        };
        let _carrying = self.carrying(&admitted.mesh);
        match handle.connect(overlay_address(admitted.organization_id), internal).await {
            Ok(run) => match arrival.accept().await {
                Ok(twin) => {
                    if let Err(error) = Splice.carry(run, twin).await {
                        tracing::debug!(organization.id = %admitted.organization_id, %error, "a twin's connection broke");
                    }
                }
                Err(error) => tracing::debug!(%error, "a twin did not wait"),
            },
            Err(error) => {
                tracing::debug!(port = admitted.port, %error, "the run does not accept its twin");
                arrival.refuse(Refusal::NotListening { port: admitted.port }).await;
            }
        }
    }
}

fn log_end(run_id: RunId, address: SocketAddrV4, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(run.id = %run_id, %address, %error, "a connection to a twin ended early");
    }
}

async fn receive(mut arrivals: Arrivals, shared: std::sync::Weak<Shared>) {
    while let Some(arrival) = arrivals.next().await {
        let Some(shared) = shared.upgrade() else { return };
        tokio::spawn(shared.connect(arrival));
    }
}

/// Pauses until patience is used up.
struct Patience {
    deadline: Instant,
    pause: Duration,
    attempts: u32,
}

impl Patience {
    fn new() -> Self {
        Self { deadline: Instant::now() + DIAL_PATIENCE, pause: DIAL_PAUSE.0, attempts: 0 }
    }

    async fn pause(&mut self) -> bool {
        if Instant::now() + self.pause > self.deadline {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(DIAL_PAUSE.1);
        self.attempts += 1;
        true
    }
}
