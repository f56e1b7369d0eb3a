//! The libp2p swarm of a node.

use std::{sync::Arc, time::Duration};

use libp2p::{
    Swarm, autonat, connection_limits, dcutr, identify,
    identity::Keypair,
    ping, relay,
    swarm::{self, NetworkBehaviour, behaviour::toggle::Toggle},
};
use tokio::sync::mpsc;

use super::{OverlayConfig, Paths};
use crate::{address, candidates, gate, listen::StartError, path::Counters, stream::TwinStream, streams};

/// What identify calls us; peers with another name are not refused.
pub(crate) const IDENTIFY_PROTOCOL: &str = "/twinmesh/1";

/// How often the other end of a connection is asked whether it is there.
pub(crate) const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long it may take to answer. A connection full of bulk data on a slow line answers late: at 1 Mbit/s, 20 s are
/// 2.5 MB of queue.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a connection without streams is kept for the next one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Connections per peer: direct TCP and QUIC, both ways, a circuit, and some that are about to be closed.
const MAX_CONNECTIONS_PER_PEER: u32 = 12;

/// Connections that others have made; a federation has tens of nodes.
const MAX_INCOMING: u32 = 1024;

/// Handshakes that others have begun.
const MAX_INCOMING_PENDING: u32 = 128;

/// What a node's swarm does. The order matters: what may deny a connection comes first, because the behaviours after it
/// take a connection they were asked about for established.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) gate: gate::Behaviour,
    limits: connection_limits::Behaviour,
    pub(crate) relay: relay::client::Behaviour,
    dcutr: Toggle<dcutr::Behaviour>,
    autonat: Toggle<autonat::v2::client::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) candidates: candidates::Behaviour,
    pub(crate) streams: streams::Behaviour,
}

pub(crate) fn build(
    config: &OverlayConfig,
    incoming: mpsc::Sender<TwinStream>,
    counters: Arc<Counters>,
) -> Result<Swarm<Behaviour>, StartError> {
    let transport = |reason: String| StartError::Transport { reason };
    let key = Keypair::ed25519_from_bytes(config.identity_seed).map_err(|error| transport(error.to_string()))?;
    let gate = config.gate.clone();
    let direct = config.paths == Paths::Any;
    let peer = key.public().to_peer_id();
    let (circuits, relay) = relay::client::new(peer);
    let behaviour = Behaviour {
        gate: gate::Behaviour::new(gate, config.listen.iter().any(address::is_loopback)),
        limits: connection_limits::Behaviour::new(
            connection_limits::ConnectionLimits::default()
                .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER))
                .with_max_established_incoming(Some(MAX_INCOMING))
                .with_max_pending_incoming(Some(MAX_INCOMING_PENDING)),
        ),
        relay,
        dcutr: direct.then(|| dcutr::Behaviour::new(peer)).into(),
        autonat: direct.then(autonat::v2::client::Behaviour::default).into(),
        identify: identify::Behaviour::new(
            identify::Config::new(IDENTIFY_PROTOCOL.to_owned(), key.public())
                .with_agent_version(concat!("twinmesh/", env!("CARGO_PKG_VERSION")).to_owned()),
        ),
        ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT)),
        candidates: candidates::Behaviour::default(),
        streams: streams::Behaviour::new(incoming, counters),
    };
    let transports = crate::transport::with_circuits(&key, circuits).map_err(|error| transport(error.to_string()))?;
    let settings = swarm::Config::with_tokio_executor().with_idle_connection_timeout(IDLE_TIMEOUT);
    Ok(Swarm::new(transports, behaviour, peer, settings))
}
