//! The libp2p behaviour that opens and accepts twin streams.
//!
//! Unlike `libp2p-stream` it opens a stream on the connection its caller chose, queues what arrives instead of dropping
//! it, and ties each stream to the life of its connection.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, transport::PortUse, upgrade::ReadyUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm, NetworkBehaviour,
        NotifyHandler, StreamUpgradeError, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, PollSender};

use crate::{
    path::{Counters, Path},
    stream::TwinStream,
};

/// The protocol of a stream between twins. A new version of the opening or of the records gets a new number.
pub(crate) const PROTOCOL: StreamProtocol = StreamProtocol::new("/twinmesh/twin/1");

/// How many streams that this side opened may be alive on one connection.
///
/// yamux ends the whole connection when it carries more than 512, so both sides together stay below that.
pub(crate) const MAX_STREAMS: usize = 200;

/// Why no stream could be opened on a connection that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamFailure {
    /// The peer does not speak our protocol.
    Unsupported,
    /// There are [`MAX_STREAMS`] already.
    Full,
    /// The connection broke, or negotiation took too long; another attempt may do better.
    Broken(String),
}

/// A request to open a stream, answered once. When the connection ends first, the answer's sender is dropped.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    pub(crate) answer: oneshot::Sender<Result<TwinStream, StreamFailure>>,
}

/// A connection that streams can run over.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) peer: PeerId,
    pub(crate) path: Path,
    pub(crate) remote: Multiaddr,
    lost: CancellationToken,
    /// Whether a stream on it did not open in time: perhaps nobody is there any more.
    doubted: bool,
}

/// Opens and accepts twin streams.
pub(crate) struct Behaviour {
    connections: BTreeMap<ConnectionId, Connection>,
    requests: VecDeque<(PeerId, ConnectionId, OpenRequest)>,
    incoming: mpsc::Sender<TwinStream>,
    counters: Arc<Counters>,
    /// The peers whose connections are kept although they carry no stream: the relays.
    kept: BTreeSet<PeerId>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(incoming: mpsc::Sender<TwinStream>, counters: Arc<Counters>) -> Self {
        Self {
            connections: BTreeMap::new(),
            requests: VecDeque::new(),
            incoming,
            counters,
            kept: BTreeSet::new(),
            waker: None,
        }
    }

    /// Keeps further connections to these peers open while idle.
    pub(crate) fn keep(&mut self, peers: BTreeSet<PeerId>) {
        self.kept = peers;
    }

    /// The connection to the peer that a new stream should use: the best path, and of these the newest, because an
    /// older one may be to a process that has died without our knowing yet. None that is doubted.
    pub(crate) fn best(&self, peer: PeerId) -> Option<&Connection> {
        let trusted = self.of(peer).filter(|connection| !connection.doubted);
        trusted.min_by_key(|connection| (connection.path, std::cmp::Reverse(connection.id)))
    }

    /// All connections to the peer, oldest first.
    pub(crate) fn of(&self, peer: PeerId) -> impl Iterator<Item = &Connection> {
        self.connections.values().filter(move |connection| connection.peer == peer)
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Connection> {
        self.connections.values()
    }

    /// Uses another connection than this one from now on.
    pub(crate) fn doubt(&mut self, connection: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&connection) {
            connection.doubted = true;
        }
    }

    /// Uses the peer's doubted connections again; whether there are any.
    pub(crate) fn trust_again(&mut self, peer: PeerId) -> bool {
        let mut any = false;
        for connection in self.connections.values_mut().filter(|connection| connection.peer == peer) {
            any |= std::mem::take(&mut connection.doubted);
        }
        any
    }

    /// Opens a stream on the given connection.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId, request: OpenRequest) {
        self.requests.push_back((peer, connection, request));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Makes the streams of a connection fail now, without waiting for the operating system to notice its death.
    pub(crate) fn give_up(&self, connection: ConnectionId) {
        if let Some(connection) = self.connections.get(&connection) {
            connection.lost.cancel();
        }
    }

    fn handler(&mut self, id: ConnectionId, peer: PeerId, path: Path, remote: &Multiaddr, kept: bool) -> Handler {
        let lost = CancellationToken::new();
        let connection = Connection { id, peer, path, remote: remote.clone(), lost: lost.clone(), doubted: false };
        self.connections.insert(id, connection);
        Handler {
            peer,
            path,
            lost,
            kept,
            opened: Arc::new(()),
            counters: self.counters.clone(),
            requests: VecDeque::new(),
            arrived: VecDeque::new(),
            incoming: PollSender::new(self.incoming.clone()),
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // The remote address of a relayed connection is only the peer's name; the local one shows the circuit.
        let path = Path::of_address(local).max(Path::of_address(remote));
        Ok(self.handler(id, peer, path, remote, false))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        remote: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(id, peer, Path::of_address(remote), remote, self.kept.contains(&peer)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = event
            && let Some(connection) = self.connections.remove(&closed.connection_id)
        {
            connection.lost.cancel();
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        match self.requests.pop_front() {
            Some((peer_id, connection, event)) => {
                Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event })
            }
            None => {
                self.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// One connection's share of the behaviour.
pub(crate) struct Handler {
    peer: PeerId,
    path: Path,
    lost: CancellationToken,
    kept: bool,
    /// Held once by every stream that was opened here, from the request to the end of its life.
    opened: Arc<()>,
    counters: Arc<Counters>,
    requests: VecDeque<OpenRequest>,
    /// Streams that the peer opened and no one has taken yet. The multiplexer bounds them: a connection carries at most
    /// 512 streams (yamux) or 256 (QUIC), and a stream that waits here counts.
    arrived: VecDeque<TwinStream>,
    incoming: PollSender<TwinStream>,
}

impl Handler {
    fn stream(&self, stream: libp2p::Stream, opened: Option<Arc<()>>) -> TwinStream {
        TwinStream::new(stream, self.peer, self.path, self.counters.clone(), self.lost.clone(), opened)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = OpenRequest;
    type ToBehaviour = Infallible;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = (OpenRequest, Arc<()>);

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.kept
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>> {
        while !self.arrived.is_empty() {
            match self.incoming.poll_reserve(context) {
                Poll::Ready(Ok(())) => {
                    if let Some(stream) = self.arrived.pop_front() {
                        // The only failure is that the overlay's user has gone; the stream then goes with it.
                        let _ = self.incoming.send_item(stream);
                    }
                }
                Poll::Ready(Err(_)) => self.arrived.clear(),
                Poll::Pending => break,
            }
        }
        while let Some(request) = self.requests.pop_front() {
            if Arc::strong_count(&self.opened) > MAX_STREAMS {
                // Whoever asked may have given up.
                let _ = request.answer.send(Err(StreamFailure::Full));
                continue;
            }
            let info = (request, self.opened.clone());
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), info);
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, request: Self::FromBehaviour) {
        self.requests.push_back(request);
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            '_,
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                let stream = self.stream(protocol, None);
                self.arrived.push_back(stream);
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info: (request, opened) }) => {
                // Whoever asked may have given up; the stream is then reset.
                let _ = request.answer.send(Ok(self.stream(protocol, Some(opened))));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info: (request, _), error }) => {
                let failure = match error {
                    StreamUpgradeError::NegotiationFailed => StreamFailure::Unsupported,
                    StreamUpgradeError::Timeout => StreamFailure::Broken("the peer did not answer in time".to_owned()),
                    StreamUpgradeError::Io(error) => StreamFailure::Broken(error.to_string()),
                    StreamUpgradeError::Apply(never) => match never {},
                };
                let _ = request.answer.send(Err(failure));
            }
            // The rest reports changes of addresses and protocols, which streams do not depend on.
            _ => {}
        }
    }
}
