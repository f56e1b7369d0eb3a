//! Decoders of what coordinators say, for those who throw anything at them. Not part of the interface.

/// The stream of events.
///
/// # Panics
/// When it reads otherwise in pieces than whole.
pub fn events(bytes: &[u8]) {
    crate::events::fuzzing::stream(bytes);
}
