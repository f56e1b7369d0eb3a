//! Identifiers as types: a task id is never taken for a run id.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The error of parsing an identifier from text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {noun} id: use a whole number from 1")]
pub struct InvalidId {
    noun: &'static str,
    text: String,
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $noun:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(minimum = 1))]
        #[serde(transparent)]
        pub struct $name(i64);

        impl $name {
            /// Wraps a number that is known to be such an id.
            #[must_use]
            pub const fn new(id: i64) -> Self {
                Self(id)
            }

            /// The number itself, as the contract writes it.
            #[must_use]
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                match text.parse::<i64>() {
                    Ok(id) if id > 0 => Ok(Self(id)),
                    Ok(_) | Err(_) => Err(InvalidId { noun: $noun, text: text.into() }),
                }
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> i64 {
                id.0
            }
        }
    )*};
}

ids! {
    /// An organization: a party that holds data, asks questions, or both.
    OrganizationId = "organization";
    /// A collaboration: organizations that agreed to work together.
    CollaborationId = "collaboration";
    /// A study: some organizations of a collaboration.
    StudyId = "study";
    /// A node; nodes and users share one sequence of ids (contract A.5).
    NodeId = "node";
    /// A user; nodes and users share one sequence of ids (contract A.5).
    UserId = "user";
    /// A task: one request.
    TaskId = "task";
    /// A run: a task at one organization.
    RunId = "run";
    /// A job: a user's task with all its subtasks.
    JobId = "job";
    /// A port that a run exposes to its twins.
    PortId = "port";
    /// A role: a named set of rules.
    RoleId = "role";
    /// A rule: resource, operation and scope.
    RuleId = "rule";
    /// A link to an algorithm store.
    AlgorithmStoreId = "algorithm store";
    /// The place of an event in the log; grows, may have gaps.
    EventSequence = "event";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_bare_number_in_json() {
        assert_eq!(serde_json::to_string(&TaskId::new(7)).unwrap(), "7");
        assert_eq!(serde_json::from_str::<TaskId>("7").unwrap(), TaskId::new(7));
    }

    #[test]
    fn text_that_is_no_id_is_refused_by_name() {
        for text in ["", "0", "-1", "x", "1.5", "99999999999999999999"] {
            let error = text.parse::<RunId>().unwrap_err().to_string();
            assert!(error.contains("no run id"), "{error}");
        }
    }
}
