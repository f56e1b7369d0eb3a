//! The one place that reads the clock.

use twinmesh_protocol::time::Time;

/// The present instant.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "netsim is a shell")]
pub(crate) fn now() -> Time {
    chrono::Utc::now().into()
}
