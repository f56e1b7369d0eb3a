//! How many wrong passwords are too many (contract A.3).

use std::time::Duration;

use twinmesh_protocol::time::Time;

/// Wrong passwords in a row after which an account is locked.
pub(crate) const MAX_FAILED_ATTEMPTS: i64 = 5;
/// How long it stays locked.
pub(crate) const LOCKED_FOR: Duration = Duration::from_secs(15 * 60);

/// What is remembered of an account's log-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempts {
    pub(crate) failed: i64,
    pub(crate) last: Option<Time>,
}

impl Attempts {
    /// Whether not even the right password helps.
    pub(crate) fn is_locked(self, now: Time) -> bool {
        self.failed >= MAX_FAILED_ATTEMPTS && self.last.is_some_and(|last| now.since(last) < LOCKED_FOR)
    }

    /// After another try; `None` when the account is locked, in which case the try counts for nothing.
    pub(crate) fn after(self, right: bool, now: Time) -> Option<Self> {
        if self.is_locked(now) {
            return None;
        }
        let before = if self.failed >= MAX_FAILED_ATTEMPTS { 0 } else { self.failed };
        Some(Self { failed: if right { 0 } else { before + 1 }, last: Some(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_wrong_tries_lock_for_a_quarter_of_an_hour() {
        let start = Time::from_micros(0);
        let mut attempts = Attempts { failed: 0, last: None };
        for _ in 0..5 {
            attempts = attempts.after(false, start).unwrap();
        }
        assert!(attempts.is_locked(start.plus(LOCKED_FOR - Duration::from_micros(1))));
        assert_eq!(attempts.after(true, start), None);
        let later = start.plus(LOCKED_FOR);
        assert_eq!(attempts.after(false, later).unwrap().failed, 1);
        assert_eq!(attempts.after(true, later).unwrap().failed, 0);
    }
}
