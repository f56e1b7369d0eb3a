//! Trying again, at growing intervals, for a limited time.
#![expect(clippy::disallowed_methods, reason = "shell")]

use std::time::{Duration, Instant};

/// The pause after the first failure.
const FIRST: Duration = Duration::from_millis(20);

/// The longest pause.
const LONGEST: Duration = Duration::from_secs(1);

/// How long to go on trying.
#[derive(Debug)]
pub(crate) struct Patience {
    end: Instant,
    next: Duration,
}

impl Patience {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, next: FIRST }
    }

    /// Sleeps before the next try; false when the time is up.
    pub(crate) fn pause(&mut self) -> bool {
        let Some(left) = self.end.checked_duration_since(Instant::now()) else { return false };
        std::thread::sleep(self.next.min(left));
        self.next = (self.next * 2).min(LONGEST);
        true
    }
}
