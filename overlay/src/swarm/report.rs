//! The shell's answers to those who ask what the overlay is doing.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::shell::Shell;
use crate::{
    status::{ConnectionStatus, Explanation, OverlayStatus, PeerStatus, RelayStatus},
    streams::Connection,
};

impl Shell {
    pub(super) fn status(&self) -> OverlayStatus {
        let streams = &self.swarm.behaviour().streams;
        let relays = self.places.values().map(|place| {
            let relay = place.link.relay();
            let (failures, last_error) = place.link.failures();
            RelayStatus {
                peer_id: relay.peer_id.to_string(),
                addresses: relay.addresses.iter().map(ToString::to_string).collect(),
                connected: place.link.is_connected(),
                reserved: place.link.is_reserved(),
                round_trip_micros: streams.of(relay.peer_id).filter_map(|connection| self.round_trip(connection)).min(),
                failures,
                last_error: last_error.map(str::to_owned),
            }
        });
        let relays = relays.collect();
        let mut peers: BTreeMap<PeerId, PeerStatus> = BTreeMap::new();
        for connection in streams.all() {
            if !self.places.contains_key(&connection.peer) {
                peers.entry(connection.peer).or_insert_with(|| {
                    let connections = self.connections(connection.peer);
                    PeerStatus {
                        peer_id: connection.peer.to_string(),
                        best: connections.first().map_or(connection.path, |best| best.path),
                        connections,
                    }
                });
            }
        }
        OverlayStatus {
            peer_id: self.own.to_string(),
            addresses: self.addresses.borrow().iter().map(ToString::to_string).collect(),
            relays,
            peers: peers.into_values().collect(),
            reachability: self.reachability.clone(),
            traffic: self.counters.traffic(),
        }
    }

    pub(super) fn explanation(&self, id: PeerId) -> Explanation {
        let connections = self.connections(id);
        let peer = self.peers.get(&id);
        let mut explanation = Explanation {
            peer_id: id.to_string(),
            best: connections.first().map(|best| best.path),
            connections,
            known_addresses: peer
                .map(|peer| peer.addresses.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            failures: peer.map(|peer| peer.failures.clone()).unwrap_or_default(),
            hole_punching: peer.and_then(|peer| peer.hole_punching.clone()),
            summary: String::new(),
        };
        explanation.summarize();
        explanation
    }

    fn connections(&self, peer: PeerId) -> Vec<ConnectionStatus> {
        let mut connections: Vec<&Connection> = self.swarm.behaviour().streams.of(peer).collect();
        connections.sort_by_key(|connection| (connection.path, connection.id));
        connections
            .into_iter()
            .map(|connection| ConnectionStatus {
                path: connection.path,
                remote_address: connection.remote.to_string(),
                round_trip_micros: self.round_trip(connection),
            })
            .collect()
    }

    fn round_trip(&self, connection: &Connection) -> Option<u64> {
        let round_trip = self.round_trips.get(&connection.id)?;
        Some(u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX))
    }
}
