//! How many wrong passwords are too many (contract A.3).

use std::time::Duration;

use twinmesh_protocol::time::Time;

/// When an account is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lockout {
    /// Wrong passwords or codes in a row after which it is.
    pub(crate) max_failed: i64,
    /// How long it stays so.
    pub(crate) locked_for: Duration,
}

/// What is remembered of an account's log-ins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempts {
    pub(crate) failed: i64,
    pub(crate) last: Option<Time>,
}

impl Lockout {
    /// Whether not even the right password helps.
    pub(crate) fn is_locked(self, attempts: Attempts, now: Time) -> bool {
        attempts.failed >= self.max_failed && attempts.last.is_some_and(|last| now.since(last) < self.locked_for)
    }

    /// After another try for an account that is not locked.
    pub(crate) fn after(self, attempts: Attempts, right: bool, now: Time) -> Attempts {
        let before = if attempts.failed >= self.max_failed { 0 } else { attempts.failed };
        Attempts { failed: if right { 0 } else { before + 1 }, last: Some(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCKOUT: Lockout = Lockout { max_failed: 5, locked_for: Duration::from_secs(15 * 60) };

    #[test]
    fn five_wrong_tries_lock_for_a_quarter_of_an_hour() {
        let start = Time::from_micros(0);
        let mut attempts = Attempts { failed: 0, last: None };
        for _ in 0..5 {
            assert!(!LOCKOUT.is_locked(attempts, start));
            attempts = LOCKOUT.after(attempts, false, start);
        }
        assert!(LOCKOUT.is_locked(attempts, start.plus(LOCKOUT.locked_for - Duration::from_micros(1))));
        let later = start.plus(LOCKOUT.locked_for);
        assert!(!LOCKOUT.is_locked(attempts, later));
        assert_eq!(LOCKOUT.after(attempts, false, later).failed, 1);
        assert_eq!(LOCKOUT.after(attempts, true, later).failed, 0);
    }
}
