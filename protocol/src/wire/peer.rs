use serde::{Deserialize, Serialize};

use crate::certificate::SignedCertificate;
use crate::id::{NodeId, OrganizationId};

/// How a node is reached in the overlay: an item of `GET /peer?collaboration_id=`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct PeerRecord {
    /// The node.
    pub node_id: NodeId,
    /// Its organization.
    pub organization_id: OrganizationId,
    /// The organization's word that the key is its node's. Verify it against one's own pin.
    pub certificate: SignedCertificate,
    /// Multiaddresses at which it listens.
    pub addresses: Vec<String>,
    /// `online`, `offline` or null.
    pub status: Option<String>,
}

/// The body of `PUT /node/<id>/peer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPeer {
    /// The organization's word that the key is this node's.
    pub certificate: SignedCertificate,
    /// Multiaddresses at which it listens.
    pub addresses: Vec<String>,
}

/// The answer of `GET /overlay`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct OverlayInfo {
    /// The meeting point and relay; null when the coordinator runs none.
    pub relay: Option<RelayInfo>,
}

/// The overlay's meeting point and relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RelayInfo {
    /// Its libp2p identity.
    pub peer_id: String,
    /// Multiaddresses at which it listens.
    pub addresses: Vec<String>,
    /// Circuits between peers that it carries at present.
    #[serde(default)]
    pub circuits: u64,
    /// Circuits it has carried since its start.
    #[serde(default)]
    pub circuits_total: u64,
}
