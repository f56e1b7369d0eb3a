//! Identity, authorization and the task ledger of a Twinmesh federation.
//!
//! * [`config`] – settings. [`clock`] – where time comes in.
//! * [`authn`] – who somebody is. [`authz`] – what they may do: one pure decision over the 86 rules.
//! * `ledger` – what may happen to tasks and runs, purely.
//! * `store` – all SQL. `http` – the v4 contract and our additions. `relay` – the overlay's meeting point.

pub mod authn;
pub mod authz;
pub mod clock;
pub mod config;
mod http;
#[expect(dead_code, reason = "attached soon")]
mod ledger;
mod relay;
mod store;
