//! What peers and the coordinator say to the overlay.

use twinmesh_overlay::fuzzing;
use twinmesh_protocol::key::{OrganizationKey, OrganizationPublicKey};

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("opening", opening), ("stream", stream), ("peer", peer)];

/// The first message on a stream between twins.
pub fn opening(data: &[u8]) {
    fuzzing::opening(data, pinned());
}

/// The bytes of a stream between twins.
pub fn stream(data: &[u8]) {
    fuzzing::stream(data);
}

/// A peer's record, and the relay's addresses.
pub fn peer(data: &[u8]) {
    fuzzing::peer(data, pinned());
}

/// The key of the only organization, with which the seeds are signed.
fn pinned() -> OrganizationPublicKey {
    OrganizationKey::from_seed(&[3; 32]).public()
}
