//! The overlay's meeting point and relay, hosted in this process.
//!
//! Its identity outlives the process, so that nodes know it again. Only nodes that a registered certificate names may
//! use it.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::sync::Mutex;
use twinmesh_overlay::mesh::peer_id;
use twinmesh_overlay::relay::{Relay as Host, RelayConfig, RelayHandle};
use twinmesh_overlay::{Multiaddr, PeerId};
use twinmesh_protocol::certificate::SignedCertificate;
use twinmesh_protocol::key::PublicKey;
use twinmesh_protocol::wire::{RelayInfo, RelayPlace};

use crate::files;
use crate::store::peer::certificate_list;
use crate::store::{Result as StoreResult, Store};

/// A running relay.
#[derive(Debug)]
pub(crate) struct Relay {
    handle: RelayHandle,
    /// One reads who is registered and passes it on at a time, so that what was read last counts.
    admitting: Mutex<()>,
}

impl Relay {
    /// Starts it, with an identity kept in the data directory, for the nodes that are registered.
    pub(crate) async fn start(data_dir: &Path, listen: &[String], store: &Store) -> anyhow::Result<Self> {
        let listen = listen
            .iter()
            .map(|text| {
                text.parse::<Multiaddr>().with_context(|| format!("`{text}` in `overlay.listen` is no multiaddress"))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let config = RelayConfig {
            identity_seed: identity(data_dir)?,
            listen,
            external: Vec::new(),
            admitted: admitted(store).await.context("cannot read which nodes are registered")?,
        };
        Ok(Self { handle: Host::start(config).await?, admitting: Mutex::default() })
    }

    /// Who it is, where it listens and what it carries.
    pub(crate) fn info(&self) -> RelayInfo {
        let stats = self.handle.stats();
        RelayInfo {
            peer_id: self.handle.peer_id().to_string(),
            addresses: self.handle.addresses().iter().map(ToString::to_string).collect(),
            circuits: u64::try_from(stats.circuits).unwrap_or(u64::MAX),
            circuits_total: stats.circuits_opened,
        }
    }

    /// Where it is.
    pub(crate) fn place(&self) -> RelayPlace {
        let RelayInfo { peer_id, addresses, .. } = self.info();
        RelayPlace { peer_id, addresses }
    }

    /// Whether it is at work.
    pub(crate) fn is_running(&self) -> bool {
        self.handle.is_running()
    }

    /// How many nodes can be reached through it.
    pub(crate) fn reservations(&self) -> usize {
        self.handle.stats().reservations
    }

    /// Lets exactly those nodes in that are registered at this moment.
    pub(crate) async fn admit_registered(&self, store: &Store) -> StoreResult<()> {
        let _turn = self.admitting.lock().await;
        self.handle.set_admitted(admitted(store).await?).await;
        Ok(())
    }

    /// Ends it.
    pub(crate) async fn stop(&self) {
        self.handle.shutdown().await;
    }
}

async fn admitted(store: &Store) -> StoreResult<BTreeSet<PeerId>> {
    let mut tx = store.read().await?;
    let certificates = certificate_list(tx.conn()).await?;
    Ok(certificates.iter().filter_map(|(certificate, key)| certified(certificate, key)).collect())
}

/// The peer a certificate names, if the organization's key of this moment made it.
fn certified(certificate: &SignedCertificate, key: &str) -> Option<PeerId> {
    match PublicKey::from_api(key) {
        Ok(PublicKey::Ed25519(key)) => peer_id(&certificate.verify(&key).ok()?.node_key),
        Ok(PublicKey::Rsa(_)) | Err(_) => None,
    }
}

/// The seed of the relay's key: made once, readable by the owner alone.
fn identity(data_dir: &Path) -> anyhow::Result<[u8; 32]> {
    let path: PathBuf = data_dir.join("relay.key");
    match std::fs::read(&path) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes.as_slice()).map_err(|_| {
            anyhow::anyhow!(
                "`{}` does not hold the 32 bytes of a relay's key: restore it, or remove it for a new one",
                path.display()
            )
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let seed: [u8; 32] = rand::random();
            files::write_private(&path, &seed)?;
            Ok(seed)
        }
        Err(source) => Err(source).with_context(|| format!("cannot read `{}`", path.display())),
    }
}
