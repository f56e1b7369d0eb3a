//! What the node says about itself: `status.json`, and `twinmesh-node status`.

use std::io;

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use twinmesh_overlay::{OverlayStatus, Traffic};
use twinmesh_protocol::{
    id::{CollaborationId, EventSequence, NodeId, OrganizationId, RunId, TaskId},
    time::Time,
};

use crate::runtime::Strength;

/// The name of the file in the state directory.
pub const STATUS_FILE: &str = "status.json";

/// The content of `status.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub version: String,
    pub pid: u32,
    /// Whether the node follows the coordinator and is registered with the overlay (where there is one).
    pub ready: bool,
    /// When this was written. Older than half a minute means that the node is gone.
    pub updated_at: Time,
    pub coordinator: CoordinatorStatus,
    pub node_id: NodeId,
    pub organization_id: OrganizationId,
    pub collaboration_id: CollaborationId,
    pub encrypted: bool,
    pub keys: KeyStatus,
    pub runtime: RuntimeStatus,
    /// Bytes of twins' streams by path, since the node started.
    pub traffic: Traffic,
    /// What twins' traffic is carried by; absent where there is no overlay.
    pub overlay: Option<OverlayStatus>,
    pub carrier: Option<String>,
    pub databases: Vec<String>,
    pub algorithms: Vec<String>,
    pub runs: Vec<RunLine>,
}

/// The link to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorStatus {
    pub url: String,
    #[serde(flatten)]
    pub link: LinkStatus,
}

/// Whether the event stream stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    pub connected: bool,
    /// Since when it is as it is.
    pub since: Option<Time>,
    pub error: Option<String>,
    /// The last event seen.
    pub sequence: Option<EventSequence>,
}

/// How strongly runs are confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// `full`, `lite` or `none`.
    pub strength: String,
    /// Why it is not more.
    pub reason: Option<String>,
}

impl From<&Strength> for RuntimeStatus {
    fn from(strength: &Strength) -> Self {
        let (word, reason) = match strength {
            Strength::Full => ("full", None),
            Strength::Lite { reason } => ("lite", Some(reason.clone())),
            Strength::Thread => ("none", Some("runs are threads of the node's process".to_owned())),
        };
        Self { strength: word.into(), reason }
    }
}

/// Fingerprints, for comparing by eye.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyStatus {
    /// The organization's key; absent when payloads are not encrypted.
    pub organization: Option<String>,
    /// Whether the node is registered with the overlay.
    pub registered: bool,
    pub registration_error: Option<String>,
}

/// A run that is not over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunLine {
    pub run_id: RunId,
    pub task_id: Option<TaskId>,
    /// In words.
    pub state: String,
    pub problem: Option<String>,
}

/// What the supervisor contributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) link: LinkStatus,
    pub(super) runs: Vec<RunLine>,
}

/// Replaces the status file in one step, so that a reader never sees half of it.
pub(super) fn write(directory: &Utf8Path, status: &NodeStatus) -> io::Result<()> {
    let mut bytes = serde_json::to_vec_pretty(status)?;
    bytes.push(b'\n');
    let temporary = directory.join(".status.json.new");
    std::fs::write(&temporary, bytes)?;
    std::fs::rename(&temporary, directory.join(STATUS_FILE))
}

/// Reads the status file of a node.
///
/// # Errors
///
/// When there is none, or it is of another release.
pub fn read(directory: &Utf8Path) -> io::Result<NodeStatus> {
    let bytes = std::fs::read(directory.join(STATUS_FILE))?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}
