//! Addresses: which may be dialled, which are told to others, and where the relay is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::path::Path;

/// How many addresses of one peer are tried; a peer record from the coordinator is not trusted to be short.
pub const MAX_PEER_ADDRESSES: usize = 16;

/// Where the coordinator's relay is, as told by `GET /api/overlay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAddress {
    /// The relay's identity; whoever answers at the addresses must prove it.
    pub peer_id: PeerId,
    /// Where it listens, without a trailing `/p2p/<id>`.
    pub addresses: Vec<Multiaddr>,
}

impl RelayAddress {
    /// Reads the peer id and addresses as they are written on the wire.
    ///
    /// # Errors
    ///
    /// [`AddressError`] when one of them cannot be read, none is given, or an address names another peer.
    pub fn parse<A: AsRef<str>>(peer_id: &str, addresses: impl IntoIterator<Item = A>) -> Result<Self, AddressError> {
        let peer_id = PeerId::from_str(peer_id).map_err(|_| AddressError::PeerId { text: excerpt(peer_id) })?;
        let mut parsed = Vec::new();
        for text in addresses {
            let text = text.as_ref();
            let address = Multiaddr::from_str(text).map_err(|_| AddressError::Address { text: excerpt(text) })?;
            let address = for_peer(&address, peer_id).ok_or_else(|| AddressError::Unusable { text: excerpt(text) })?;
            parsed.push(address);
        }
        if parsed.is_empty() {
            return Err(AddressError::None);
        }
        Ok(Self { peer_id, addresses: parsed })
    }

    /// The addresses of the relay that use the given path, best first.
    pub(crate) fn by_path(&self, path: Path) -> Vec<Multiaddr> {
        self.addresses.iter().filter(|address| Path::of_address(address) == path).cloned().collect()
    }

    /// The address under which `peer` is reached through this relay.
    pub(crate) fn circuit_to(&self, peer: PeerId) -> Option<Multiaddr> {
        Some(self.circuit()?.with(Protocol::P2p(peer)))
    }

    /// The address to listen at for circuits through this relay. One is enough: whichever it names, a circuit runs over
    /// the connection to the relay that is there.
    pub(crate) fn circuit(&self) -> Option<Multiaddr> {
        let best = self.addresses.iter().min_by_key(|address| Path::of_address(address))?;
        Some(best.clone().with(Protocol::P2p(self.peer_id)).with(Protocol::P2pCircuit))
    }
}

impl fmt::Display for RelayAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer_id)?;
        for (index, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if index == 0 { " at " } else { ", " })?;
        }
        Ok(())
    }
}

/// Why an address of the overlay cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The text is not a libp2p peer id.
    #[error("cannot read the peer id `{text}`")]
    PeerId {
        /// The beginning of the text.
        text: String,
    },
    /// The text is not a multiaddress.
    #[error("cannot read the address `{text}`; expected something like `/ip4/192.0.2.1/tcp/4001`")]
    Address {
        /// The beginning of the text.
        text: String,
    },
    /// The address is of a kind that the overlay does not dial, or names another peer.
    #[error("cannot use the address `{text}`; expected `/ip4|ip6|dns/…/tcp/PORT` or `…/udp/PORT/quic-v1`")]
    Unusable {
        /// The beginning of the text.
        text: String,
    },
    /// There is no address at all.
    #[error("the relay has no address")]
    None,
}

/// The direct addresses of a peer that are worth dialling from here, at most [`MAX_PEER_ADDRESSES`].
///
/// What a peer record says is the word of others: kept are plain TCP and QUIC addresses for that very peer. A loopback
/// or link-local address is kept only where this node itself listens on loopback (a federation on one machine), so that
/// nobody can make a node knock at services inside its own host.
pub(crate) fn dialable(addresses: &[Multiaddr], peer: PeerId, loopback: bool) -> Vec<Multiaddr> {
    let mut seen = BTreeSet::new();
    addresses
        .iter()
        .filter_map(|address| for_peer(address, peer))
        .filter(|address| loopback || !is_local(address))
        .filter(|address| seen.insert(address.to_string()))
        .take(MAX_PEER_ADDRESSES)
        .collect()
}

/// The addresses to tell others: without loopback where there is another, without duplicates, sorted.
pub(crate) fn publishable<'a>(addresses: impl IntoIterator<Item = &'a Multiaddr>, own: PeerId) -> Vec<Multiaddr> {
    let all: BTreeMap<String, Multiaddr> = addresses
        .into_iter()
        .filter_map(|address| for_peer(address, own))
        .map(|address| (address.to_string(), address))
        .collect();
    let outside = all.values().any(|address| !is_local(address));
    all.into_values().filter(|address| !outside || !is_local(address)).collect()
}

/// Whether the address only means something on the machine (or the cable) it was seen on.
pub(crate) fn is_local(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => is_local_ip(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => is_local_ip(IpAddr::V6(ip)),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.eq_ignore_ascii_case("localhost"),
        _ => false,
    })
}

pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    address.iter().any(|part| match part {
        Protocol::Ip4(ip) => ip.is_loopback(),
        Protocol::Ip6(ip) => ip.is_loopback(),
        _ => false,
    })
}

fn is_local_ip(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast(),
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_local_ip(IpAddr::V4(ip)),
            None => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
        },
    }
}

/// The address without its `/p2p/<peer>`, if it is a plain TCP or QUIC address and names no other peer.
fn for_peer(address: &Multiaddr, peer: PeerId) -> Option<Multiaddr> {
    let mut parts: Vec<Protocol<'_>> = address.iter().collect();
    if let Some(Protocol::P2p(named)) = parts.last() {
        if *named != peer {
            return None;
        }
        parts.pop();
    }
    let plain = matches!(
        parts.as_slice(),
        [
            Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_),
            Protocol::Tcp(port),
        ] | [
            Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_),
            Protocol::Udp(port),
            Protocol::QuicV1,
        ] if *port != 0
    );
    plain.then(|| parts.into_iter().collect())
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_plain_addresses_of_the_peer_itself_are_dialled() {
        let (peer, other) = (PeerId::random(), PeerId::random());
        let given = addresses(&[
            "/ip4/192.0.2.1/tcp/4001",
            &format!("/ip4/192.0.2.1/tcp/4001/p2p/{peer}"),
            &format!("/ip4/192.0.2.2/tcp/4001/p2p/{other}"),
            "/ip4/192.0.2.3/tcp/0",
            "/ip4/192.0.2.3/udp/53",
            "/dns4/node.example.org/udp/4001/quic-v1",
            "/ip4/127.0.0.1/tcp/22",
            "/ip6/::ffff:127.0.0.1/tcp/22",
            "/dns4/localhost/tcp/22",
            &format!("/ip4/192.0.2.4/tcp/1/p2p/{other}/p2p-circuit/p2p/{peer}"),
        ]);
        assert_eq!(
            dialable(&given, peer, false),
            addresses(&["/ip4/192.0.2.1/tcp/4001", "/dns4/node.example.org/udp/4001/quic-v1"])
        );
        assert_eq!(dialable(&given, peer, true).len(), 5);
    }

    #[test]
    fn a_long_list_is_cut() {
        let peer = PeerId::random();
        let many: Vec<Multiaddr> = (1..200).map(|port| format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap()).collect();
        assert_eq!(dialable(&many, peer, false).len(), MAX_PEER_ADDRESSES);
    }

    #[test]
    fn loopback_is_told_to_others_only_when_there_is_nothing_else() {
        let loopback = addresses(&["/ip4/127.0.0.1/tcp/5", "/ip4/127.0.0.1/tcp/5"]);
        assert_eq!(publishable(&loopback, PeerId::random()), addresses(&["/ip4/127.0.0.1/tcp/5"]));
        let both = addresses(&["/ip4/127.0.0.1/tcp/5", "/ip4/192.0.2.1/tcp/5"]);
        assert_eq!(publishable(&both, PeerId::random()), addresses(&["/ip4/192.0.2.1/tcp/5"]));
    }

    #[test]
    fn an_unusable_relay_address_is_named() {
        let peer = PeerId::random().to_string();
        assert_eq!(RelayAddress::parse(&peer, [""; 0]), Err(AddressError::None));
        assert!(matches!(RelayAddress::parse("nonsense", ["/ip4/192.0.2.1/tcp/1"]), Err(AddressError::PeerId { .. })));
        assert!(matches!(RelayAddress::parse(&peer, ["192.0.2.1:4001"]), Err(AddressError::Address { .. })));
        assert!(matches!(RelayAddress::parse(&peer, ["/ip4/192.0.2.1"]), Err(AddressError::Unusable { .. })));
        let relay = RelayAddress::parse(&peer, [format!("/ip4/192.0.2.1/tcp/1/p2p/{peer}")]).unwrap();
        assert_eq!(relay.addresses, addresses(&["/ip4/192.0.2.1/tcp/1"]));
    }
}
