//! What runs, the coordinator and other organizations say to a node.

use twinmesh_node::fuzzing;

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[("request", request), ("answer", answer), ("control", control), ("input", input)];

/// What a run asks of its gateway.
pub fn request(data: &[u8]) {
    fuzzing::request(data);
}

/// What the coordinator answers to a run's questions.
pub fn answer(data: &[u8]) {
    fuzzing::answer(data);
}

/// A packet on the control channel of a run.
pub fn control(data: &[u8]) {
    fuzzing::control(data);
}

/// A run's input.
pub fn input(data: &[u8]) {
    fuzzing::input(data);
}
