//! The stream of events, for those who throw anything at it.

use super::parser::{Parser, TooLong};
use super::understand;

/// A stream: whole, and in pieces whose length the first byte says.
pub(crate) fn stream(bytes: &[u8]) {
    let whole = Parser::default().push(bytes);
    let length = usize::from(bytes.first().copied().unwrap_or_default()).max(1);
    let mut parser = Parser::default();
    let mut parts = Vec::new();
    let cut: Result<(), TooLong> = bytes.chunks(length).try_for_each(|piece| {
        parts.extend(parser.push(piece)?);
        Ok(())
    });
    match whole {
        Ok(whole) => {
            assert!(cut.is_ok() && whole == parts, "cuts do not matter");
            whole.iter().for_each(|message| drop(understand(message)));
        }
        Err(TooLong) => assert!(cut.is_err(), "nor for what is too long"),
    }
}
