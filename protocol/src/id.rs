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

/// A payload that is kept outside of the rows (contract A.9.3): a random UUID, which stands where the payload's text
/// else would. No payload's text looks like one, as base64 has no hyphens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(u128);

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for ObjectId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
        let format = SchemaFormat::Custom("uuid".into());
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for ObjectId {}

/// The error of reading an object's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no UUID such as `6f2c1a4e-0b7d-4c53-9a53-1f0e6b6a8d21`")]
pub struct InvalidObjectId(String);

impl ObjectId {
    /// Wraps the number that a UUID is.
    #[must_use]
    pub const fn from_u128(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.0);
        write!(f, "{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ObjectId {
    type Err = InvalidObjectId;

    /// Takes the one canonical form, in either case.
    fn from_str(text: &str) -> Result<Self, InvalidObjectId> {
        let is_form = text.len() == 36
            && text.bytes().enumerate().all(|(at, byte)| match at {
                8 | 13 | 18 | 23 => byte == b'-',
                _ => byte.is_ascii_hexdigit(),
            });
        let number = is_form.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok()).flatten();
        number.map(Self).ok_or_else(|| InvalidObjectId(text.chars().take(80).collect()))
    }
}

impl Serialize for ObjectId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
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
    fn an_object_goes_by_its_uuid_in_the_canonical_form_only() {
        let text = "6f2c1a4e-0b7d-4c53-9a53-1f0e6b6a8d21";
        let id: ObjectId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{text}\""));
        assert_eq!(ObjectId::from_u128(1).to_string(), "00000000-0000-0000-0000-000000000001");
        let no_id = ["", "eyJtZXRob2QiOiAibSJ9", &text[1..], &text.replace('-', ""), &text.replace('6', "g")];
        for text in no_id.into_iter().chain(["6f2c1a4e-0b7d-4c53-9a53-1f0e6b6a8d2\u{e9}"]) {
            assert!(text.parse::<ObjectId>().is_err(), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused_by_name() {
        for text in ["", "0", "-1", "x", "1.5", "99999999999999999999"] {
            let error = text.parse::<RunId>().unwrap_err().to_string();
            assert!(error.contains("no run id"), "{error}");
        }
    }
}
