//! The researcher's side of a Twinmesh federation: a library, and the command line `twinmesh` on top of it.
//!
//! * [`api`] – typed access to a coordinator's interface, with tokens that renew themselves; nodes use it too.

pub mod api;

pub use api::{Api, ApiError, ApiOptions};
