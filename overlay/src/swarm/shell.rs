//! The task that owns a node's swarm: performs what the cores decide, and tells them what happened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, PeerId, Swarm, autonat,
    core::transport::ListenerId,
    dcutr, identify, ping, relay,
    swarm::{
        ConnectionId, DialError, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    MAX_RELAYS, OpenError, OverlayConfig, Paths,
    behaviour::{Behaviour, BehaviourEvent},
};
use crate::{
    address::{self, RelayAddress},
    connect::{self, Attempt},
    listen::{StartError, listen},
    path::{Counters, Path},
    relay_link::{self, RelayLink},
    status::{Explanation, OverlayStatus},
    stream::TwinStream,
    streams::{OpenRequest, StreamFailure},
};

/// How long a failed attempt at a direct path counts, before a stream is worth another one.
const DIRECT_RETRY: Duration = Duration::from_secs(20);

/// How often a QUIC connection to a relay is tried beside the one over TCP. It carries nothing; it keeps the mapping
/// of the node's UDP port in a NAT open and known.
const RELAY_QUIC_RETRY: Duration = Duration::from_secs(30);

/// How many addresses the reachability report remembers.
const MAX_REACHABILITY: usize = 32;

/// A stream that is being opened.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) connection: ConnectionId,
    pub(crate) path: Path,
    /// The answer; it comes from the connection, not from the swarm's task.
    pub(crate) stream: oneshot::Receiver<Result<TwinStream, StreamFailure>>,
}

/// What handles ask of the task.
#[derive(Debug)]
pub(crate) enum Command {
    Open { peer: PeerId, addresses: Vec<Multiaddr>, answer: oneshot::Sender<Result<Opened, OpenError>> },
    Doubt { connection: ConnectionId },
    SetRelays { relays: Vec<RelayAddress> },
    Status { answer: oneshot::Sender<OverlayStatus> },
    Explain { peer: PeerId, answer: oneshot::Sender<Explanation> },
    Shutdown { done: oneshot::Sender<()> },
}

/// What is known about a peer that streams were opened to.
#[derive(Default)]
pub(super) struct Peer {
    pub(super) addresses: Vec<Multiaddr>,
    attempt: Option<Attempt>,
    waiting: Vec<oneshot::Sender<Result<Opened, OpenError>>>,
    direct_tried: Option<Instant>,
    pub(super) failures: BTreeMap<Path, String>,
    pub(super) hole_punching: Option<String>,
}

/// A relay, and this node's place there.
pub(super) struct Place {
    pub(super) link: RelayLink,
    reservation: Option<ListenerId>,
    quic_tried: Option<Instant>,
    /// Whether it was among those named last. If not it goes with its connection.
    named: bool,
}

pub(crate) struct Shell {
    pub(super) swarm: Swarm<Behaviour>,
    pub(super) own: PeerId,
    paths: Paths,
    /// Whether this node was told to listen on loopback, so that its peers' loopback addresses make sense.
    loopback: bool,
    pub(super) places: BTreeMap<PeerId, Place>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    dials: HashMap<ConnectionId, (PeerId, Path)>,
    pub(super) round_trips: HashMap<ConnectionId, Duration>,
    pub(super) reachability: BTreeMap<String, String>,
    pub(super) counters: Arc<Counters>,
    pub(super) addresses: watch::Sender<Vec<Multiaddr>>,
    reserved: watch::Sender<bool>,
}

impl Shell {
    pub(crate) fn new(
        swarm: Swarm<Behaviour>,
        config: &OverlayConfig,
        counters: Arc<Counters>,
        addresses: watch::Sender<Vec<Multiaddr>>,
        reserved: watch::Sender<bool>,
    ) -> Self {
        let own = *swarm.local_peer_id();
        let mut shell = Self {
            swarm,
            own,
            paths: config.paths,
            loopback: config.listen.iter().any(address::is_loopback),
            places: BTreeMap::new(),
            peers: BTreeMap::new(),
            dials: HashMap::new(),
            round_trips: HashMap::new(),
            reachability: BTreeMap::new(),
            counters,
            addresses,
            reserved,
        };
        shell.set_relays(config.relays.clone());
        shell
    }

    /// Listens at the configured addresses and waits until each has been bound.
    pub(crate) async fn listen(&mut self, config: &OverlayConfig) -> Result<(), StartError> {
        for address in &config.external {
            self.swarm.add_external_address(address.clone());
        }
        if self.paths == Paths::RelayedOnly {
            return Ok(());
        }
        for event in listen(&mut self.swarm, &config.listen).await? {
            self.handle_event(event);
        }
        Ok(())
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let done = loop {
            self.advance();
            let deadline = self.deadline();
            tokio::select! {
                event = self.swarm.select_next_some() => self.handle_event(event),
                command = commands.recv() => match command {
                    None => break None,
                    Some(Command::Shutdown { done }) => break Some(done),
                    Some(command) => self.handle_command(command),
                },
                () = sleep_until(deadline) => {}
            }
        };
        // Dropping the swarm closes its sockets; only then has the overlay ended for those who wait for that.
        drop(self);
        drop(commands);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Open { peer, addresses, answer } => self.open(peer, &addresses, answer),
            Command::Doubt { connection } => self.swarm.behaviour_mut().streams.doubt(connection),
            Command::SetRelays { relays } => self.set_relays(relays),
            Command::Status { answer } => {
                let _ = answer.send(self.status());
            }
            Command::Explain { peer, answer } => {
                let _ = answer.send(self.explanation(peer));
            }
            Command::Shutdown { .. } => unreachable!("the loop ends before it gets here"),
        }
    }

    fn open(&mut self, peer: PeerId, addresses: &[Multiaddr], answer: oneshot::Sender<Result<Opened, OpenError>>) {
        if peer == self.own {
            let _ = answer.send(Err(OpenError::Own { peer }));
            return;
        }
        let addresses = match self.paths {
            Paths::Any => address::dialable(addresses, peer, self.loopback),
            Paths::RelayedOnly => Vec::new(),
        };
        let known = self.peers.entry(peer).or_default();
        if !addresses.is_empty() && known.addresses != addresses {
            known.addresses = addresses;
            known.direct_tried = None;
        }
        known.waiting.push(answer);
    }

    fn set_relays(&mut self, relays: Vec<RelayAddress>) {
        let now = Instant::now();
        self.places.values_mut().for_each(|place| place.named = false);
        for relay in relays.into_iter().take(MAX_RELAYS) {
            match self.places.get_mut(&relay.peer_id) {
                Some(place) => {
                    place.named = true;
                    place.link.set(now, relay.addresses);
                }
                None => {
                    let id = relay.peer_id;
                    let link = RelayLink::new(now, self.own, relay);
                    self.places.insert(id, Place { link, reservation: None, quic_tried: None, named: true });
                }
            }
        }
        self.leave_relays();
        // Those that are still connected stay as long as there is room for them.
        while self.places.len() > MAX_RELAYS {
            let Some(id) = self.places.iter().find(|(_, place)| !place.named).map(|(id, _)| *id) else { break };
            self.places.remove(&id);
            let _ = self.swarm.disconnect_peer_id(id);
        }
        self.trust_relays();
        self.publish();
    }

    /// Leaves relays that nobody names and that do not serve us any more.
    fn leave_relays(&mut self) {
        let before = self.places.len();
        let swarm = &mut self.swarm;
        self.places.retain(|id, place| {
            let stays = place.named || place.link.is_connected();
            if !stays {
                // There may be no connection to close.
                let _ = swarm.disconnect_peer_id(*id);
            }
            stays
        });
        if self.places.len() < before {
            self.trust_relays();
        }
    }

    fn trust_relays(&mut self) {
        let relays: BTreeSet<PeerId> = self.places.keys().copied().collect();
        let behaviour = self.swarm.behaviour_mut();
        behaviour.gate.trust(relays.clone());
        behaviour.streams.keep(relays);
    }

    /// Lets the cores decide, and does what they say.
    fn advance(&mut self) {
        let now = Instant::now();
        self.leave_relays();
        let relays: Vec<PeerId> = self.places.keys().copied().collect();
        for id in relays {
            while let Some(step) = self.places.get_mut(&id).and_then(|place| place.link.poll(now)) {
                self.relay_step(now, id, step);
            }
            self.keep_quic_to_relay(now, id);
        }
        let peers: Vec<PeerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.attempt.is_some() || !peer.waiting.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for peer in peers {
            self.advance_peer(now, peer);
        }
        let is_reserved = self.places.values().any(|place| place.link.is_reserved());
        self.reserved.send_if_modified(|reserved| std::mem::replace(reserved, is_reserved) != is_reserved);
    }

    fn relay_step(&mut self, now: Instant, id: PeerId, step: relay_link::Step) {
        let Some(place) = self.places.get_mut(&id) else { return };
        match step {
            relay_link::Step::Dial(path) => {
                // The port of our listener is reused, so that the relay sees the one a peer would have to knock at.
                let options = DialOpts::peer_id(id)
                    .condition(PeerCondition::Always)
                    .addresses(place.link.relay().by_path(path))
                    .build();
                let connection = options.connection_id();
                self.dials.insert(connection, (id, path));
                if let Err(error) = self.swarm.dial(options) {
                    self.dials.remove(&connection);
                    place.link.dial_failed(now, describe(&error));
                }
            }
            relay_link::Step::Reserve => {
                let listening = place.link.relay().circuit().map(|circuit| self.swarm.listen_on(circuit));
                match listening {
                    Some(Ok(listener)) => place.reservation = Some(listener),
                    Some(Err(error)) => place.link.reservation_lost(now, error.to_string()),
                    None => place.link.reservation_lost(now, "the relay has no address".to_owned()),
                }
            }
            relay_link::Step::Disconnect => {
                place.reservation = None;
                let _ = self.swarm.disconnect_peer_id(id);
            }
        }
    }

    /// Keeps a QUIC connection to a relay beside the one over TCP.
    fn keep_quic_to_relay(&mut self, now: Instant, id: PeerId) {
        let Some(place) = self.places.get_mut(&id) else { return };
        if self.paths == Paths::RelayedOnly
            || !place.link.is_reserved()
            || place.quic_tried.is_some_and(|tried| now < tried + RELAY_QUIC_RETRY)
        {
            return;
        }
        place.quic_tried = Some(now);
        let addresses = place.link.relay().by_path(Path::DirectQuic);
        let streams = &self.swarm.behaviour().streams;
        if addresses.is_empty() || streams.of(id).any(|connection| connection.path == Path::DirectQuic) {
            return;
        }
        let options = DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).build();
        if let Err(error) = self.swarm.dial(options) {
            tracing::debug!(%error, "cannot dial the relay over QUIC");
        }
    }

    fn advance_peer(&mut self, now: Instant, id: PeerId) {
        let relay_ready = self.places.values().any(|place| place.link.is_connected());
        let connected = self.swarm.behaviour().streams.best(id).map(|connection| connection.path);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if peer.attempt.is_none() {
            let direct_is_worth_it =
                !peer.addresses.is_empty() && peer.direct_tried.is_none_or(|tried| now >= tried + DIRECT_RETRY);
            if connected.is_some_and(|path| path.is_direct() || !direct_is_worth_it) {
                self.serve(id);
                return;
            }
            let mut paths: Vec<Path> = peer.addresses.iter().map(Path::of_address).collect();
            if !self.places.is_empty() {
                paths.push(Path::Relayed);
            }
            let loopback = peer.addresses.iter().all(address::is_loopback);
            peer.attempt = Some(Attempt::new(now, paths, loopback && !peer.addresses.is_empty()));
        }
        while let Some(peer) = self.peers.get_mut(&id)
            && let Some(attempt) = &mut peer.attempt
        {
            match attempt.poll(now, connected, relay_ready) {
                None => return,
                Some(connect::Step::Dial(path)) => self.dial(now, id, path),
                Some(connect::Step::Use) => {
                    self.end_attempt(now, id);
                    self.serve(id);
                }
                Some(connect::Step::Fail(reasons)) => {
                    self.end_attempt(now, id);
                    if self.swarm.behaviour_mut().streams.trust_again(id) {
                        // It may be slow, not gone.
                        self.serve(id);
                    } else {
                        self.refuse(id, &reasons);
                    }
                }
            }
        }
    }

    fn dial(&mut self, now: Instant, id: PeerId, path: Path) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let addresses = match path {
            Path::DirectTcp | Path::DirectQuic => {
                peer.addresses.iter().filter(|address| Path::of_address(address) == path).cloned().collect()
            }
            // All at once: a relay may be gone without our knowing yet, or not have the peer.
            Path::Relayed => {
                let connected = self.places.values().filter(|place| place.link.is_connected());
                connected.filter_map(|place| place.link.relay().circuit_to(id)).collect()
            }
        };
        // A port of its own: were both nodes to dial each other from their listeners' ports at the same moment, the two
        // dials would meet as one connection on which both sides take themselves for the dialler.
        let options =
            DialOpts::peer_id(id).condition(PeerCondition::Always).addresses(addresses).allocate_new_port().build();
        let connection = options.connection_id();
        self.dials.insert(connection, (id, path));
        tracing::debug!(peer = %id, %path, "dialling");
        if let Err(error) = self.swarm.dial(options) {
            self.dials.remove(&connection);
            self.dial_failed(now, id, path, &error);
        }
    }

    fn dial_failed(&mut self, now: Instant, id: PeerId, path: Path, error: &DialError) {
        let reason = describe(error);
        tracing::debug!(peer = %id, %path, reason, "dialling failed");
        if let Some(place) = self.places.get_mut(&id) {
            place.link.dial_failed(now, reason);
        } else if let Some(peer) = self.peers.get_mut(&id) {
            peer.failures.insert(path, reason.clone());
            if let Some(attempt) = &mut peer.attempt {
                attempt.failed(now, path, reason);
            }
        }
    }

    fn end_attempt(&mut self, now: Instant, id: PeerId) {
        if let Some(peer) = self.peers.get_mut(&id)
            && let Some(attempt) = peer.attempt.take()
            && attempt.is_direct()
        {
            peer.direct_tried = Some(now);
        }
    }

    /// Opens a stream for everyone who waits for one, on the best connection.
    fn serve(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let streams = &mut self.swarm.behaviour_mut().streams;
        let Some((connection, path)) = streams.best(id).map(|best| (best.id, best.path)) else { return };
        let waiting = std::mem::take(&mut peer.waiting);
        for waiter in waiting {
            let (answer, stream) = oneshot::channel();
            if waiter.send(Ok(Opened { connection, path, stream })).is_ok() {
                streams.open(id, connection, OpenRequest { answer });
            }
        }
    }

    fn refuse(&mut self, id: PeerId, reasons: &BTreeMap<Path, String>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for waiter in std::mem::take(&mut peer.waiting) {
            let _ = waiter.send(Err(OpenError::Unreachable { peer: id, reasons: reasons.clone() }));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let attempts =
            self.peers.values().filter_map(|peer| peer.attempt.as_ref()).map(|attempt| attempt.deadline(now));
        let quic = self.places.values().filter_map(|place| match (place.link.is_reserved(), place.quic_tried) {
            (true, Some(tried)) if self.paths == Paths::Any => Some(tried + RELAY_QUIC_RETRY),
            (true | false, _) => None,
        });
        let links = self.places.values().filter_map(|place| place.link.deadline());
        attempts.chain(links).chain(quic).min()
    }

    fn handle_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(event) => self.handle_behaviour_event(event),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.dials.remove(&connection_id);
                let path = Path::of_endpoint(&endpoint);
                tracing::debug!(peer = %peer_id, %path, "connected");
                if let Some(place) = self.places.get_mut(&peer_id) {
                    place.link.connected(now);
                } else if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.failures.remove(&path);
                }
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, num_established, cause, .. } => {
                self.round_trips.remove(&connection_id);
                let cause = cause.map_or_else(|| "it was closed".to_owned(), |error| error.to_string());
                tracing::debug!(peer = %peer_id, cause, "connection ended");
                if num_established == 0
                    && let Some(place) = self.places.get_mut(&peer_id)
                {
                    place.link.disconnected(now, format!("the connection ended: {cause}"));
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                if let Some((peer, path)) = self.dials.remove(&connection_id) {
                    self.dial_failed(now, peer, path, &error);
                }
            }
            SwarmEvent::ListenerClosed { listener_id, reason, addresses } => {
                let place = self.places.values_mut().find(|place| place.reservation == Some(listener_id));
                if let Some(place) = place {
                    place.reservation = None;
                    let reason = match reason {
                        Ok(()) => "the relay ended the reservation".to_owned(),
                        Err(error) => format!("the relay refused the reservation: {error}"),
                    };
                    place.link.reservation_lost(now, reason);
                } else if addresses.iter().any(|address| Path::of_address(address).is_direct()) {
                    tracing::warn!(?addresses, ?reason, "no longer listening");
                }
                self.publish();
            }
            SwarmEvent::NewListenAddr { .. }
            | SwarmEvent::ExpiredListenAddr { .. }
            | SwarmEvent::ExternalAddrConfirmed { .. }
            | SwarmEvent::ExternalAddrExpired { .. } => self.publish(),
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener has trouble"),
            SwarmEvent::IncomingConnectionError { error, .. } => {
                tracing::debug!(%error, "an incoming connection failed");
            }
            _ => {}
        }
    }

    fn handle_behaviour_event(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Relay(event) => match event {
                relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
                    if let Some(place) = self.places.get_mut(&relay_peer_id) {
                        if !renewal {
                            tracing::info!(relay = %relay_peer_id, "reachable through a relay");
                        }
                        place.link.reserved();
                    }
                }
                relay::client::Event::OutboundCircuitEstablished { .. }
                | relay::client::Event::InboundCircuitEstablished { .. } => {}
            },
            BehaviourEvent::Identify(event) => {
                if let identify::Event::Received { peer_id, info, .. } = event
                    && self.places.contains_key(&peer_id)
                    && Path::of_address(&info.observed_addr).is_direct()
                {
                    self.swarm.behaviour_mut().candidates.inject(info.observed_addr);
                }
            }
            BehaviourEvent::Ping(ping::Event { peer, connection, result }) => match result {
                Ok(round_trip) => {
                    self.round_trips.insert(connection, round_trip);
                }
                Err(ping::Failure::Timeout) => {
                    tracing::warn!(%peer, "a peer does not answer; giving the connection up");
                    self.swarm.behaviour().streams.give_up(connection);
                    self.swarm.close_connection(connection);
                }
                // A connection that fails says so itself.
                Err(ping::Failure::Unsupported | ping::Failure::Other { .. }) => {}
            },
            BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id, result }) => {
                if let Some(peer) = self.peers.get_mut(&remote_peer_id) {
                    peer.hole_punching = Some(match result {
                        Ok(_) => "succeeded".to_owned(),
                        Err(error) => error.to_string(),
                    });
                }
            }
            BehaviourEvent::Autonat(autonat::v2::client::Event { tested_addr, result, .. }) => {
                if Path::of_address(&tested_addr).is_direct() && self.reachability.len() < MAX_REACHABILITY {
                    let verdict = match result {
                        Ok(()) => "reachable".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    self.reachability.insert(tested_addr.to_string(), verdict);
                }
            }
        }
    }

    fn publish(&mut self) {
        let addresses = address::publishable(self.swarm.listeners().chain(self.swarm.external_addresses()), self.own);
        self.addresses.send_if_modified(|published| {
            let changed = *published != addresses;
            *published = addresses;
            changed
        });
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A dial's failure in few words, with the innermost cause, which is where libp2p keeps what matters.
fn describe(error: &DialError) -> String {
    let text = match error {
        DialError::Transport(failures) => {
            let mut texts: Vec<String> =
                failures.iter().map(|(address, error)| format!("{}: {}", short(address), innermost(error))).collect();
            texts.dedup();
            texts.join(", ")
        }
        DialError::WrongPeerId { obtained, .. } => format!("another node ({obtained}) answers at this address"),
        other => innermost(other),
    };
    text.chars().take(500).collect()
}

/// The address without the long peer ids of a circuit.
fn short(address: &Multiaddr) -> String {
    if Path::of_address(address).is_direct() {
        let plain: Multiaddr =
            address.iter().filter(|part| !matches!(part, libp2p::multiaddr::Protocol::P2p(_))).collect();
        plain.to_string()
    } else {
        "circuit".to_owned()
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
