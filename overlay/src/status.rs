//! What the overlay says about itself: for a node's status file and `net explain`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::path::{Path, Traffic};

/// A snapshot of a node's overlay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OverlayStatus {
    /// This node's libp2p identity.
    pub peer_id: String,
    /// The addresses it tells others.
    pub addresses: Vec<String>,
    /// The relays.
    #[serde(default)]
    pub relays: Vec<RelayStatus>,
    /// The nodes there are connections to, the relays left out.
    pub peers: Vec<PeerStatus>,
    /// Addresses that a relay has tried to call back at: `reachable`, or why not.
    pub reachability: BTreeMap<String, String>,
    /// Bytes of twin streams by path.
    pub traffic: Traffic,
}

/// The link to a relay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// The relay's libp2p identity.
    pub peer_id: String,
    /// Where it is looked for.
    pub addresses: Vec<String>,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// Whether others can reach this node through it.
    pub reserved: bool,
    /// The time to the relay and back, in microseconds.
    pub round_trip_micros: Option<u64>,
    /// Failures in a row.
    pub failures: u32,
    /// The last of these.
    pub last_error: Option<String>,
}

/// The connections to one node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The node's libp2p identity.
    pub peer_id: String,
    /// The path a new stream would take.
    pub best: Path,
    /// All connections, best first.
    pub connections: Vec<ConnectionStatus>,
}

/// One connection to a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// The kind of connection.
    pub path: Path,
    /// The address at the other end.
    pub remote_address: String,
    /// The time there and back, in microseconds.
    pub round_trip_micros: Option<u64>,
}

/// Why the path to a node is what it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node's libp2p identity.
    pub peer_id: String,
    /// The path a new stream would take; none if there is no connection.
    pub best: Option<Path>,
    /// All connections, best first.
    pub connections: Vec<ConnectionStatus>,
    /// The addresses known and dialled.
    pub known_addresses: Vec<String>,
    /// Why the last attempt at a path failed.
    pub failures: BTreeMap<Path, String>,
    /// The result of the last attempt at hole punching.
    pub hole_punching: Option<String>,
    /// The same in a sentence for a person.
    pub summary: String,
}

impl Explanation {
    /// Puts the facts into words.
    pub(crate) fn summarize(&mut self) {
        let failures: Vec<String> =
            self.failures.iter().map(|(path, reason)| format!("{path} failed ({reason})")).collect();
        let failures = if failures.is_empty() { String::new() } else { format!("; {}", failures.join("; ")) };
        self.summary = match self.best {
            Some(path) if path.is_direct() => format!("the path is {path}"),
            Some(_) if self.known_addresses.is_empty() => {
                let punching = match &self.hole_punching {
                    Some(result) => format!("hole punching: {result}"),
                    None => "hole punching has not ended yet".to_owned(),
                };
                format!("the path is relayed because no direct address of the node is known; {punching}")
            }
            Some(_) => format!("the path is relayed{failures}"),
            None if self.known_addresses.is_empty() && failures.is_empty() => {
                "there is no connection, and none was asked for".to_owned()
            }
            None => format!("there is no connection{failures}"),
        };
    }
}
