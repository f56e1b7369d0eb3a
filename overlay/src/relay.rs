//! The coordinator's side of the overlay: the place where nodes that cannot reach each other meet.
//!
//! It forwards what nodes have encrypted for each other and learns who talks to whom and how much, not what. Only nodes
//! that the coordinator knows may connect at all.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, autonat, connection_limits, identify,
    identity::Keypair,
    ping, relay,
    swarm::{self, NetworkBehaviour, SwarmEvent},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    address,
    gate::{self, Gate, Listed},
    listen::{StartError, listen},
    swarm::behaviour::{IDENTIFY_PROTOCOL, PING_INTERVAL, PING_TIMEOUT},
};

/// How many nodes may have their place at the relay. Each costs a connection and a few KiB.
const MAX_RESERVATIONS: usize = 4096;

/// How many pairs of nodes may talk through the relay at a time.
const MAX_CIRCUITS: usize = 4096;

/// How many of these may begin at one node.
const MAX_CIRCUITS_PER_PEER: usize = 256;

/// A node that was killed leaves connections behind that count until they are noticed.
const MAX_RESERVATIONS_PER_PEER: usize = 16;

/// How long a circuit may last: longer than any job. A node's own time limits end jobs, not the path under them.
const MAX_CIRCUIT_DURATION: Duration = Duration::from_secs(30 * 24 * 3600);

/// How long a connection that the relay made, to call a node back, is kept when it has served. Those that nodes make are
/// kept while idle: they carry a reservation, or keep a NAT's mapping open.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections per node: TCP, QUIC, calls back, and dead ones that have not been noticed.
const MAX_CONNECTIONS_PER_PEER: u32 = 16;

/// Handshakes in progress, which anybody on the Internet can begin.
const MAX_PENDING: u32 = 256;

/// Requests that wait for the relay's task, which answers within microseconds.
const COMMANDS: usize = 16;

/// How to run a relay.
#[derive(Clone)]
pub struct RelayConfig {
    /// The seed of the relay's Ed25519 key (RFC 8032). Nodes are told its peer id; keep the seed to keep the id.
    pub identity_seed: [u8; 32],
    /// Where to listen. Port 0 lets the system choose.
    pub listen: Vec<Multiaddr>,
    /// Where nodes reach it, when that is not where it listens (behind a forwarded port, or by name).
    pub external: Vec<Multiaddr>,
    /// The nodes that may use it; changed by [`RelayHandle::set_admitted`] and [`RelayHandle::admit`].
    pub admitted: BTreeSet<PeerId>,
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayConfig")
            .field("identity_seed", &"[redacted]")
            .field("listen", &self.listen)
            .field("external", &self.external)
            .field("admitted", &self.admitted)
            .finish()
    }
}

/// What the relay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStats {
    /// Nodes that are connected.
    pub nodes: usize,
    /// Nodes that can be reached through the relay.
    pub reservations: usize,
    /// Circuits that are open.
    pub circuits: usize,
    /// Circuits that were opened since the start.
    pub circuits_opened: u64,
    /// Circuits that were refused since the start, mostly because the other node was not there.
    pub circuits_denied: u64,
}

/// A relay that runs. It ends with its last handle, or by [`RelayHandle::shutdown`].
#[derive(Clone, Debug)]
pub struct RelayHandle {
    peer_id: PeerId,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    admitted: Listed,
    commands: mpsc::Sender<Command>,
    stats: Arc<Mutex<RelayStats>>,
}

#[derive(Debug)]
enum Command {
    Expel,
    Shutdown { done: oneshot::Sender<()> },
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    gate: gate::Behaviour,
    limits: connection_limits::Behaviour,
    relay: relay::Behaviour,
    autonat: autonat::v2::server::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
}

/// The relay of a coordinator.
#[derive(Debug)]
pub struct Relay;

impl Relay {
    /// Starts a relay and returns when it listens.
    ///
    /// # Errors
    ///
    /// [`StartError`] when an address cannot be listened at.
    pub async fn start(config: RelayConfig) -> Result<RelayHandle, StartError> {
        let admitted = Listed::new(config.admitted.clone());
        let mut swarm = build(&config, admitted.clone())?;
        let peer_id = *swarm.local_peer_id();
        for address in &config.external {
            swarm.add_external_address(address.clone());
        }
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (publisher, addresses) = watch::channel(Vec::new());
        let stats = Arc::new(Mutex::new(RelayStats::default()));
        let events = listen(&mut swarm, &config.listen).await?;
        let mut shell = Shell {
            swarm,
            external: config.external,
            admitted: admitted.clone(),
            reserved: BTreeSet::new(),
            stats: stats.clone(),
            publisher,
        };
        for event in events {
            shell.handle_event(event);
        }
        tokio::spawn(shell.run(receiver));
        Ok(RelayHandle { peer_id, addresses, admitted, commands, stats })
    }
}

impl RelayHandle {
    /// The relay's libp2p identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Where nodes reach the relay.
    #[must_use]
    pub fn addresses(&self) -> Vec<Multiaddr> {
        self.addresses.borrow().clone()
    }

    /// Sets who may use the relay. Connections of those who no longer may are closed.
    pub async fn set_admitted(&self, peers: BTreeSet<PeerId>) {
        self.admitted.set(peers);
        // If the relay has ended there is no connection left to close.
        let _ = self.commands.send(Command::Expel).await;
    }

    /// Lets one more node use the relay.
    pub fn admit(&self, peer: PeerId) {
        self.admitted.insert(peer);
    }

    /// What the relay is doing.
    #[must_use]
    pub fn stats(&self) -> RelayStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the relay is at work.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.commands.is_closed()
    }

    /// Closes all connections and ends the relay; returns when it has ended.
    pub async fn shutdown(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done }).await.is_ok() {
            // An error means that it has ended, too.
            let _ = ended.await;
        }
    }
}

fn build(config: &RelayConfig, admitted: Listed) -> Result<Swarm<Behaviour>, StartError> {
    let transport = |reason: String| StartError::Transport { reason };
    let key = Keypair::ed25519_from_bytes(config.identity_seed).map_err(|error| transport(error.to_string()))?;
    let peer = key.public().to_peer_id();
    let loopback = config.listen.iter().any(address::is_loopback);
    let mut relay = relay::Behaviour::new(
        peer,
        relay::Config {
            max_reservations: MAX_RESERVATIONS,
            max_reservations_per_peer: MAX_RESERVATIONS_PER_PEER,
            // The rate limits of the default are for strangers, and count nodes behind one address as one.
            reservation_rate_limiters: Vec::new(),
            max_circuits: MAX_CIRCUITS,
            max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
            max_circuit_duration: MAX_CIRCUIT_DURATION,
            // Zero is no limit.
            max_circuit_bytes: 0,
            circuit_src_rate_limiters: Vec::new(),
            ..relay::Config::default()
        },
    );
    relay.set_status(Some(relay::Status::Enable));
    let behaviour = Behaviour {
        gate: gate::Behaviour::new(Arc::new(admitted), loopback).keeping_incoming(),
        limits: connection_limits::Behaviour::new(
            connection_limits::ConnectionLimits::default()
                .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
                .with_max_pending_incoming(Some(MAX_PENDING)),
        ),
        relay,
        autonat: autonat::v2::server::Behaviour::default(),
        identify: identify::Behaviour::new(
            identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), key.public())
                .with_agent_version(concat!("twinmesh-relay/", env!("CARGO_PKG_VERSION")).to_owned()),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
    };
    let transports = crate::transport::direct(&key).map_err(|error| transport(error.to_string()))?;
    let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Swarm::new(transports, behaviour, peer, settings))
}

struct Shell {
    swarm: Swarm<Behaviour>,
    external: Vec<Multiaddr>,
    admitted: Listed,
    reserved: BTreeSet<PeerId>,
    stats: Arc<Mutex<RelayStats>>,
    publisher: watch::Sender<Vec<Multiaddr>>,
}

impl Shell {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let done = loop {
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle_event(event),
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown { done }) => break Some(done),
                    Some(Command::Expel) => self.expel(),
                },
            }
        };
        // Dropping the swarm closes its sockets; only then has the relay ended for those who wait for that.
        drop(self);
        drop(commands);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn expel(&mut self) {
        let expelled: Vec<PeerId> =
            self.swarm.connected_peers().filter(|peer| !self.admitted.admits(peer)).copied().collect();
        for peer in expelled {
            tracing::info!(%peer, "closing the connections of a node that is no longer admitted");
            // It may have gone by itself.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn handle_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(BehaviourEvent::Relay(event)) => self.handle_relay_event(event),
            SwarmEvent::Behaviour(BehaviourEvent::Ping(event)) => {
                if let Err(ping::Failure::Timeout) = event.result {
                    tracing::info!(peer = %event.peer, "a node does not answer; closing its connection");
                    self.swarm.close_connection(event.connection);
                }
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if self.external.is_empty() {
                    self.swarm.add_external_address(address);
                }
                self.publish();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                if self.external.is_empty() {
                    self.swarm.remove_external_address(&address);
                }
                self.publish();
            }
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => {
                self.reserved.remove(&peer_id);
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener of the relay has trouble"),
            SwarmEvent::ListenerClosed { addresses, reason, .. } => {
                tracing::error!(?addresses, ?reason, "the relay no longer listens");
            }
            SwarmEvent::IncomingConnectionError { error, peer_id, .. } => {
                tracing::debug!(peer = ?peer_id, %error, "a connection to the relay was refused");
            }
            _ => {}
        }
        let (nodes, reservations) = (self.swarm.network_info().num_peers(), self.reserved.len());
        self.count(|stats| (stats.nodes, stats.reservations) = (nodes, reservations));
    }

    fn handle_relay_event(&mut self, event: relay::Event) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, renewed } => {
                if !renewed {
                    tracing::info!(peer = %src_peer_id, "a node can be reached through the relay");
                }
                self.reserved.insert(src_peer_id);
            }
            relay::Event::ReservationTimedOut { src_peer_id } => {
                self.reserved.remove(&src_peer_id);
            }
            relay::Event::CircuitReqAccepted { src_peer_id, dst_peer_id } => {
                tracing::debug!(from = %src_peer_id, to = %dst_peer_id, "circuit opened");
                self.count(|stats| {
                    stats.circuits += 1;
                    stats.circuits_opened += 1;
                });
            }
            relay::Event::CircuitReqDenied { src_peer_id, dst_peer_id, status } => {
                tracing::debug!(from = %src_peer_id, to = %dst_peer_id, ?status, "circuit refused");
                self.count(|stats| stats.circuits_denied += 1);
            }
            relay::Event::CircuitClosed { src_peer_id, dst_peer_id, .. } => {
                tracing::debug!(from = %src_peer_id, to = %dst_peer_id, "circuit closed");
                self.count(|stats| stats.circuits = stats.circuits.saturating_sub(1));
            }
            // The library reports the end of every connection as that of a reservation; the connection's own event
            // tells more. The rest is for its authors.
            _ => {}
        }
    }

    fn count(&self, change: impl FnOnce(&mut RelayStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn publish(&mut self) {
        let own = *self.swarm.local_peer_id();
        let addresses = if self.external.is_empty() {
            address::publishable(self.swarm.listeners(), own)
        } else {
            address::publishable(&self.external, own)
        };
        self.publisher.send_replace(addresses);
    }
}
