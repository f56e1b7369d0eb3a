//! A node's end of the peer network: one task owns the libp2p swarm, everybody else a cloneable [`Overlay`].

pub(crate) mod behaviour;
mod report;
mod shell;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{mpsc, oneshot, watch};

use self::shell::{Command, Shell};
use crate::{
    address::RelayAddress,
    gate::{Everyone, Gate},
    listen::StartError,
    path::{Counters, Path, Traffic},
    status::{Explanation, OverlayStatus},
    stream::TwinStream,
    streams::{MAX_STREAMS, StreamFailure},
};

/// How long [`Overlay::open`] may take in all: an attempt to connect, and a second one if the connection broke.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an established connection may take to open a stream.
const STREAM_TIMEOUT: Duration = Duration::from_secs(8);

/// How long a relayed connection may take to open a stream before another is made beside it. Its relay may have died
/// without a word, which QUIC notices after ten seconds, while another relay has the peer; two relayed round trips over
/// satellites take less.
const RELAYED_STREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// How many connections are tried when one breaks while a stream is being opened.
const OPEN_ATTEMPTS: usize = 3;

/// How many relays are used at most. Each costs a connection and its keep-alives; nobody runs so many coordinators.
pub const MAX_RELAYS: usize = 8;

/// Requests that wait for the swarm's task. It answers within microseconds, so few do; a full channel holds callers back.
const COMMANDS: usize = 64;

/// Streams that arrived and that no one has taken yet. More wait with their connection, which holds their senders back.
const INCOMING: usize = 64;

/// How a node takes part in the overlay.
#[derive(Clone)]
pub struct OverlayConfig {
    /// The seed of the node's Ed25519 key (RFC 8032), which is its libp2p identity too.
    pub identity_seed: [u8; 32],
    /// Where to listen. Port 0 lets the system choose.
    pub listen: Vec<Multiaddr>,
    /// Addresses under which the node can be reached from outside, where an administrator has opened its firewall.
    pub external: Vec<Multiaddr>,
    /// The relays of all coordinators that work as one. They can be set later, and changed, by [`Overlay::set_relays`].
    pub relays: Vec<RelayAddress>,
    /// Which paths may be used.
    pub paths: Paths,
    /// Who may connect at all.
    pub gate: Arc<dyn Gate>,
}

/// Which paths a node uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Paths {
    /// The best there is.
    #[default]
    Any,
    /// Only the relays': the node listens nowhere, dials no peer and punches no holes. For networks that let nothing
    /// out but connections to the coordinator.
    RelayedOnly,
}

impl OverlayConfig {
    /// A node that listens on this machine's loopback only, for federations on one machine.
    #[must_use]
    pub fn loopback(identity_seed: [u8; 32]) -> Self {
        Self::new(identity_seed, ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"])
    }

    /// A node that listens on all IPv4 interfaces.
    #[must_use]
    pub fn everywhere(identity_seed: [u8; 32]) -> Self {
        Self::new(identity_seed, ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"])
    }

    fn new(identity_seed: [u8; 32], listen: [&str; 2]) -> Self {
        Self {
            identity_seed,
            listen: listen.map(|text| text.parse().expect("our own addresses are well-formed")).to_vec(),
            external: Vec::new(),
            relays: Vec::new(),
            paths: Paths::Any,
            gate: Arc::new(Everyone),
        }
    }
}

impl fmt::Debug for OverlayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayConfig")
            .field("identity_seed", &"[redacted]")
            .field("listen", &self.listen)
            .field("external", &self.external)
            .field("relays", &self.relays)
            .field("paths", &self.paths)
            .field("gate", &self.gate)
            .finish()
    }
}

/// Why no stream to a peer could be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No path to the peer worked; trying again later may help.
    #[error("cannot reach node {peer}: {}", explain(reasons))]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// Why each path that was tried did not work.
        reasons: BTreeMap<Path, String>,
    },
    /// The peer does not speak the protocol.
    #[error("node {peer} does not speak the protocol `{}`; is it an older or newer release?", crate::streams::PROTOCOL)]
    Unsupported {
        /// The peer.
        peer: PeerId,
    },
    /// Connections to the peer kept breaking while a stream was being opened.
    #[error("the connection to node {peer} broke while a stream was being opened: {reason}")]
    Broken {
        /// The peer.
        peer: PeerId,
        /// What happened last.
        reason: String,
    },
    /// As many streams to the peer as allowed are open.
    #[error("{MAX_STREAMS} streams to node {peer} are open, which is the limit; close some first")]
    TooMany {
        /// The peer.
        peer: PeerId,
    },
    /// The peer is this node.
    #[error("node {peer} is this node itself")]
    Own {
        /// The peer.
        peer: PeerId,
    },
    /// The overlay has been shut down.
    #[error("the overlay has been shut down")]
    Stopped,
}

fn explain(reasons: &BTreeMap<Path, String>) -> String {
    if reasons.is_empty() {
        return "no address of it is known, and there is no relay".to_owned();
    }
    reasons.iter().map(|(path, reason)| format!("{path}: {reason}")).collect::<Vec<_>>().join("; ")
}

/// A handle to a node's overlay. The overlay ends with its last handle, or by [`Overlay::shutdown`].
#[derive(Clone, Debug)]
pub struct Overlay {
    peer_id: PeerId,
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    addresses: watch::Receiver<Vec<Multiaddr>>,
    reserved: watch::Receiver<bool>,
}

/// The streams that others open, in the order in which they arrive.
///
/// Nothing has been checked but that the peer holds the key of its peer id. While streams are not taken, further ones
/// wait and their senders are held back.
#[derive(Debug)]
pub struct Incoming {
    streams: mpsc::Receiver<TwinStream>,
}

impl Incoming {
    /// Waits for the next stream; `None` once the overlay has been shut down.
    pub async fn next(&mut self) -> Option<TwinStream> {
        self.streams.recv().await
    }
}

impl Overlay {
    /// Starts the overlay and returns when it listens. The relays are dialled in the background.
    ///
    /// # Errors
    ///
    /// [`StartError`] when an address cannot be listened at.
    pub async fn start(config: OverlayConfig) -> Result<(Self, Incoming), StartError> {
        let counters = Arc::new(Counters::default());
        let (commands, command_receiver) = mpsc::channel(COMMANDS);
        let (incoming_sender, streams) = mpsc::channel(INCOMING);
        let (addresses_sender, addresses) = watch::channel(Vec::new());
        let (reserved_sender, reserved) = watch::channel(false);
        let swarm = behaviour::build(&config, incoming_sender, counters.clone())?;
        let peer_id = *swarm.local_peer_id();
        let mut shell = Shell::new(swarm, &config, counters.clone(), addresses_sender, reserved_sender);
        shell.listen(&config).await?;
        tokio::spawn(shell.run(command_receiver));
        Ok((Self { peer_id, commands, counters, addresses, reserved }, Incoming { streams }))
    }

    /// This node's libp2p identity.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The addresses to tell other nodes: where this one listens, without loopback if there is another, and what an
    /// administrator or a call back from the relay has shown to be reachable.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.addresses.borrow().clone()
    }

    /// The same, to be told when they change.
    #[must_use]
    pub fn watch_addresses(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.addresses.clone()
    }

    /// Whether others can reach this node through a relay, to be told when that changes.
    #[must_use]
    pub fn watch_relay(&self) -> watch::Receiver<bool> {
        self.reserved.clone()
    }

    /// Bytes of twin streams by path, since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.counters.traffic()
    }

    /// Names the relays, in place of those before. The node keeps a place at each, so that it meets whoever has a place
    /// at any of them, and one that dies is missed by nobody.
    ///
    /// Naming one again makes an overlay that waits for it try at once. One that is not named any more is kept for as
    /// long as its connection lasts: whoever tells of the relays may take one for dead that serves us still. More than
    /// [`MAX_RELAYS`] are not used.
    pub async fn set_relays(&self, relays: Vec<RelayAddress>) {
        // If the overlay has been shut down there is nothing to set.
        let _ = self.commands.send(Command::SetRelays { relays }).await;
    }

    /// Opens a stream to a peer.
    ///
    /// Uses a connection that is there; else dials the addresses (TCP first, then QUIC) and the relays, each a moment
    /// after the better one, and takes what works first. A relayed stream is given at once when a direct connection
    /// takes longer than a quarter of a second; streams opened later use the direct one if it comes. The peer's key is
    /// proven, whatever the address.
    ///
    /// # Errors
    ///
    /// [`OpenError`], after 20 seconds at most.
    pub async fn open(&self, peer: PeerId, addresses: &[Multiaddr]) -> Result<TwinStream, OpenError> {
        let mut reason = "no answer in time".to_owned();
        let attempts = async {
            for _ in 0..OPEN_ATTEMPTS {
                let (answer, answered) = oneshot::channel();
                let command = Command::Open { peer, addresses: addresses.to_vec(), answer };
                self.commands.send(command).await.map_err(|_| OpenError::Stopped)?;
                let opened = answered.await.map_err(|_| OpenError::Stopped)??;
                let patience = if opened.path.is_direct() { STREAM_TIMEOUT } else { RELAYED_STREAM_TIMEOUT };
                match tokio::time::timeout(patience, opened.stream).await {
                    Ok(Ok(Ok(stream))) => return Ok(stream),
                    Ok(Ok(Err(StreamFailure::Unsupported))) => return Err(OpenError::Unsupported { peer }),
                    Ok(Ok(Err(StreamFailure::Full))) => return Err(OpenError::TooMany { peer }),
                    Ok(Ok(Err(StreamFailure::Broken(text)))) => reason = text,
                    Ok(Err(_)) => reason = "the connection was closed".to_owned(),
                    Err(_) => {
                        reason = "the peer did not answer in time".to_owned();
                        let doubt = Command::Doubt { connection: opened.connection };
                        self.commands.send(doubt).await.map_err(|_| OpenError::Stopped)?;
                    }
                }
            }
            Err(OpenError::Broken { peer, reason: reason.clone() })
        };
        match tokio::time::timeout(OPEN_TIMEOUT, attempts).await {
            Ok(result) => result,
            Err(_) => Err(OpenError::Broken { peer, reason: "no answer in time".to_owned() }),
        }
    }

    /// Says what the overlay is doing; `None` once it has been shut down.
    pub async fn status(&self) -> Option<OverlayStatus> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Status { answer }).await.ok()?;
        answered.await.ok()
    }

    /// Says why the path to a peer is what it is; `None` once the overlay has been shut down.
    pub async fn explain(&self, peer: PeerId) -> Option<Explanation> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Explain { peer, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Closes all connections and ends the overlay; returns when it has ended.
    pub async fn shutdown(&self) {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Shutdown { done: answer }).await.is_ok() {
            // An error means that it has ended, too.
            let _ = answered.await;
        }
    }

    /// Waits until the overlay has ended, for whatever reason.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }
}
