//! The one place where time comes in: read once for each request or tick, then handed on.

use std::fmt;
use std::sync::Arc;

use twinmesh_protocol::time::Time;

/// Tells the time. Tests give one that stands still.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Time + Send + Sync>);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the shell's clock")]
        Self::new(|| chrono::Utc::now().into())
    }

    /// A clock of one's own.
    #[must_use]
    pub fn new(now: impl Fn() -> Time + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// The instant it is.
    #[must_use]
    pub fn now(&self) -> Time {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
