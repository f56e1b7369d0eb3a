//! What coordinators say to clients and nodes.

use twinmesh_client::fuzzing;

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("events", events)];

/// The stream of events.
pub fn events(data: &[u8]) {
    fuzzing::events(data);
}
