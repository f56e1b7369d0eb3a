//! Headers of payloads, for those who throw anything at them.

use axum::http::HeaderMap;

use super::range::{self, Wanted};
use super::upload::Ask;

/// A `Range` header, for payloads of some sizes, and what uploads say.
pub(crate) fn headers(text: &str, headers: &HeaderMap) {
    for size in [0, 1, 10, 4 << 20, u64::MAX] {
        match range::read(Some(text), size) {
            Wanted::Part(part) => assert!(part.start < part.end && part.end <= size, "{text:?} of {size}: {part:?}"),
            Wanted::Whole | Wanted::Nothing => {}
        }
    }
    let _ = Ask::read(headers);
}
