//! Nodes and a relay in one process, over loopback.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests, which the exemption for tests does not see")]

mod fuzz;
mod meshes;
mod paths;
mod support;
