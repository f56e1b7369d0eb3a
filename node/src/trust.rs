//! Whose keys the node believes: its configuration's pins first, else what it saw first.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use camino::Utf8Path;
use twinmesh_client::{
    Api, ApiError,
    pins::{PinError, PinStore, shown_key},
};
use twinmesh_overlay::Clock;
use twinmesh_protocol::{
    id::{OrganizationId, TaskId},
    key::{OrganizationPublicKey, PublicKey},
    manifest::SignedManifest,
};

use crate::config::{Config, ConfigError};

/// How many parent manifests are remembered. One for each job that is under way is enough.
const MANIFESTS: usize = 512;

/// Why a key or a parent's manifest is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The key that the coordinator shows is not the one that the configuration names.
    #[error(
        "the coordinator shows the key {shown} for organization {organization}, but this node's configuration pins {pinned}"
    )]
    Fingerprint { organization: OrganizationId, shown: String, pinned: String },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl TrustError {
    /// Whether the same question may be answered a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api(error) => error.is_transient(),
            Self::Pin(_) | Self::Fingerprint { .. } => false,
        }
    }
}

/// A task's place in its job.
#[derive(Debug, Clone)]
pub struct Ancestor {
    pub manifest: Option<SignedManifest>,
    pub parent_id: Option<TaskId>,
}

/// What admission asks of the world.
#[async_trait]
pub trait Sources: Send + Sync {
    /// The key that is pinned for an organization.
    async fn key(&self, organization: OrganizationId) -> Result<OrganizationPublicKey, TrustError>;

    /// What was signed for a task, not verified.
    async fn ancestor(&self, task_id: TaskId) -> Result<Ancestor, TrustError>;
}

/// The keys of other organizations, and the manifests of running jobs.
pub struct Keyring {
    api: Api,
    clock: Clock,
    pins: Mutex<PinStore>,
    fingerprints: BTreeMap<OrganizationId, String>,
    ancestors: Mutex<BTreeMap<TaskId, Ancestor>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}

/// Why the pins cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl Keyring {
    /// Opens the pins of a node and takes over those of its configuration.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or a configured pin is neither a PEM text nor a fingerprint.
    pub fn open(api: Api, clock: Clock, config: &Config, directory: &Utf8Path) -> Result<Self, KeyringError> {
        let mut pins = PinStore::open(directory.join("pins.json"))?;
        let mut fingerprints = BTreeMap::new();
        for (id, text) in &config.pins {
            let wrong = |problem: String| ConfigError::Value { key: format!("pins.{id}"), problem };
            let organization: OrganizationId = id.parse().map_err(|error| wrong(format!("{error}")))?;
            if text.contains("BEGIN") {
                match PublicKey::from_pem(text).map_err(|error| wrong(error.to_string()))? {
                    PublicKey::Ed25519(key) if pins.key(organization) == Some(key) => {}
                    PublicKey::Ed25519(key) => pins.set(organization, &format!("organization {id}"), key, clock())?,
                    PublicKey::Rsa => return Err(wrong("an RSA key cannot be pinned".into()).into()),
                }
            } else {
                let fingerprint = normalize(text);
                if fingerprint.len() != 32 || !fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(wrong("give a PEM text or a fingerprint of 32 hexadecimal digits".into()).into());
                }
                if pins.key(organization).is_some_and(|key| normalize(&key.fingerprint()) != fingerprint) {
                    pins.forget(organization)?;
                }
                fingerprints.insert(organization, fingerprint);
            }
        }
        Ok(Self { api, clock, pins: Mutex::new(pins), fingerprints, ancestors: Mutex::default() })
    }

    /// Works on the pins.
    pub fn with_pins<T>(&self, work: impl FnOnce(&mut PinStore) -> T) -> T {
        // A panic in between cannot leave the pins half changed: they are replaced as a whole.
        work(&mut self.pins.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The pinned keys of those organizations that have one.
    pub async fn keys(
        &self,
        organizations: &[OrganizationId],
    ) -> Result<BTreeMap<OrganizationId, OrganizationPublicKey>, TrustError> {
        let mut keys = BTreeMap::new();
        for organization in organizations {
            match self.key(*organization).await {
                Ok(key) => {
                    keys.insert(*organization, key);
                }
                Err(TrustError::Pin(PinError::NoKey { .. } | PinError::Rsa { .. })) => {
                    tracing::debug!(organization.id = %organization, "has no key, so it is left out of the mesh");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }
}

#[async_trait]
impl Sources for Keyring {
    async fn key(&self, organization: OrganizationId) -> Result<OrganizationPublicKey, TrustError> {
        if let Some(key) = self.with_pins(|pins| pins.key(organization)) {
            return Ok(key);
        }
        let shown = self.api.organization_get(organization).await?;
        if let Some(pinned) = self.fingerprints.get(&organization) {
            let key = shown_key(&shown)?;
            if normalize(&key.fingerprint()) != *pinned {
                let shown = key.fingerprint();
                return Err(TrustError::Fingerprint { organization, shown, pinned: pinned.clone() });
            }
            self.with_pins(|pins| pins.set(organization, &shown.name, key, (self.clock)()))?;
            return Ok(key);
        }
        let now = (self.clock)();
        Ok(self.with_pins(|pins| pins.check(&shown, now)).map(|(key, _)| key)?)
    }

    async fn ancestor(&self, task_id: TaskId) -> Result<Ancestor, TrustError> {
        let known = self.ancestors.lock().unwrap_or_else(PoisonError::into_inner).get(&task_id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let task = self.api.task_get(task_id).await?;
        let ancestor =
            Ancestor { manifest: task.manifest, parent_id: task.parent.map(|parent| TaskId::new(parent.id)) };
        let mut ancestors = self.ancestors.lock().unwrap_or_else(PoisonError::into_inner);
        if ancestors.len() >= MANIFESTS {
            ancestors.pop_first();
        }
        ancestors.insert(task_id, ancestor.clone());
        Ok(ancestor)
    }
}

fn normalize(fingerprint: &str) -> String {
    fingerprint
        .chars()
        .filter(|character| !character.is_whitespace() && *character != ':')
        .collect::<String>()
        .to_lowercase()
}
