//! The researcher's side of a Twinmesh federation: a library, and the command line `twinmesh` on top of it.
//!
//! * [`api`] – typed access to a coordinator's interface, with tokens that renew themselves; nodes use it too.
//! * [`events`] – the coordinator's event log as a stream that resumes after every interruption.
//! * [`pins`] – the public keys of organizations as first seen, so that a later exchange is noticed.
//! * [`key`] – files that hold an organization's private key.
//! * [`researcher`] – tasks as a researcher asks for them: sealed, signed, awaited, opened and checked.
//! * [`cli`] – the command line.

pub mod api;
pub mod cli;
mod clock;
pub mod events;
mod file;
#[doc(hidden)]
pub mod fuzzing;
pub mod key;
mod made;
pub mod pins;
pub mod researcher;

pub use api::{Api, ApiError, ApiOptions, ObjectReader, ObjectSource};
