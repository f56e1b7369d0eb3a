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
    /// The meeting point and relay of the instance that answers; null when it runs none.
    pub relay: Option<RelayInfo>,
    /// Those of all instances that work as one coordinator, that of the one that answers first. A node keeps a place at
    /// each of them.
    #[serde(default)]
    pub relays: Vec<RelayPlace>,
}

/// Where a meeting point is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RelayPlace {
    /// Its libp2p identity.
    pub peer_id: String,
    /// Multiaddresses at which it listens.
    pub addresses: Vec<String>,
}

/// A meeting point and relay of the overlay.
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
