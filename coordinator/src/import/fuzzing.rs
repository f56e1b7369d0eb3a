//! An operator's file, for those who throw anything at it.

use super::file::{parse, public_key};

/// A file, and what keys it holds.
pub(crate) fn file(text: &str) {
    let Ok(batch) = parse(text) else { return };
    for organization in &batch.organizations {
        let _ = organization.public_key.as_deref().map(public_key);
    }
}
