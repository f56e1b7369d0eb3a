//! A target for each decoder that sees the network or an operator's file: whatever comes in, it answers and never panics.
//! What can be written again reads as it was.
//!
//! A module for each crate whose tests run its targets on their seeds and on mutations of them.

pub mod algorithms;
pub mod client;
pub mod coordinator;
pub mod node;
pub mod overlay;
