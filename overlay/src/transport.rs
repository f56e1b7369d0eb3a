//! The transports under the swarm: TCP with Noise and yamux, QUIC, names resolved by the system.

use std::time::Duration;

use libp2p::{
    PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, timeout::TransportTimeout},
        upgrade::Version,
    },
    dns,
    identity::Keypair,
    noise, quic, relay, tcp, yamux,
};

/// How long a connection may take from the first packet to the end of its handshakes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a swarm dials and listens with.
pub(crate) type Transport = Boxed<(PeerId, StreamMuxerBox)>;

/// The transports of a relay: TCP and QUIC.
#[cfg(feature = "relay")]
pub(crate) fn direct(key: &Keypair) -> Result<Transport, noise::Error> {
    Ok(TransportTimeout::new(resolved(key)?, CONNECT_TIMEOUT).boxed())
}

/// The transports of a node: those, and circuits through a relay.
pub(crate) fn with_circuits(key: &Keypair, circuits: relay::client::Transport) -> Result<Transport, noise::Error> {
    let circuits = circuits
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let transport = circuits.or_transport(resolved(key)?).map(|either, _| either.into_inner());
    Ok(TransportTimeout::new(transport, CONNECT_TIMEOUT).boxed())
}

fn resolved(key: &Keypair) -> Result<Transport, noise::Error> {
    // Where the system has no resolver (a sandbox without `/etc/resolv.conf`), addresses by number work all the same.
    let transport = match dns::tokio::Transport::system(numbered(key)?) {
        Ok(transport) => transport,
        Err(_) => {
            dns::tokio::Transport::custom(numbered(key)?, dns::ResolverConfig::default(), dns::ResolverOpts::default())
        }
    };
    Ok(transport.boxed())
}

fn numbered(key: &Keypair) -> Result<Transport, noise::Error> {
    let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise::Config::new(key)?)
        .multiplex(yamux::Config::default())
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic =
        quic::tokio::Transport::new(quic::Config::new(key)).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    Ok(quic.or_transport(tcp).map(|either, _| either.into_inner()).boxed())
}
