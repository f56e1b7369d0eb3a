//! The client against a scripted coordinator.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cli;
mod events;
mod fuzz;
mod researcher;
mod rsa;
mod server;
mod session;
