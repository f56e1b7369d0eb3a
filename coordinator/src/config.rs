//! Settings: defaults < file < environment (`TWINMESH_COORDINATOR__API_PATH`) < flags.

use serde::{Deserialize, Serialize};

/// How much a commit waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Synchronous {
    /// For the disk: what was acknowledged survives the loss of power.
    #[default]
    Full,
    /// For the operating system: what was acknowledged survives the end of the process.
    Normal,
}
