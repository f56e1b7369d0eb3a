//! Answers that are no resources.

use axum::Json;
use serde::Serialize;
use utoipa::ToSchema;

/// Tells that something was done.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    /// What was done, in a sentence for people.
    msg: String,
}

impl Message {
    /// The answer with this sentence.
    pub(crate) fn new(msg: impl Into<String>) -> Json<Self> {
        Json(Self { msg: msg.into() })
    }
}
