use serde::{Deserialize, Serialize};

use crate::id::{CollaborationId, EventSequence, JobId, NodeId, OrganizationId, RunId, TaskId};
use crate::status::RunStatus;
use crate::time::Time;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A task was recorded.
    TaskCreated,
    /// A run waits for its node.
    RunAssigned,
    /// A run's status changed.
    RunStatus,
    /// Somebody wants a run ended.
    KillRequested,
    /// A run exposes a port.
    PortRegistered,
    /// A node came.
    NodeOnline,
    /// A node left.
    NodeOffline,
    /// An organization's public key changed.
    KeyChanged,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::TaskCreated,
        Self::RunAssigned,
        Self::RunStatus,
        Self::KillRequested,
        Self::PortRegistered,
        Self::NodeOnline,
        Self::NodeOffline,
        Self::KeyChanged,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TaskCreated => "task_created",
            Self::RunAssigned => "run_assigned",
            Self::RunStatus => "run_status",
            Self::KillRequested => "kill_requested",
            Self::PortRegistered => "port_registered",
            Self::NodeOnline => "node_online",
            Self::NodeOffline => "node_offline",
            Self::KeyChanged => "key_changed",
        }
    }
}

/// An entry of the event log, as `GET /event` sends it. A hint to look again, never the truth itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Event {
    /// Its place in the log.
    pub sequence: EventSequence,
    /// When it was recorded.
    pub time: Time,
    /// What happened.
    pub kind: EventKind,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collaboration_id: Option<CollaborationId>,
    /// To or at whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_id: Option<OrganizationId>,
    /// The node concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<NodeId>,
    /// The task concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// That task's parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_id: Option<TaskId>,
    /// The job concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// The run concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<RunId>,
    /// The run's new status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
}

/// The first message of an event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Hello {
    /// The last event before the stream begins.
    #[cfg_attr(feature = "schema", schema(value_type = u64))]
    pub sequence: EventSequence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_of_each_kind_is_its_json() {
        for kind in EventKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
