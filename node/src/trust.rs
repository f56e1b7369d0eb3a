//! Whose keys the node believes: those of its configuration, those that its administrator pinned, and those that the
//! collaboration's members had when the node first started.
//!
//! That first start is the node's enrolment. An organization that the coordinator names later is a stranger until a person
//! pins its key: else the coordinator could invent one and send tasks in its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use twinmesh_client::{
    Api, ApiError,
    pins::{PinError, PinStore, shown_key},
};
use twinmesh_overlay::Clock;
use twinmesh_protocol::{
    id::{CollaborationId, ObjectId, OrganizationId, TaskId},
    key::{OrganizationPublicKey, PublicKey},
    manifest::SignedManifest,
    wire::Organization,
};

use crate::config::{Config, ConfigError};

/// The file of the pins in the state directory.
pub const PINS_FILE: &str = "pins.json";

/// The file that says who was in the collaboration at the node's first start.
pub const ENROLMENT_FILE: &str = "enrolment.json";

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
    /// The organization was not in the collaboration when the node first started, and nobody vouched for its key since.
    #[error(
        "organization `{name}` ({organization}) is not known to this node: it joined after the node's first start, and its key is not pinned. The coordinator shows the key {shown}; if the organization itself, asked by other means, confirms it, the node's administrator accepts it by `twinmesh-node pin add {organization} --fingerprint {} --config FILE`",
        normalize(shown)
    )]
    NotPinned { organization: OrganizationId, name: String, shown: String },
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl TrustError {
    /// Whether the same question may be answered a little later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api(error) => error.is_transient(),
            Self::Pin(_) | Self::Fingerprint { .. } | Self::NotPinned { .. } => false,
        }
    }
}

/// A task's place in its job.
#[derive(Debug, Clone)]
pub struct Ancestor {
    pub manifest: Option<SignedManifest>,
    pub parent_id: Option<TaskId>,
}

/// The largest payload that is taken into memory.
pub const MAX_PAYLOAD_BYTES: u64 = 1 << 30;

/// What admission asks of the world.
#[async_trait]
pub trait Sources: Send + Sync {
    /// The key that is pinned for an organization.
    async fn key(&self, organization: OrganizationId) -> Result<PublicKey, TrustError>;

    /// The same, if it is also the one that the coordinator shows at this moment.
    async fn key_in_use(&self, organization: OrganizationId) -> Result<PublicKey, TrustError>;

    /// What was signed for a task, not verified.
    async fn ancestor(&self, task_id: TaskId) -> Result<Ancestor, TrustError>;

    /// A payload that is kept as an object.
    async fn payload(&self, id: ObjectId) -> Result<Vec<u8>, TrustError>;

    /// Takes note of a task's place that was verified, up to the root of its job.
    fn keep_ancestor(&self, task_id: TaskId, ancestor: Ancestor);
}

/// The keys of other organizations, and the manifests of running jobs.
pub struct Keyring {
    api: Api,
    clock: Clock,
    directory: Utf8PathBuf,
    pins: Mutex<Pins>,
    fingerprints: BTreeMap<OrganizationId, String>,
    /// The organizations that were in the collaboration when the node first started.
    enrolled: Mutex<BTreeSet<OrganizationId>>,
    ancestors: Mutex<BTreeMap<TaskId, Ancestor>>,
}

/// The pins as last read, and how their file looked then.
struct Pins {
    store: PinStore,
    seen: Option<(u64, i64, i64)>,
}

/// The content of [`ENROLMENT_FILE`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Enrolment {
    collaboration_id: CollaborationId,
    organizations: BTreeSet<OrganizationId>,
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
    #[error("cannot use `{path}`, which says who was in the collaboration when this node first started")]
    Enrolment { path: Utf8PathBuf, source: io::Error },
    #[error(
        "this node's state directory belongs to collaboration {enrolled} (`{path}`), but the coordinator says that the node is in collaboration {now}: give each node a state directory of its own"
    )]
    OtherCollaboration { path: Utf8PathBuf, enrolled: CollaborationId, now: CollaborationId },
}

impl Keyring {
    /// Opens the pins of a node and takes over those of its configuration.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or a configured pin is neither a PEM text nor a fingerprint.
    pub fn open(api: Api, clock: Clock, config: &Config, directory: &Utf8Path) -> Result<Self, KeyringError> {
        let mut pins = PinStore::open(directory.join(PINS_FILE))?;
        let mut fingerprints = BTreeMap::new();
        for (id, text) in &config.pins {
            let wrong = |problem: String| ConfigError::Value { key: format!("pins.{id}"), problem };
            let organization: OrganizationId = id.parse().map_err(|error| wrong(format!("{error}")))?;
            if text.contains("BEGIN") {
                let key = PublicKey::from_pem(text).map_err(|error| wrong(error.to_string()))?;
                if pins.key(organization).as_ref() != Some(&key) {
                    pins.set(organization, &format!("organization {id}"), key, clock())?;
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
        Ok(Self {
            api,
            clock,
            directory: directory.to_owned(),
            pins: Mutex::new(Pins { store: pins, seen: None }),
            fingerprints,
            enrolled: Mutex::default(),
            ancestors: Mutex::default(),
        })
    }

    /// Works on the pins.
    pub fn with_pins<T>(&self, work: impl FnOnce(&mut PinStore) -> T) -> T {
        work(&mut self.pins().store)
    }

    fn pins(&self) -> MutexGuard<'_, Pins> {
        // A panic in between cannot leave the pins half changed: they are replaced as a whole.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enrolled(&self) -> MutexGuard<'_, BTreeSet<OrganizationId>> {
        self.enrolled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pinned key, from the file if somebody has changed it: `twinmesh-node pin` works beside the running node.
    fn pinned(&self, organization: OrganizationId) -> Result<Option<PublicKey>, PinError> {
        let path = self.directory.join(PINS_FILE);
        let mut pins = self.pins();
        let now = fs::metadata(&path).ok().map(|found| (found.ino(), found.mtime(), found.mtime_nsec()));
        if now != pins.seen {
            pins.store = PinStore::open(path)?;
            pins.seen = now;
        }
        Ok(pins.store.key(organization))
    }

    /// Takes the members that the collaboration has at the node's first start for known: pins the keys they have, and
    /// remembers who they are, so that those without a key may bring one later. Does nothing at later starts.
    ///
    /// # Errors
    ///
    /// When the state directory belongs to another collaboration or cannot be written.
    pub fn enrol(&self, collaboration: CollaborationId, members: &[Organization]) -> Result<(), KeyringError> {
        for member in members {
            match self.pin(member) {
                Ok(_) => {}
                Err(TrustError::Pin(error @ (PinError::Read { .. } | PinError::Write { .. }))) => {
                    return Err(error.into());
                }
                Err(error) => tracing::warn!(organization.id = %member.id, %error, "a member is not pinned yet"),
            }
        }
        let path = self.directory.join(ENROLMENT_FILE);
        let enrolment = Enrolment {
            collaboration_id: collaboration,
            organizations: members.iter().map(|member| member.id).collect(),
        };
        let write = || {
            let temporary = self.directory.join(format!(".{ENROLMENT_FILE}.new"));
            let file = fs::File::create(&temporary)?;
            serde_json::to_writer_pretty(&file, &enrolment)?;
            file.sync_all()?;
            fs::rename(temporary, &path)
        };
        write().map_err(|source| KeyringError::Enrolment { path: path.clone(), source })?;
        tracing::info!(organizations = members.len(), "enrolled with the members that the collaboration has now");
        *self.enrolled() = enrolment.organizations;
        Ok(())
    }

    /// Whether the node has been enrolled by an earlier start.
    ///
    /// # Errors
    ///
    /// When it was enrolled in another collaboration, or what says so cannot be read.
    pub fn is_enrolled(&self, collaboration: CollaborationId) -> Result<bool, KeyringError> {
        let path = self.directory.join(ENROLMENT_FILE);
        let read = || match fs::read(&path) {
            Ok(text) => Ok(Some(serde_json::from_slice::<Enrolment>(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let found = read().map_err(|source| KeyringError::Enrolment { path: path.clone(), source })?;
        let Some(found) = found else { return Ok(false) };
        if found.collaboration_id != collaboration {
            return Err(KeyringError::OtherCollaboration {
                path,
                enrolled: found.collaboration_id,
                now: collaboration,
            });
        }
        *self.enrolled() = found.organizations;
        Ok(true)
    }

    /// Believes the key that is shown, unless another one is pinned.
    fn pin(&self, shown: &Organization) -> Result<PublicKey, TrustError> {
        let organization = shown.id;
        if let Some(pinned) = self.fingerprints.get(&organization) {
            let key = shown_key(shown)?;
            if normalize(&key.fingerprint()) != *pinned {
                let shown = key.fingerprint();
                return Err(TrustError::Fingerprint { organization, shown, pinned: pinned.clone() });
            }
            self.with_pins(|pins| pins.set(organization, &shown.name, key.clone(), (self.clock)()))?;
            return Ok(key);
        }
        let now = (self.clock)();
        Ok(self.with_pins(|pins| pins.check(shown, now)).map(|(key, _)| key)?)
    }

    /// The pinned keys of those organizations that have one that certifies nodes.
    pub async fn keys(
        &self,
        organizations: &[OrganizationId],
    ) -> Result<BTreeMap<OrganizationId, OrganizationPublicKey>, TrustError> {
        let mut keys = BTreeMap::new();
        for organization in organizations {
            match self.key(*organization).await {
                Ok(PublicKey::Ed25519(key)) => {
                    keys.insert(*organization, key);
                }
                Ok(PublicKey::Rsa(_)) | Err(TrustError::Pin(PinError::NoKey { .. })) => {
                    tracing::debug!(organization.id = %organization, "has no Ed25519 key, so it is left out of the mesh");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }
}

#[async_trait]
impl Sources for Keyring {
    async fn key(&self, organization: OrganizationId) -> Result<PublicKey, TrustError> {
        if let Some(key) = self.pinned(organization)? {
            return Ok(key);
        }
        let shown = self.api.organization_get(organization).await?;
        let is_expected = self.fingerprints.contains_key(&organization) || self.enrolled().contains(&organization);
        if shown.id != organization || !is_expected {
            let key = shown_key(&shown)?;
            return Err(TrustError::NotPinned { organization, name: shown.name, shown: key.fingerprint() });
        }
        self.pin(&shown)
    }

    async fn key_in_use(&self, organization: OrganizationId) -> Result<PublicKey, TrustError> {
        let key = self.key(organization).await?;
        let shown = self.api.organization_get(organization).await?;
        let found = shown_key(&shown)?;
        if found == key {
            return Ok(key);
        }
        let (pinned, found) = (key.fingerprint(), found.fingerprint());
        Err(PinError::Mismatch { organization: shown.name, pinned, found }.into())
    }

    async fn ancestor(&self, task_id: TaskId) -> Result<Ancestor, TrustError> {
        let known = self.ancestors.lock().unwrap_or_else(PoisonError::into_inner).get(&task_id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let task = self.api.task_get(task_id).await?;
        Ok(Ancestor { manifest: task.manifest, parent_id: task.parent.map(|parent| TaskId::new(parent.id)) })
    }

    async fn payload(&self, id: ObjectId) -> Result<Vec<u8>, TrustError> {
        Ok(self.api.object_get(id, MAX_PAYLOAD_BYTES).await?)
    }

    fn keep_ancestor(&self, task_id: TaskId, ancestor: Ancestor) {
        let mut ancestors = self.ancestors.lock().unwrap_or_else(PoisonError::into_inner);
        if ancestors.len() >= MANIFESTS {
            ancestors.pop_first();
        }
        ancestors.insert(task_id, ancestor);
    }
}

/// A fingerprint without what people put in between.
pub(crate) fn normalize(fingerprint: &str) -> String {
    fingerprint
        .chars()
        .filter(|character| !character.is_whitespace() && *character != ':')
        .collect::<String>()
        .to_lowercase()
}
