//! Decides at the door which peers may hold a connection at all.
//!
//! Behind the door every stream is admitted again, by certificate (see [`crate::mesh`]); this is for those who should
//! not even get that far.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse, upgrade::DeniedUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, handler::ConnectionEvent,
    },
};

use crate::{address::is_local, path::Path};

/// Who may connect.
pub trait Gate: Send + Sync + fmt::Debug {
    /// Whether a peer, whose key has been proven, may hold a connection here.
    fn admits(&self, peer: &PeerId) -> bool;
}

/// Lets everyone connect. For nodes: what counts there is whom the certificates admit to a mesh.
#[derive(Clone, Copy, Debug, Default)]
pub struct Everyone;

impl Gate for Everyone {
    fn admits(&self, _: &PeerId) -> bool {
        true
    }
}

/// Lets those on a list connect; the list can change at any time, and clones share it.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    peers: Arc<RwLock<BTreeSet<PeerId>>>,
}

impl Listed {
    /// Makes a gate that admits these peers.
    #[must_use]
    pub fn new(peers: BTreeSet<PeerId>) -> Self {
        Self { peers: Arc::new(RwLock::new(peers)) }
    }

    /// Replaces the list. It governs new connections; closing those of expelled peers is up to the caller.
    pub fn set(&self, peers: BTreeSet<PeerId>) {
        *self.peers.write().unwrap_or_else(PoisonError::into_inner) = peers;
    }

    /// Adds one peer to the list.
    pub fn insert(&self, peer: PeerId) {
        self.peers.write().unwrap_or_else(PoisonError::into_inner).insert(peer);
    }
}

impl Gate for Listed {
    fn admits(&self, peer: &PeerId) -> bool {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }
}

/// Why a connection was closed right after its handshake.
#[derive(Debug, thiserror::Error)]
#[error("peer {peer} is not admitted here")]
struct NotAdmitted {
    peer: PeerId,
}

/// Why an address was not dialled.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` lies inside this machine, and only peers' addresses outside it are dialled")]
struct Inside {
    address: Multiaddr,
}

/// Enforces a [`Gate`]. It must be the first of the swarm's behaviours: the others do not expect that a connection they
/// have made a handler for is denied afterwards.
pub(crate) struct Behaviour {
    gate: Arc<dyn Gate>,
    /// Peers of our own choosing, who need not be admitted by the gate: the relays, which also call back to find out
    /// whether this node can be reached.
    trusted: BTreeSet<PeerId>,
    /// Whether addresses on this machine's loopback may be dialled for others. They arrive in requests to punch a hole
    /// or to call back, and would otherwise let a peer knock at services inside.
    loopback: bool,
    /// Whether connections that peers have made are kept while idle.
    keep_incoming: bool,
}

impl Behaviour {
    pub(crate) fn new(gate: Arc<dyn Gate>, loopback: bool) -> Self {
        Self { gate, trusted: BTreeSet::new(), loopback, keep_incoming: false }
    }

    /// Keeps the connections that peers make open while idle, for as long as the peers do. Those made to them, to call
    /// back, end when they have served.
    #[cfg(feature = "relay")]
    pub(crate) fn keeping_incoming(self) -> Self {
        Self { keep_incoming: true, ..self }
    }

    pub(crate) fn trust(&mut self, peers: BTreeSet<PeerId>) {
        self.trusted = peers;
    }

    fn check(&self, peer: PeerId, kept: bool) -> Result<Handler, ConnectionDenied> {
        if self.trusted.contains(&peer) || self.gate.admits(&peer) {
            Ok(Handler { kept })
        } else {
            Err(ConnectionDenied::new(NotAdmitted { peer }))
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let ours = peer.is_some_and(|peer| self.trusted.contains(&peer));
        let inside = addresses
            .iter()
            .find(|address| !ours && !self.loopback && Path::of_address(address).is_direct() && is_local(address));
        match inside {
            Some(address) => Err(ConnectionDenied::new(Inside { address: address.clone() })),
            None => Ok(Vec::new()),
        }
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(peer, self.keep_incoming)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(peer, false)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// Speaks no protocol; says whether its connection is worth keeping.
#[derive(Debug)]
pub(crate) struct Handler {
    kept: bool,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.kept
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        match event {}
    }

    fn on_connection_event(&mut self, _: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {}
}
