//! How bytes get to a peer, and how many went which way.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use libp2p::{Multiaddr, core::ConnectedPoint, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

/// The kind of connection a stream runs over; better ones sort first.
///
/// TCP comes before QUIC because bulk data over libp2p's QUIC is several times slower on a wide-area link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// A TCP connection between the two nodes (Noise, yamux).
    DirectTcp,
    /// A QUIC connection between the two nodes.
    DirectQuic,
    /// A circuit through the coordinator's relay, which sees ciphertext only.
    Relayed,
}

impl Path {
    /// Whether no third party forwards the bytes.
    #[must_use]
    pub fn is_direct(self) -> bool {
        self != Self::Relayed
    }

    /// The path that a connection to or from this address takes.
    #[must_use]
    pub fn of_address(address: &Multiaddr) -> Self {
        let mut path = Self::DirectTcp;
        for part in address {
            match part {
                Protocol::P2pCircuit => return Self::Relayed,
                Protocol::QuicV1 | Protocol::Quic => path = Self::DirectQuic,
                _ => {}
            }
        }
        path
    }

    pub(crate) fn of_endpoint(endpoint: &ConnectedPoint) -> Self {
        if endpoint.is_relayed() { Self::Relayed } else { Self::of_address(endpoint.get_remote_address()) }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DirectTcp => "direct TCP",
            Self::DirectQuic => "direct QUIC",
            Self::Relayed => "relayed",
        })
    }
}

/// How many bytes of twin streams went over direct and relayed paths since the overlay started.
///
/// Counted are the bytes that [`TwinStream`](crate::TwinStream)s carried, openings included, framing and encryption
/// not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes sent over direct connections.
    pub direct_sent: u64,
    /// Bytes received over direct connections.
    pub direct_received: u64,
    /// Bytes sent through the relay.
    pub relayed_sent: u64,
    /// Bytes received through the relay.
    pub relayed_received: u64,
}

/// The counters behind [`Traffic`], shared by all streams of an overlay.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    direct_sent: AtomicU64,
    direct_received: AtomicU64,
    relayed_sent: AtomicU64,
    relayed_received: AtomicU64,
}

impl Counters {
    pub(crate) fn sent(&self, path: Path, bytes: usize) {
        let counter = if path.is_direct() { &self.direct_sent } else { &self.relayed_sent };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, path: Path, bytes: usize) {
        let counter = if path.is_direct() { &self.direct_received } else { &self.relayed_received };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            direct_sent: self.direct_sent.load(Ordering::Relaxed),
            direct_received: self.direct_received.load(Ordering::Relaxed),
            relayed_sent: self.relayed_sent.load(Ordering::Relaxed),
            relayed_received: self.relayed_received.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_read_from_the_address() {
        for (address, path) in [
            ("/ip4/192.0.2.1/tcp/4001", Path::DirectTcp),
            ("/ip4/192.0.2.1/udp/4001/quic-v1", Path::DirectQuic),
            (
                "/ip4/192.0.2.1/udp/4001/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN/p2p-circuit",
                Path::Relayed,
            ),
        ] {
            assert_eq!(Path::of_address(&address.parse().unwrap()), path, "{address}");
        }
    }

    #[test]
    fn better_paths_sort_first() {
        assert!(Path::DirectTcp < Path::DirectQuic && Path::DirectQuic < Path::Relayed);
    }
}
