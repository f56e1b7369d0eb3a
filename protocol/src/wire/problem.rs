use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What is wrong with the fields of a body; cross-field problems stand under `_schema` (contract A.1).
pub type FieldErrors = BTreeMap<String, Vec<String>>;

/// An error's body: a problem document (RFC 9457) that also carries `msg`, which stock clients read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Problem {
    /// What happened, in a sentence for people. The contract's text where it gives one.
    #[serde(default)]
    pub msg: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// The kind of problem, as a stable word.
    #[serde(default)]
    pub code: String,
    /// The status in words.
    #[serde(default)]
    pub title: String,
    /// What to try, where there is more to say than `msg`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Finds the request in the coordinator's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// What is wrong with which field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<BTreeMap<String, Vec<String>>>))]
    pub errors: Option<FieldErrors>,
}
