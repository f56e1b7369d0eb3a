use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::envelope;
use twinmesh_protocol::id::{CollaborationId, ObjectId, OrganizationId, StudyId};
use twinmesh_protocol::key::{OrganizationKey, PrivateKey, PublicKey};
use twinmesh_protocol::manifest::{Delegation, MANIFEST_VERSION, Nonce, Receiver, SignedManifest, TaskManifest};
use twinmesh_protocol::payload::{self, INLINE_CHARACTERS};
use twinmesh_protocol::sealed::{Direction, SealContext, seal};
use twinmesh_protocol::signed::Signed;
use twinmesh_protocol::wire::{Many, NewTask, NewTaskDatabase, NewTaskOrganization, Organization, Task, TaskDatabase};

use super::{Client, ClientError, Members};
use crate::api::ObjectSource;
use crate::clock;
use crate::made::{Made, MadeError};
use crate::pins::shown_key;

/// How long a task may wait for its nodes, and make subtasks: a week lets a node come back from a long weekend.
const VALID_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// A task as a researcher asks for it.
#[derive(Debug, Clone)]
pub struct NewTaskRequest {
    /// Where it belongs.
    pub collaboration: CollaborationId,
    /// Its study, if any.
    pub study: Option<StudyId>,
    /// Who is to run it; when empty all organizations of the study or collaboration.
    pub organizations: Vec<OrganizationId>,
    /// The image reference.
    pub image: String,
    /// The function to call.
    pub function: String,
    /// Its positional arguments.
    pub args: Vec<Value>,
    /// Its named arguments.
    pub kwargs: Map<String, Value>,
    /// The databases it may read.
    pub databases: Vec<NewTaskDatabase>,
    /// A name for people.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// What subtasks it may make.
    pub delegation: Delegate,
    /// How long it may wait for its nodes, and make subtasks.
    pub valid_for: Duration,
}

impl NewTaskRequest {
    /// A task without arguments for all organizations of a collaboration.
    #[must_use]
    pub fn new(collaboration: CollaborationId, image: impl Into<String>, function: impl Into<String>) -> Self {
        Self {
            collaboration,
            study: None,
            organizations: Vec::new(),
            image: image.into(),
            function: function.into(),
            args: Vec::new(),
            kwargs: Map::new(),
            databases: Vec::new(),
            name: None,
            description: None,
            delegation: Delegate::ByConvention,
            valid_for: VALID_FOR,
        }
    }
}

/// What subtasks a task may make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delegate {
    /// What [`convention`] says, at all organizations of the collaboration.
    ByConvention,
    /// None.
    Nothing,
    /// Calls of these functions, at all organizations of the collaboration.
    Functions(BTreeSet<String>),
    /// Exactly this.
    Exactly(Delegation),
}

/// The functions that a function may call at others unless the researcher says otherwise: a task for one organization
/// is taken for a central function `f`, whose parts are called `f_partial` or, as in many stock algorithms,
/// `partial_f` or, for a `central_f`, `partial_f` too. A task for several organizations makes no subtasks.
#[must_use]
pub fn convention(function: &str, receivers: usize) -> BTreeSet<String> {
    if receivers != 1 {
        return BTreeSet::new();
    }
    let stem = function.strip_prefix("central_").or_else(|| function.strip_suffix("_central")).unwrap_or(function);
    let mut functions = BTreeSet::from([format!("{stem}_partial"), format!("partial_{stem}")]);
    if function == "central" {
        functions.insert("partial".into());
    }
    functions
}

impl Client {
    /// Asks for a task: verifies the organizations' keys against the pins, seals the input to each, signs the
    /// manifest, and hands it to the coordinator. Waits for a coordinator that is away; the task is made once.
    ///
    /// With an RSA key nothing is signed: the task goes to organizations with RSA keys, whose nodes take it on the
    /// coordinator's word.
    ///
    /// # Errors
    /// When a key is missing, is not the pinned one, or the coordinator refuses.
    pub async fn task(&self, request: NewTaskRequest) -> Result<Task, ClientError> {
        let new = self.prepare(request).await?;
        self.submit(&new).await
    }

    /// Makes the body of a task, sealed and signed, without sending it.
    ///
    /// # Errors
    /// When a key is missing or is not the pinned one, or the coordinator cannot be asked about the collaboration.
    pub async fn prepare(&self, request: NewTaskRequest) -> Result<NewTask, ClientError> {
        let members = self.collaboration(request.collaboration).await?;
        let receivers = self.receivers(&request, &members).await?;
        let input = json!({"method": request.function, "args": request.args, "kwargs": request.kwargs});
        let input = serde_json::to_vec(&input).map_err(ClientError::Input)?;
        let (organizations, manifest) = if members.collaboration.encrypted {
            match self.key_for(&members)? {
                PrivateKey::Ed25519(key) => {
                    let (organizations, manifest) = self.sealed(key, &request, &members, &receivers, &input)?;
                    (organizations, Some(manifest))
                }
                PrivateKey::Rsa(_) => (self.enveloped(&request, &members, &receivers, &input)?, None),
            }
        } else {
            let input = payload::to_text(&input);
            let organizations =
                receivers.iter().map(|organization| NewTaskOrganization { id: organization.id, input: input.clone() });
            (organizations.collect(), None)
        };
        Ok(NewTask {
            name: request.name,
            description: request.description,
            image: request.image,
            collaboration_id: Some(request.collaboration),
            study_id: request.study,
            store_id: None,
            server_url: None,
            organizations,
            databases: Some(request.databases),
            manifest,
        })
    }

    /// Hands a prepared task to the coordinator. Waits for one that is away; the task is made once.
    ///
    /// # Errors
    /// When the coordinator refuses, is away for too long, or gives the number of another task made here.
    pub async fn submit(&self, new: &NewTask) -> Result<Task, ClientError> {
        let idempotency_key = uuid::Uuid::new_v4().to_string();
        let kept = self.upload_inputs(new).await?;
        let body = kept.as_ref().unwrap_or(new);
        let task = self.retried(|| self.api.task_create(body, &idempotency_key)).await?;
        let made = Made {
            task_id: task.id,
            collaboration_id: new.collaboration_id,
            manifest: new.manifest.as_ref().map(SignedManifest::digest),
        };
        match self.made().add(made) {
            Ok(()) => Ok(task),
            Err(error @ MadeError::Reused { .. }) => Err(error.into()),
            // The task exists, and this process knows it: worth more than a file.
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "task {} will be known as made here to this process alone", task.id);
                Ok(task)
            }
        }
    }

    /// The task with its long inputs uploaded, if it has any; equal ones once.
    async fn upload_inputs(&self, new: &NewTask) -> Result<Option<NewTask>, ClientError> {
        if new.organizations.iter().all(|entry| entry.input.len() <= INLINE_CHARACTERS) {
            return Ok(None);
        }
        let mut new = new.clone();
        let mut uploaded: BTreeMap<Digest, ObjectId> = BTreeMap::new();
        for entry in new.organizations.iter_mut().filter(|entry| entry.input.len() > INLINE_CHARACTERS) {
            let content = payload::object_from_text(&entry.input).map_err(ClientError::Payload)?;
            let digest = Digest::of(&content);
            let id = match uploaded.get(&digest) {
                Some(id) => *id,
                None => {
                    let source = ObjectSource::Memory(content.into());
                    let id = self.retried(|| self.api.object_begin()).await?;
                    self.retried(|| self.api.object_send(id, &source, digest)).await?;
                    uploaded.insert(digest, id);
                    id
                }
            };
            entry.input = id.to_string();
        }
        Ok(Some(new))
    }

    async fn receivers(&self, request: &NewTaskRequest, members: &Members) -> Result<Vec<Organization>, ClientError> {
        let collaboration = || members.collaboration.name.clone();
        let mut wanted = request.organizations.clone();
        if let (Some(study), []) = (request.study, &*wanted) {
            let study = self.retried(|| self.api.study_get(study)).await?;
            if let Many::Items(organizations) = study.organizations {
                wanted = organizations.iter().map(|organization| organization.id).collect();
            }
        }
        if wanted.is_empty() {
            wanted = members.organizations.iter().map(|organization| organization.id).collect();
        }
        if wanted.is_empty() {
            return Err(ClientError::NoReceivers { collaboration: collaboration() });
        }
        let mut seen = BTreeSet::new();
        let receivers = wanted.into_iter().map(|id| {
            let organization = members.get(id).ok_or_else(|| ClientError::NotMember {
                organization: id.to_string(),
                collaboration: collaboration(),
                members: members.organizations.iter().map(|member| &*member.name).collect::<Vec<_>>().join(", "),
            })?;
            if !seen.insert(id) {
                return Err(ClientError::NamedTwice { organization: organization.name.clone() });
            }
            Ok(organization.clone())
        });
        receivers.collect()
    }

    /// The sealed inputs and the manifest that names them.
    fn sealed(
        &self,
        key: &OrganizationKey,
        request: &NewTaskRequest,
        members: &Members,
        receivers: &[Organization],
        input: &[u8],
    ) -> Result<(Vec<NewTaskOrganization>, SignedManifest), ClientError> {
        let delegation = self.delegation(request, members, receivers.len());
        self.check_delegates(delegation.as_ref(), members)?;
        let nonce = Nonce::random();
        let mut organizations = Vec::with_capacity(receivers.len());
        let mut signed = Vec::with_capacity(receivers.len());
        for organization in receivers {
            let context = SealContext {
                direction: Direction::Input,
                collaboration_id: request.collaboration,
                sender: self.organization.id,
                receiver: organization.id,
                nonce,
            };
            let text = match self.member_key(members, organization)? {
                PublicKey::Ed25519(receiver) => {
                    let sealed = seal(key, &receiver, &context, input)
                        .map_err(|source| ClientError::Seal { organization: organization.name.clone(), source })?;
                    payload::to_text(&sealed)
                }
                // Nobody could tell who made the envelope, were its digest not signed below.
                PublicKey::Rsa(receiver) => envelope::seal(&receiver, input)
                    .map_err(|source| ClientError::Envelope { organization: organization.name.clone(), source })?,
            };
            let input_sha256 = payload::wire_digest(&text).map_err(ClientError::Payload)?;
            signed.push(Receiver { organization_id: organization.id, input_sha256 });
            organizations.push(NewTaskOrganization { id: organization.id, input: text });
        }
        let issued_at = clock::now();
        let manifest = TaskManifest {
            version: MANIFEST_VERSION,
            collaboration_id: request.collaboration,
            image: request.image.clone(),
            function: request.function.clone(),
            databases: request.databases.iter().cloned().map(TaskDatabase::from).collect(),
            receivers: signed,
            initiator: self.organization.id,
            user_id: Some(self.user.id),
            parent: None,
            delegation,
            nonce,
            issued_at: issued_at.seconds(),
            not_after: issued_at.plus(request.valid_for).seconds(),
        };
        Ok((organizations, Signed::sign(&manifest, key).map_err(ClientError::Sign)?))
    }

    /// The inputs of a task that nobody signs.
    fn enveloped(
        &self,
        request: &NewTaskRequest,
        members: &Members,
        receivers: &[Organization],
        input: &[u8],
    ) -> Result<Vec<NewTaskOrganization>, ClientError> {
        if request.delegation != Delegate::ByConvention {
            return Err(ClientError::Delegation);
        }
        let enveloped = receivers.iter().map(|organization| match self.member_key(members, organization)? {
            PublicKey::Rsa(receiver) => {
                let input = envelope::seal(&receiver, input)
                    .map_err(|source| ClientError::Envelope { organization: organization.name.clone(), source })?;
                Ok(NewTaskOrganization { id: organization.id, input })
            }
            PublicKey::Ed25519(_) => Err(ClientError::NeedsSignature { organization: organization.name.clone() }),
        });
        enveloped.collect()
    }

    /// Our key, if it is the one that the others see.
    fn key_for(&self, members: &Members) -> Result<&PrivateKey, ClientError> {
        let collaboration = || members.collaboration.name.clone();
        let key = self.key.as_ref().ok_or_else(|| ClientError::NoKey { collaboration: collaboration() })?;
        let ours = members.get(self.organization.id).unwrap_or(&self.organization);
        let differs = |shown: String| ClientError::OwnKeyDiffers {
            organization: ours.name.clone(),
            shown,
            here: key.public().fingerprint(),
        };
        match shown_key(ours) {
            Ok(shown) if shown == key.public() => Ok(key),
            Ok(shown) => Err(differs(shown.fingerprint())),
            Err(_) if ours.public_key.is_empty() => Err(differs("none".into())),
            Err(_) => Err(differs("something else than a key".into())),
        }
    }

    /// What a task may ask of others in our name. Who joined later and has no key yet, so that nobody can vouch for
    /// it, is left out of "all organizations".
    fn delegation(&self, request: &NewTaskRequest, members: &Members, receivers: usize) -> Option<Delegation> {
        let functions = match &request.delegation {
            Delegate::ByConvention => convention(&request.function, receivers),
            Delegate::Nothing => BTreeSet::new(),
            Delegate::Functions(functions) => functions.clone(),
            Delegate::Exactly(delegation) => return Some(delegation.clone()),
        };
        let pins = self.pins();
        let is_known = |organization: &&Organization| {
            shown_key(organization).is_ok() || pins.is_admitted(members.collaboration.id, organization.id)
        };
        let organizations = members.organizations.iter().filter(is_known).map(|organization| organization.id).collect();
        (!functions.is_empty()).then_some(Delegation { functions, organizations })
    }

    /// Those who may be asked for subtasks get their inputs from nodes, which have their own pins. A key exchanged
    /// since we saw it, or a member who came since, is still a reason not to go on.
    fn check_delegates(&self, delegation: Option<&Delegation>, members: &Members) -> Result<(), ClientError> {
        for id in delegation.iter().flat_map(|delegation| &delegation.organizations) {
            if let Some(organization) = members.get(*id)
                && shown_key(organization).is_ok()
            {
                self.member_key(members, organization)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_task_for_one_organization_is_taken_for_a_central_function() {
        assert!(convention("summary", 1).contains("summary_partial"));
        assert!(convention("central_average", 1).contains("partial_average"));
        assert!(convention("central", 1).contains("partial"));
        assert!(convention("summary_partial", 3).is_empty());
    }
}
