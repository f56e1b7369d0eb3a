//! Makes subtasks: seals their inputs, signs what they are, and makes each only once.
//!
//! An organization with an RSA key signs nothing. Its subtasks go out as stock nodes send them; what they are is kept in
//! the journal all the same, so that their results are those of whom they asked.

use std::sync::PoisonError;

use axum::{http::StatusCode, response::Response};
use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use twinmesh_client::Api;
use twinmesh_protocol::{
    digest::Digest,
    id::OrganizationId,
    key::PrivateKey,
    manifest::{MANIFEST_VERSION, Nonce, Receiver, TaskManifest},
    payload,
    sealed::Direction,
    signed::Signed,
    wire::{NewTask, Task, TaskDatabase},
};

use super::{Failure, Gateway, answer, forward::patiently};
use crate::{
    journal::{ContentKey, JournalError, Made, SubtaskClaim},
    sealing::Correspondent,
    trust::Sources as _,
};

impl Gateway {
    pub(super) async fn create_subtask(&self, api: &Api, body: &[u8], key: Option<&str>) -> Result<Response, Failure> {
        let mut new = read(body)?;
        new.image.clone_from(&self.served.accepted.details.image);
        new.collaboration_id = Some(self.services.home.collaboration_id);
        let content = content_key(&new, key)?;

        if self.services.home.encrypted {
            conceal(&mut new);
        }

        let (claim, _busy) = self.claim(content, key.is_some()).await?;
        let task = self.make(api, new, &claim).await?;
        // Results are read by this entry, so the run hears of no task without one. Should it ask again it gets this task:
        // the coordinator knows it by its key.
        let is_new = self.services.journal.subtask_answered(&claim, task.id).await.map_err(unrecorded)?;
        if !is_new {
            tracing::warn!(run.id = %self.served.run_id, task.id = %task.id, "the coordinator answers with a task made before");
            return Err(Failure::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("the coordinator answers with task {}, which is that of another subtask", task.id),
            ));
        }
        Ok(answer(StatusCode::CREATED, &json!(task)))
    }

    /// Takes a place for a request. One that has a key is the same request whenever it comes, so it waits for itself.
    async fn claim(&self, content: Digest, is_keyed: bool) -> Result<(SubtaskClaim, Busy<'_>), Failure> {
        let _one_at_a_time = loop {
            let freed = self.freed.notified();
            let lock = self.claiming.lock().await;
            let is_busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).contains(&(content, 0));
            if !(is_keyed && is_busy) {
                break lock;
            }
            drop(lock);
            freed.await;
        };
        let served = &self.served;
        let journal = &self.services.journal;
        let claim = if is_keyed {
            journal.subtask_claim_keyed(served.run_id, served.attempt, content).await
        } else {
            let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner).clone();
            journal.subtask_claim(served.run_id, served.attempt, content, &busy).await
        };
        let claim = claim.map_err(unrecorded)?;
        let place = (claim.content, claim.occurrence);
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        Ok((claim, Busy { gateway: self, place }))
    }

    async fn make(&self, api: &Api, mut new: NewTask, claim: &SubtaskClaim) -> Result<Task, Failure> {
        if let Some(task_id) = claim.task_id {
            tracing::debug!(run.id = %self.served.run_id, task.id = %task_id, "the run asks again for a subtask it made");
            let task = patiently(|| api.task_get(task_id)).await?;
            if task.id != task_id {
                return Err(Failure::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    format!("the coordinator answers with task {} when asked for {task_id}", task.id),
                ));
            }
            return Ok(task);
        }
        if self.services.home.encrypted || self.served.accepted.details.manifest.is_some() {
            let journal = &self.services.journal;
            match journal.subtask_request(claim).await.map_err(unrecorded)? {
                // Sent before, by this attempt or the one before it, and the answer was lost.
                Some(request) => new = request,
                None => {
                    let made = self.seal(&mut new, claim).await?;
                    if let Made::Signed(signed) = &made {
                        new.manifest = Some(signed.clone());
                    }
                    journal.subtask_made(claim, &made, &new).await.map_err(unrecorded)?;
                }
            }
        }
        let key = self.derive(claim, b"key");
        let key = HEXLOWER.encode(key.as_bytes());
        patiently(|| api.task_create(&new, &key)).await
    }

    /// Seals the inputs and signs the subtask in the organization's name, within what the parent allows. With an RSA key
    /// nothing is signed.
    async fn seal(&self, new: &mut NewTask, claim: &SubtaskClaim) -> Result<Made, Failure> {
        let home = &self.services.home;
        let forbidden = |text: String| Failure::new(StatusCode::FORBIDDEN, text);
        let parent = self.served.accepted.details.manifest.as_ref();
        let parent_manifest = parent.map(|parent| parent.read_unverified()).transpose();
        let parent_manifest =
            parent_manifest.map_err(|error| forbidden(format!("the manifest of the run's task: {error}")))?;
        let signer = match (&home.key, parent) {
            (Some(PrivateKey::Ed25519(key)), Some(_)) => Some(key),
            (Some(PrivateKey::Rsa(_)), _) => None,
            (Some(PrivateKey::Ed25519(_)), None) => {
                return Err(forbidden("the run's task is not signed, so its subtasks cannot be".into()));
            }
            (None, _) => {
                return Err(forbidden("this node has no organization key, so it cannot sign subtasks".into()));
            }
        };
        let digest = self.derive(claim, b"nonce");
        let nonce: [u8; 16] = std::array::from_fn(|index| digest.as_bytes()[index]);
        let nonce = Nonce::new(nonce);

        let mut function = None;
        let mut receivers = Vec::new();
        for organization in &mut new.organizations {
            let content = payload::from_text(&organization.input)
                .map_err(|_| bad_request(format!("the input of organization {} is not base64", organization.id)))?;
            // What a subtask calls is compared with what was signed for its parent, where something was.
            let method = parent.map(|_| method_of(&content, organization.id)).transpose()?.unwrap_or_default();
            match &function {
                None => function = Some(method),
                Some(first) if *first == method => {}
                Some(first) => {
                    return Err(bad_request(format!(
                        "the inputs call both `{first}` and `{method}`; make one subtask for each function"
                    )));
                }
            }
            let to = if home.encrypted {
                let key = self.services.keyring.key(organization.id).await.map_err(|error| {
                    let status =
                        if error.is_transient() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
                    Failure::new(
                        status,
                        format!("the input of organization {} cannot be sealed: {error}", organization.id),
                    )
                })?;
                Some(Correspondent { organization_id: organization.id, key, nonce: signer.map(|_| nonce) })
            } else {
                None
            };
            organization.input = home.write(Direction::Input, to.as_ref(), &content).map_err(|error| {
                bad_request(format!("the input of organization {} cannot be sealed: {error}", organization.id))
            })?;
            receivers.push(Receiver {
                organization_id: organization.id,
                input_sha256: Digest::of(organization.input.as_bytes()),
            });
        }
        let now = (self.services.clock)().seconds();
        let manifest = TaskManifest {
            version: MANIFEST_VERSION,
            collaboration_id: home.collaboration_id,
            image: new.image.clone(),
            function: function.unwrap_or_default(),
            databases: new.databases.iter().flatten().cloned().map(TaskDatabase::from).collect(),
            receivers,
            initiator: home.organization_id,
            user_id: None,
            parent: parent.map(|parent| parent.digest()),
            // What the initiator granted holds for the whole job; each level is checked against the one above.
            delegation: parent_manifest.as_ref().and_then(|parent| parent.delegation.clone()),
            nonce,
            issued_at: now,
            not_after: parent_manifest.as_ref().map_or(now, |parent| parent.not_after),
        };
        if let (Some(parent), Some(parent_manifest)) = (parent, &parent_manifest) {
            manifest.check_within(parent, parent_manifest).map_err(|error| forbidden(error.to_string()))?;
        }
        match signer {
            Some(key) => Signed::sign(&manifest, key).map(Made::Signed).map_err(|error| bad_request(error.to_string())),
            None => Ok(Made::Unsigned(manifest)),
        }
    }

    /// A number that belongs to this subtask alone, the same whenever it is asked for again.
    fn derive(&self, claim: &SubtaskClaim, purpose: &[u8]) -> Digest {
        let mut hash = Sha256::new();
        hash.update(b"twinmesh/subtask/1\0");
        hash.update(purpose);
        hash.update([0]);
        hash.update(self.served.accepted.seed.0);
        hash.update(claim.run_id.get().to_be_bytes());
        hash.update(claim.content.as_bytes());
        hash.update(claim.occurrence.to_be_bytes());
        Digest::of(&hash.finalize())
    }
}

/// The place of a request that is under way; free again when the run no longer waits for it.
struct Busy<'a> {
    gateway: &'a Gateway,
    place: (ContentKey, u32),
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.gateway.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.place);
        self.gateway.freed.notify_waiters();
    }
}

/// Reads what a run asks for.
pub(super) fn read(body: &[u8]) -> Result<NewTask, Failure> {
    let new: NewTask =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("the task cannot be read: {error}")))?;
    if new.organizations.is_empty() {
        return Err(bad_request("Organizations missing from input"));
    }
    if new.manifest.is_some() {
        return Err(bad_request("an algorithm does not sign its subtasks; its node does"));
    }
    Ok(new)
}

/// Takes out every text of the run's own that the coordinator could read. What is asked of databases is compared with what
/// the initiator signed, and inputs are sealed.
pub(super) fn conceal(new: &mut NewTask) {
    new.name = Some("subtask".into());
    new.description = None;
    // The coordinator takes the parent's store.
    new.store_id = None;
    new.server_url = None;
}

fn unrecorded(error: JournalError) -> Failure {
    let status = match error {
        JournalError::Full => StatusCode::INSUFFICIENT_STORAGE,
        JournalError::Subtasks => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Failure::new(status, format!("the subtask cannot be recorded: {error}"))
}

fn bad_request(text: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, text)
}

/// What tells subtasks apart: all that the run said, and the key it gave them if it did.
pub(super) fn content_key(new: &NewTask, key: Option<&str>) -> Result<Digest, Failure> {
    let mut bytes = serde_json::to_vec(new).map_err(|error| bad_request(error.to_string()))?;
    bytes.push(0);
    bytes.extend_from_slice(key.unwrap_or_default().as_bytes());
    Ok(Digest::of(&bytes))
}

pub(super) fn method_of(content: &[u8], organization: OrganizationId) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Input {
        method: String,
    }
    serde_json::from_slice::<Input>(content)
        .map(|input| input.method)
        .map_err(|_| bad_request(format!("the input of organization {organization} is no JSON object with a `method`")))
}
