//! What twins, other organizations and the gateway say to an algorithm.

use twinmesh_algorithms::fuzzing;

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] =
    &[("connection", connection), ("vector", vector), ("partials", partials), ("host", host)];

/// What another twin sends.
pub fn connection(data: &[u8]) {
    fuzzing::connection(data);
}

/// A message of numbers, of another twin.
pub fn vector(data: &[u8]) {
    fuzzing::vector(data);
}

/// Results of other organizations.
pub fn partials(data: &[u8]) {
    fuzzing::partials(data);
}

/// What the gateway and the environment say.
pub fn host(data: &[u8]) {
    fuzzing::host(data);
}
