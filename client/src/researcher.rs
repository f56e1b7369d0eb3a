//! Tasks as a researcher asks for them: sealed, signed, awaited, opened and checked.
//!
//! [`Client`] is a user who is logged in, with the private key of their organization and the pinned keys of the
//! others. The key never leaves the process; the coordinator sees sealed bytes only.
//!
//! An organization whose key is RSA, vantage6's own kind, gets its inputs in vantage6's envelope; what it answers, and
//! what is asked with such a key, cannot be told from the coordinator's inventions.

mod content;
mod error;
mod result;
mod task;
mod wait;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::{PrivateKey, PublicKey};
use twinmesh_protocol::wire::{Collaboration, Many, Organization, User};

use crate::api::{Api, ApiError, retry};
use crate::clock;
use crate::key::{Upload, UploadError, upload_organization_key};
use crate::made::MadeTasks;
use crate::pins::{PinError, PinStore};

pub use crate::made::MadeError;
pub use content::Content;
pub use error::{ClientError, RunError};
pub use result::{RunOutcome, TaskResults};
pub use task::{Delegate, NewTaskRequest, convention};
pub use wait::{Progress, RunProgress};

/// How long a coordinator may be away before a request is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// A user who is logged in, and the keys of their organization and the others.
#[derive(Debug)]
pub struct Client {
    api: Api,
    user: User,
    organization: Organization,
    key: Option<PrivateKey>,
    pins: Mutex<PinStore>,
    made: Mutex<MadeTasks>,
    patience: Duration,
}

impl Client {
    /// Takes up the work of the user who is logged in at `api`. Without a key only collaborations that are not
    /// encrypted can be worked with. What was signed for the tasks made here is kept beside the pinned keys.
    ///
    /// # Errors
    /// When nobody is logged in, or the coordinator cannot be asked about them.
    pub async fn new(api: Api, key: Option<PrivateKey>, pins: PinStore) -> Result<Self, ClientError> {
        let id = api.user_id().await?;
        let user = api.user_get(id).await?;
        let Some(link) = &user.organization else {
            return Err(ClientError::NoOrganization { user: user.username });
        };
        let organization = api.organization_get(OrganizationId::new(link.id)).await?;
        let made = MadeTasks::beside(pins.path());
        Ok(Self { api, user, organization, key, pins: Mutex::new(pins), made: Mutex::new(made), patience: PATIENCE })
    }

    /// Sets how long the coordinator may be away before a request is given up; 5 min if not set.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The coordinator's interface, as this user.
    #[must_use]
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The user.
    #[must_use]
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The user's organization, as it was when the client was made.
    #[must_use]
    pub fn organization(&self) -> &Organization {
        &self.organization
    }

    /// The public half of the organization's key.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.key.as_ref().map(PrivateKey::public)
    }

    /// The pinned keys.
    ///
    /// The guard must not be held while waiting.
    pub fn pins(&self) -> MutexGuard<'_, PinStore> {
        // A panic elsewhere leaves the store whole: every change is one assignment.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that the coordinator shows our organization's key, and pins it.
    ///
    /// # Errors
    /// When there is no key, the coordinator refuses, or the pin cannot be written.
    pub async fn upload_key(&self) -> Result<Upload, ClientError> {
        let key = self.public_key().ok_or(ClientError::NoKeyHere)?;
        // The store is changed apart and read again, as its guard must not be held while waiting.
        let mut apart = PinStore::in_memory();
        let upload = upload_organization_key(&self.api, self.organization.id, &key, &mut apart, clock::now()).await;
        let upload = upload.map_err(|error| match error {
            UploadError::Api(error) => ClientError::Api(error),
            UploadError::Pin(error) => ClientError::Pin(error),
        })?;
        let mut pins = self.pins();
        if pins.key(self.organization.id).as_ref() != Some(&key) {
            pins.set(self.organization.id, &self.organization.name, key, clock::now())?;
        }
        Ok(upload)
    }

    /// The tasks made here.
    fn made(&self) -> MutexGuard<'_, MadeTasks> {
        // A panic elsewhere leaves the list whole.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A collaboration with its organizations, who are pinned when it is seen for the first time. Refuses one that was
    /// encrypted and is shown as plain.
    async fn collaboration(&self, id: CollaborationId) -> Result<Members, ClientError> {
        let collaboration = retry(self.patience, || self.api.collaboration_get(id)).await?;
        self.pins().check_encryption(id, &collaboration.name, collaboration.encrypted)?;
        let organizations = match &collaboration.organizations {
            Many::Items(organizations) => organizations.clone(),
            Many::Link(_) => retry(self.patience, || self.api.organization_list(Some(id))).await?,
        };
        if collaboration.encrypted {
            self.pins().first_sight(id, &organizations, clock::now())?;
        }
        Ok(Members { collaboration, organizations })
    }

    /// The pinned key of a member; our own is the one here.
    fn member_key(&self, members: &Members, organization: &Organization) -> Result<PublicKey, PinError> {
        if let Some(key) = self.public_key().filter(|_| organization.id == self.organization.id) {
            return Ok(key);
        }
        let collaboration = (members.collaboration.id, &*members.collaboration.name);
        let (key, _) = self.pins().check_member(collaboration, organization, clock::now())?;
        Ok(key)
    }

    async fn retried<T, F, Fut>(&self, request: F) -> Result<T, ClientError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        Ok(retry(self.patience, request).await?)
    }
}

/// A collaboration and its organizations.
struct Members {
    collaboration: Collaboration,
    organizations: Vec<Organization>,
}

impl Members {
    fn get(&self, id: OrganizationId) -> Option<&Organization> {
        self.organizations.iter().find(|organization| organization.id == id)
    }

    /// The name of an organization; its id where it is none of ours any more.
    fn name(&self, id: OrganizationId) -> String {
        self.get(id).map_or_else(|| id.to_string(), |organization| organization.name.clone())
    }
}
