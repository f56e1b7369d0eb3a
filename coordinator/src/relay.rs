//! The overlay's meeting point and relay, hosted in this process.

use std::path::Path;

use twinmesh_protocol::wire::RelayInfo;

/// A running relay.
#[derive(Debug)]
pub(crate) struct Relay {
    info: RelayInfo,
}

impl Relay {
    /// Starts it, with an identity kept in the data directory.
    pub(crate) async fn start(_data_dir: &Path, listen: &[String]) -> anyhow::Result<Self> {
        anyhow::ensure!(listen.is_empty(), "cannot listen for the overlay");
        Ok(Self { info: RelayInfo { peer_id: String::new(), addresses: Vec::new(), circuits: 0, circuits_total: 0 } })
    }

    /// Who it is and where it listens.
    pub(crate) fn info(&self) -> RelayInfo {
        self.info.clone()
    }

    /// Ends it.
    pub(crate) async fn stop(&self) {}
}
