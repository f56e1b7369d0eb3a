//! Taking over the descriptor that the node's sandbox leaves open for the run.
#![expect(unsafe_code, reason = "a descriptor's number from the environment becomes its owner")]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over an inherited descriptor, when it is open.
pub(super) fn take(number: RawFd) -> Option<OwnedFd> {
    if number <= 2 {
        return None;
    }
    // SAFETY: `number` is not -1; the borrow is only used to ask whether the descriptor is open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(borrowed).ok()?;
    // SAFETY: the sandbox opened this descriptor for the run alone and names it in the run's environment; nothing else
    // in this process owns it, and the environment is read once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}
