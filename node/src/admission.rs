//! Whether a run may start, by this node's own pins, policy and journal; the coordinator's word counts for nothing.

use serde::Deserialize;
use twinmesh_protocol::{
    digest::Digest,
    id::{ObjectId, OrganizationId, TaskId, UserId},
    key::{PrivateKey, PublicKey},
    manifest::{SignedManifest, TaskManifest},
    payload,
    sealed::Direction,
    status::RunStatus,
    time::Time,
    wire::{One, Run, Task, TaskDatabase},
};

use crate::{
    config::Algorithm,
    journal::Details,
    policy::{Policy, Request, Requester},
    sealing::{Correspondent, Home},
    trust::{Sources, TrustError},
};

/// How deep subtasks of subtasks may go. Published algorithms use two levels.
const MAX_DEPTH: usize = 16;

/// A run that may start.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub details: Details,
    /// The digest of its manifest, and the end of its life.
    pub manifest: Option<(Digest, i64)>,
    pub input: Vec<u8>,
    pub algorithm: Algorithm,
    pub databases: Vec<TaskDatabase>,
}

/// Why a run may not start, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    pub status: RunStatus,
    pub reason: String,
}

/// Why a run was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The coordinator cannot be asked at the moment.
    #[error("the task cannot be judged yet")]
    Later(#[source] TrustError),
}

/// What decides.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it borrows what has its own, and lives for one decision")]
pub struct Judge<'a> {
    pub home: &'a Home,
    pub policy: &'a Policy,
    pub sources: &'a dyn Sources,
}

/// What a task belongs to, as its root says.
struct Job {
    /// The name of the job's mesh.
    mesh: String,
    /// The organizations that may take part, where somebody signed who they are.
    members: Vec<OrganizationId>,
    requester: Requester,
}

fn not_allowed(reason: impl Into<String>) -> Refusal {
    Refusal { status: RunStatus::NotAllowed, reason: reason.into() }
}

/// The task of a run as `include=task` gives it.
///
/// # Errors
///
/// When the coordinator left it out.
pub fn task_of(run: &Run) -> Result<&Task, Refusal> {
    match &run.task {
        Some(One::Item(task)) => Ok(task),
        Some(One::Link(_)) | None => {
            Err(Refusal { status: RunStatus::Failed, reason: "the coordinator sent the run without its task".into() })
        }
    }
}

impl Judge<'_> {
    /// Decides about a run.
    ///
    /// # Errors
    ///
    /// The first reason against it, in words for the person who asked.
    pub async fn admit(&self, run: &Run, now: Time) -> Result<Admitted, AdmissionError> {
        let task = task_of(run)?;
        let collaboration = task.collaboration.as_ref().map(|link| link.id);
        if collaboration != Some(self.home.collaboration_id.get()) {
            return Err(not_allowed("the task belongs to another collaboration than this node").into());
        }
        let initiator = task
            .init_org
            .as_ref()
            .map(|link| OrganizationId::new(link.id))
            .ok_or_else(|| not_allowed("the task does not say which organization asks"))?;
        let labels: Vec<String> = task.databases.iter().map(|database| database.label.clone()).collect();
        let request = Request { image: &task.image, databases: &labels };
        self.policy.check(request).map_err(|refusal| not_allowed(refusal.to_string()))?;
        let algorithm = self
            .policy
            .algorithm(&task.image)
            .map_err(|error| Refusal { status: RunStatus::NonExistingImage, reason: error.to_string() })?
            .clone();
        let (input, digest) = self.input(run).await?;

        let mut from = None;
        let signed = match &task.manifest {
            Some(signed) => {
                let manifest = self.verify(signed, task, digest, initiator, now).await?;
                from = Some(Correspondent {
                    organization_id: manifest.initiator,
                    key: PublicKey::Ed25519(*signed.key()),
                    nonce: Some(manifest.nonce),
                });
                Some((signed, manifest))
            }
            None if self.policy.require_signed_tasks => {
                return Err(not_allowed(
                    "the task is not signed, and this node runs signed tasks only (`policies.require_signed_tasks`)",
                )
                .into());
            }
            None if self.home.encrypted => {
                from = Some(self.unsigned(initiator).await?);
                None
            }
            None => None,
        };
        // Who asks is who signed the root of the job; the coordinator's word counts only where nobody signs.
        let job = match &signed {
            Some((signed, manifest)) => self.root(signed, manifest, task, now).await?,
            None => Job {
                mesh: format!("job-{}", task.job_id),
                members: Vec::new(),
                requester: Requester {
                    organization: initiator,
                    user: task.init_user.as_ref().map(|link| UserId::new(link.id)),
                },
            },
        };
        self.policy.check_requester(job.requester).map_err(|refusal| not_allowed(refusal.to_string()))?;
        let input = self
            .home
            .read(Direction::Input, from.as_ref(), &input)
            .map_err(|error| not_allowed(format!("the input cannot be read: {error}")))?;
        if let Some((_, manifest)) = &signed {
            check_method(&input, manifest)?;
        }
        Ok(Admitted {
            details: Details {
                image: task.image.clone(),
                initiator,
                manifest: signed.as_ref().map(|(signed, _)| (*signed).clone()),
                mesh: job.mesh,
                members: job.members,
            },
            manifest: signed.map(|(signed, manifest)| (signed.digest(), manifest.not_after)),
            input,
            algorithm,
            databases: task.databases.clone(),
        })
    }

    /// Who asks for a task that nobody signed, in an encrypted collaboration: where both keys are RSA that is how it is,
    /// and the coordinator's word for who asks what. With an Ed25519 key on either side it would have been signed.
    async fn unsigned(&self, initiator: OrganizationId) -> Result<Correspondent, AdmissionError> {
        match &self.home.key {
            Some(PrivateKey::Rsa(_)) => {}
            Some(PrivateKey::Ed25519(_)) | None => {
                return Err(not_allowed(
                    "the task is not signed; who asks something of this node's organization, whose key is Ed25519, signs it",
                )
                .into());
            }
        }
        if let PublicKey::Ed25519(_) = self.believed(self.sources.key(initiator).await)? {
            return Err(not_allowed(format!(
                "the task is not signed, but the key pinned for organization {initiator} is Ed25519, with which it signs its tasks"
            ))
            .into());
        }
        // A signature would show that the pin is out of date; here nobody could open the result.
        let key = self.believed(self.sources.key_in_use(initiator).await)?;
        Ok(Correspondent { organization_id: initiator, key, nonce: None })
    }

    /// A run's input as text, and the digest of what went over the wire.
    async fn input(&self, run: &Run) -> Result<(String, Digest), AdmissionError> {
        let text = run.input.as_deref().unwrap_or_default();
        let Ok(id) = text.parse::<ObjectId>() else {
            return Ok((text.to_owned(), Digest::of(text.as_bytes())));
        };
        let object = self.sources.payload(id).await.map_err(|error| {
            let reason = format!("the input cannot be had: {error}");
            if error.is_transient() {
                AdmissionError::Later(error)
            } else {
                Refusal { status: RunStatus::Failed, reason }.into()
            }
        })?;
        let digest = Digest::of(&object);
        let text = payload::text_from_object(object)
            .map_err(|error| not_allowed(format!("the input cannot be read: {error}")))?;
        Ok((text, digest))
    }

    /// Verifies what was signed against the pin of who signed, and that the task is what was signed.
    async fn verify(
        &self,
        signed: &SignedManifest,
        task: &Task,
        input: Digest,
        initiator: OrganizationId,
        now: Time,
    ) -> Result<TaskManifest, AdmissionError> {
        let manifest = self.verify_signature(signed, initiator).await?;
        let refuse = |error: &dyn std::fmt::Display| not_allowed(format!("the task is not what was signed: {error}"));
        manifest
            .check_digest(now, self.home.collaboration_id, &task.image, self.home.organization_id, input)
            .map_err(|error| not_allowed(error.to_string()))?;
        if manifest.initiator != initiator {
            let signer = manifest.initiator;
            return Err(
                refuse(&format!("organization {signer} signed, organization {initiator} is said to ask")).into()
            );
        }
        if manifest.databases != task.databases {
            return Err(refuse(&"its databases, or what is asked of them, are others").into());
        }
        if manifest.parent.is_some() != task.parent.is_some() {
            let text =
                if task.parent.is_some() { "it has a parent that was not signed" } else { "its parent is missing" };
            return Err(refuse(&text).into());
        }
        Ok(manifest)
    }

    async fn verify_signature(
        &self,
        signed: &SignedManifest,
        initiator: OrganizationId,
    ) -> Result<TaskManifest, AdmissionError> {
        let pinned = self.believed(self.sources.key(initiator).await)?.ed25519().ok_or_else(|| {
            not_allowed(format!(
                "the task is signed, but the key pinned for organization {initiator} is RSA, which signs nothing"
            ))
        })?;
        Ok(signed
            .verify(&pinned)
            .map_err(|error| not_allowed(format!("{error} (the key pinned for organization {initiator})")))?)
    }

    fn believed(&self, key: Result<PublicKey, TrustError>) -> Result<PublicKey, AdmissionError> {
        key.map_err(|error| {
            if error.is_transient() { AdmissionError::Later(error) } else { not_allowed(error.to_string()).into() }
        })
    }

    /// Walks up to the task that a person made: verifies that each subtask stays within its parent.
    async fn root(
        &self,
        signed: &SignedManifest,
        manifest: &TaskManifest,
        task: &Task,
        now: Time,
    ) -> Result<Job, AdmissionError> {
        let mut ancestors = Vec::new();
        let mut signed = signed.clone();
        let mut manifest = manifest.clone();
        let mut parent_id = task.parent.as_ref().map(|link| TaskId::new(link.id));
        for _ in 0..MAX_DEPTH {
            let (Some(_), Some(id)) = (manifest.parent, parent_id) else {
                if manifest.parent.is_some() {
                    return Err(not_allowed("a parent of the task is missing").into());
                }
                // Now that the whole way up is known to be right.
                for (id, ancestor) in ancestors {
                    self.sources.keep_ancestor(id, ancestor);
                }
                return Ok(Job {
                    mesh: signed.digest().to_string(),
                    members: manifest.participants().into_iter().collect(),
                    requester: Requester { organization: manifest.initiator, user: manifest.user_id },
                });
            };
            let ancestor = self.sources.ancestor(id).await.map_err(|error| {
                if error.is_transient() {
                    AdmissionError::Later(error)
                } else {
                    not_allowed(format!("the parent task {id} cannot be had: {error}")).into()
                }
            })?;
            let parent =
                ancestor.manifest.clone().ok_or_else(|| not_allowed(format!("the parent task {id} is not signed")))?;
            let unverified =
                parent.read_unverified().map_err(|error| not_allowed(format!("the parent task {id}: {error}")))?;
            let parent_manifest = self.verify_signature(&parent, unverified.initiator).await?;
            parent_manifest.check_time(now).map_err(|error| not_allowed(format!("the parent task {id}: {error}")))?;
            manifest.check_within(&parent, &parent_manifest).map_err(|error| not_allowed(error.to_string()))?;
            signed = parent;
            manifest = parent_manifest;
            parent_id = ancestor.parent_id;
            ancestors.push((id, ancestor));
        }
        Err(not_allowed(format!("the task is a subtask more than {MAX_DEPTH} levels deep")).into())
    }
}

/// Checks that the input calls the function that was signed.
pub(crate) fn check_method(input: &[u8], manifest: &TaskManifest) -> Result<(), Refusal> {
    #[derive(Deserialize)]
    struct Input {
        method: String,
    }
    let input: Input = serde_json::from_slice(input).map_err(|_| Refusal {
        status: RunStatus::Failed,
        reason: "the input is no JSON object with a `method`".into(),
    })?;
    if input.method != manifest.function {
        let (found, signed) = (input.method, &manifest.function);
        return Err(not_allowed(format!("the input calls `{found}`, but `{signed}` was signed")));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
