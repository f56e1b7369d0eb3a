//! The status words of runs and tasks (contract A.8.2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The status of a run. Clients compare the exact words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RunStatus {
    /// Recorded; its node has not taken it up.
    Pending,
    /// Its node took it up and prepares the start.
    Initializing,
    /// The algorithm runs.
    Active,
    /// The algorithm ended well and its result was delivered.
    Completed,
    /// It could not be carried out, or a sibling failed first.
    Failed,
    /// The runtime could not start the algorithm.
    StartFailed,
    /// The image could not be had.
    NonExistingImage,
    /// The algorithm ended with an error.
    Crashed,
    /// A person ended it.
    Killed,
    /// The node's policy refused it.
    NotAllowed,
    /// It vanished and nobody knows why.
    UnknownError,
}

impl RunStatus {
    /// Every status, in the order of a run's life.
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Initializing,
        Self::Active,
        Self::Completed,
        Self::Failed,
        Self::StartFailed,
        Self::NonExistingImage,
        Self::Crashed,
        Self::Killed,
        Self::NotAllowed,
        Self::UnknownError,
    ];

    /// The contract's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Initializing => "initializing",
            Self::Active => "active",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::StartFailed => "start failed",
            Self::NonExistingImage => "non-existing Docker image",
            Self::Crashed => "crashed",
            Self::Killed => "killed by user",
            Self::NotAllowed => "not allowed",
            Self::UnknownError => "unknown error",
        }
    }

    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_finished(self) -> bool {
        !matches!(self, Self::Pending | Self::Initializing | Self::Active)
    }

    /// Whether it ended without a result.
    #[must_use]
    pub const fn is_failed(self) -> bool {
        self.is_finished() && !matches!(self, Self::Completed)
    }
}

/// The status of a task as it follows from its runs: the common failure if all failed runs agree, else `failed`;
/// else `active`, `initializing`, `pending` if any run is; else `completed` (contract A.8.2).
#[must_use]
pub fn task_status(runs: impl IntoIterator<Item = RunStatus>) -> RunStatus {
    let mut failure = None;
    let mut any = [false; 3];
    for status in runs {
        match status {
            RunStatus::Active => any[0] = true,
            RunStatus::Initializing => any[1] = true,
            RunStatus::Pending => any[2] = true,
            RunStatus::Completed => {}
            failed => {
                failure = Some(match failure {
                    Some(other) if other != failed => RunStatus::Failed,
                    Some(_) | None => failed,
                });
            }
        }
    }
    failure.unwrap_or(match any {
        [true, ..] => RunStatus::Active,
        [_, true, _] => RunStatus::Initializing,
        [.., true] => RunStatus::Pending,
        [false, false, false] => RunStatus::Completed,
    })
}

/// The error of reading a status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no run status")]
pub struct InvalidStatus(String);

impl fmt::Display for RunStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for RunStatus {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| InvalidStatus(text.chars().take(80).collect()))
    }
}

impl Serialize for RunStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for RunStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for RunStatus {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("The status of a run, or of a task as it follows from its runs."))
            .enum_values(Some(Self::ALL.map(Self::as_str)))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for RunStatus {}

#[cfg(test)]
mod tests {
    use super::RunStatus::*;
    use super::*;

    #[test]
    fn every_word_reads_back() {
        for status in RunStatus::ALL {
            assert_eq!(status.as_str().parse::<RunStatus>().unwrap(), status);
        }
        assert!("done".parse::<RunStatus>().is_err());
    }

    #[test]
    fn a_task_takes_the_status_the_contract_gives_it() {
        for (runs, status) in [
            (vec![Completed, Completed], Completed),
            (vec![Completed, Pending], Pending),
            (vec![Pending, Initializing], Initializing),
            (vec![Pending, Active, Initializing], Active),
            (vec![Active, Crashed], Crashed),
            (vec![Crashed, Crashed, Completed], Crashed),
            (vec![Crashed, NotAllowed], Failed),
            (vec![Crashed, NotAllowed, NotAllowed], Failed),
        ] {
            assert_eq!(task_status(runs.clone()), status, "{runs:?}");
        }
    }
}
