//! The task ledger, asked over the interface.

pub(crate) mod algorithm_store;
mod column;
mod event;
pub(crate) mod federation;
mod filter;
mod instance;
mod kill;
mod list;
mod object;
mod opening;
mod peer;
mod run;
mod task;
mod twin;
mod wire;
