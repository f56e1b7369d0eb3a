//! The machine's clock, for the shells of this crate.

use std::time::{SystemTime, UNIX_EPOCH};

use twinmesh_protocol::time::Time;

/// The present instant.
#[expect(clippy::disallowed_methods, reason = "the one place where this crate reads the clock")]
pub(crate) fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}
