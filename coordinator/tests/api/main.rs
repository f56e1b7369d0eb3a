//! The coordinator as its callers see it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod bucket;
mod crash;
mod daemon;
mod database;
mod fuzz;
mod identity;
mod interface;
mod ledger;
mod operation;
