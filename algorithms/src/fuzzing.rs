//! Decoders of what other organizations and the gateway say, for those who throw anything at them. Not part of the
//! interface.

use crate::{functions, sdk, twin};

/// What another twin sends on a connection.
pub fn connection(bytes: &[u8]) {
    twin::fuzzing::connection(bytes);
}

/// A message of numbers, of another twin.
pub fn vector(bytes: &[u8]) {
    functions::fuzzing::vector(bytes);
}

/// Results of other organizations.
pub fn partials(bytes: &[u8]) {
    functions::fuzzing::partials(bytes);
}

/// What the gateway and the environment say: answers, tokens, variables.
pub fn host(bytes: &[u8]) {
    sdk::fuzzing::host(bytes);
}
