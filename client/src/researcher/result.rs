use std::collections::BTreeMap;

use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::envelope;
use twinmesh_protocol::id::{CollaborationId, ObjectId, OrganizationId, RunId, TaskId};
use twinmesh_protocol::key::{OrganizationKey, PrivateKey, PublicKey};
use twinmesh_protocol::manifest::TaskManifest;
use twinmesh_protocol::payload;
use twinmesh_protocol::rsa::RsaKey;
use twinmesh_protocol::sealed::{Direction, SealContext, open, open_anonymous};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{Run, RunResult, Task};

use super::{Client, ClientError, Content, Members, RunError};

/// The largest result that is taken into memory.
const MAX_RESULT_BYTES: u64 = 4 << 30;

/// What became of a task.
#[derive(Debug)]
pub struct TaskResults {
    /// The task.
    pub task: Task,
    /// Whether the task was made here, so that it is certain that these are its results. Else the coordinator's word
    /// stands for it that the number means the task that somebody told of.
    pub is_made_here: bool,
    /// Whether the results are encrypted on their way.
    pub is_encrypted: bool,
    /// Its runs, by organization.
    pub runs: Vec<RunOutcome>,
}

impl TaskResults {
    /// The contents of all runs, by organization.
    ///
    /// # Errors
    /// The first run that has none.
    pub fn contents(self) -> Result<Vec<(OrganizationId, Content)>, RunError> {
        self.runs.into_iter().map(|run| Ok((run.organization_id, run.outcome?))).collect()
    }
}

/// What became of a run.
#[derive(Debug)]
pub struct RunOutcome {
    /// The run.
    pub run_id: RunId,
    /// Who ran it.
    pub organization_id: OrganizationId,
    /// That organization's name.
    pub organization: String,
    /// Its status.
    pub status: RunStatus,
    /// When its node took it up.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// Its result, opened and checked.
    pub outcome: Result<Content, RunError>,
    /// Whether it is certain that this organization made the result, for this task. Where its key or ours is RSA, or nothing
    /// is encrypted, it is the coordinator's word.
    pub is_proven: bool,
}

/// How the results of a task are protected.
enum Protection<'a> {
    /// Not at all.
    None,
    /// Sealed to our Ed25519 key, for what we signed.
    Sealed(&'a OrganizationKey, Box<TaskManifest>),
    /// In vantage6's envelope to our RSA key.
    Envelope(&'a RsaKey),
}

impl Client {
    /// The results of a task. In an encrypted collaboration each is opened with our key and checked to be made for
    /// this task by the organization whose run it is. A task made here must be shown as it was signed; another one must
    /// be signed with our organization's key. With an RSA key nothing is signed and nothing but the opening is checked.
    ///
    /// # Errors
    /// When the task is not one of ours, was altered, or the coordinator refuses. What is wrong with a single run
    /// stands in its [`RunOutcome`].
    pub async fn results(&self, id: TaskId) -> Result<TaskResults, ClientError> {
        self.results_in(id, None).await
    }

    /// As [`Client::results`], for a task of which the caller knows the collaboration. So results of a collaboration
    /// that is not encrypted can be had where the task was not made, too.
    ///
    /// # Errors
    /// As [`Client::results`]; also when the task is shown in another collaboration.
    pub async fn results_in(
        &self,
        id: TaskId,
        collaboration: Option<CollaborationId>,
    ) -> Result<TaskResults, ClientError> {
        let made = self.made().get(id)?;
        let (task, runs, results) = tokio::try_join!(
            self.retried(|| self.api.task_get(id)),
            self.retried(|| self.api.run_list(id)),
            self.retried(|| self.api.result_list(id)),
        )?;
        let link = task.collaboration.as_ref().ok_or(ClientError::NoCollaboration { task: id })?;
        let shown = CollaborationId::new(link.id);
        let known = collaboration.or(made.and_then(|made| made.collaboration_id));
        if known.is_some_and(|known| known != shown) {
            return Err(ClientError::OtherCollaboration { task: id, found: shown.to_string() });
        }
        let members = self.collaboration(shown).await?;
        let signed = made.and_then(|made| made.manifest);
        // A manifest stands for an encrypted task even where the coordinator shows no encryption any more.
        let is_sealed = signed.is_some() || task.manifest.is_some() || members.collaboration.encrypted;
        if !is_sealed && known.is_none() && self.key.is_some() {
            // A sealed task, too, could be shown so: without manifest, in a collaboration that is not encrypted.
            return Err(ClientError::Unsigned { task: id, collaboration: members.collaboration.name });
        }
        let protection = if is_sealed { self.protection(&task, signed, &members, &runs)? } else { Protection::None };
        let mut texts: BTreeMap<RunId, Option<String>> = BTreeMap::new();
        for result in results {
            texts.insert(result.id, self.result_text(result).await?);
        }
        let mut outcomes: Vec<RunOutcome> = runs
            .into_iter()
            .map(|run| {
                let text = texts.get(&run.id).cloned().flatten();
                self.outcome(run, text, &protection, &members)
            })
            .collect();
        outcomes.sort_by_key(|outcome| (outcome.organization_id, outcome.run_id));
        Ok(TaskResults { task, is_made_here: made.is_some(), is_encrypted: is_sealed, runs: outcomes })
    }

    fn protection(
        &self,
        task: &Task,
        known: Option<Digest>,
        members: &Members,
        runs: &[Run],
    ) -> Result<Protection<'_>, ClientError> {
        match &self.key {
            None => Err(ClientError::NoKey { collaboration: members.collaboration.name.clone() }),
            Some(PrivateKey::Ed25519(key)) => {
                Ok(Protection::Sealed(key, Box::new(self.manifest(key, task, known, members, runs)?)))
            }
            Some(PrivateKey::Rsa(_)) if known.is_some() || task.manifest.is_some() => {
                Err(ClientError::SignedBefore { task: task.id })
            }
            Some(PrivateKey::Rsa(key)) => Ok(Protection::Envelope(key)),
        }
    }

    /// A result as text, wherever it is kept. What is no payload stays as it is: opening it tells what is wrong.
    async fn result_text(&self, result: RunResult) -> Result<Option<String>, ClientError> {
        let id = result.result.as_deref().and_then(|text| text.parse::<ObjectId>().ok());
        let Some(id) = id.filter(|_| result.blob_storage_used) else { return Ok(result.result) };
        let object = self.retried(|| self.api.object_get(id, MAX_RESULT_BYTES)).await?;
        Ok(payload::text_from_object(object).ok().or(result.result))
    }

    /// What we signed, checked against what is known of it here and what the coordinator shows.
    fn manifest(
        &self,
        key: &OrganizationKey,
        task: &Task,
        known: Option<Digest>,
        members: &Members,
        runs: &[Run],
    ) -> Result<TaskManifest, ClientError> {
        let signed = task.manifest.as_ref().ok_or(ClientError::NoManifest { task: task.id })?;
        if known.is_some_and(|known| known != signed.digest()) {
            return Err(ClientError::OtherManifest { task: task.id });
        }
        let manifest = signed.verify(&key.public()).map_err(|source| ClientError::ForeignManifest {
            task: task.id,
            organization: self.organization.name.clone(),
            source,
        })?;
        let is_same = manifest.initiator == self.organization.id
            && task.collaboration.as_ref().is_some_and(|link| link.id == manifest.collaboration_id.get());
        if !is_same {
            return Err(ClientError::OtherManifest { task: task.id });
        }
        for receiver in &manifest.receivers {
            let found = runs.iter().filter(|run| organization_of(run) == receiver.organization_id).count();
            if found != 1 {
                return Err(ClientError::OtherRuns {
                    task: task.id,
                    organization: members.name(receiver.organization_id),
                    found,
                });
            }
        }
        let is_receiver = |id| manifest.receivers.iter().any(|receiver| receiver.organization_id == id);
        if let Some(foreign) = runs.iter().map(organization_of).find(|id| !is_receiver(*id)) {
            return Err(ClientError::ForeignRun { task: task.id, organization: members.name(foreign) });
        }
        Ok(manifest)
    }

    fn outcome(&self, run: Run, text: Option<String>, protection: &Protection<'_>, members: &Members) -> RunOutcome {
        let organization_id = organization_of(&run);
        let organization = members.name(organization_id);
        let mut outcome = RunOutcome {
            run_id: run.id,
            organization_id,
            organization: organization.clone(),
            status: run.status,
            started_at: run.started_at,
            finished_at: run.finished_at,
            outcome: Err(RunError::Missing { run: run.id, organization: organization.clone() }),
            is_proven: false,
        };
        outcome.outcome = match (run.status, text) {
            (RunStatus::Completed, Some(text)) if !text.is_empty() => {
                self.content(&outcome, &text, protection, members).map(|(content, is_proven)| {
                    outcome.is_proven = is_proven;
                    content
                })
            }
            (RunStatus::Completed, _) => Err(RunError::Missing { run: run.id, organization }),
            (status, _) if status.is_finished() => {
                Err(RunError::Failed { run: run.id, organization, status, log: run.log.unwrap_or_default() })
            }
            (status, _) => Err(RunError::Unfinished { run: run.id, organization, status }),
        };
        outcome
    }

    /// What a result holds, and whether it is certain who made it.
    fn content(
        &self,
        outcome: &RunOutcome,
        text: &str,
        protection: &Protection<'_>,
        members: &Members,
    ) -> Result<(Content, bool), RunError> {
        let (run, organization) = (outcome.run_id, || outcome.organization.clone());
        let bytes = || {
            let malformed = |source| RunError::Malformed { run, organization: organization(), source };
            payload::from_text(text).map_err(malformed)
        };
        let (key, manifest) = match protection {
            Protection::None => return Ok((Content::new(bytes()?), false)),
            Protection::Envelope(key) => {
                let opened = envelope::open(key, text);
                let envelope = |source| RunError::Envelope { run, organization: organization(), source };
                return Ok((Content::new(opened.map_err(envelope)?), false));
            }
            Protection::Sealed(key, manifest) => (key, manifest),
        };
        let bytes = bytes()?;
        let id = outcome.organization_id;
        let pinned = self.pins().key(id);
        let sender = match (pinned, members.get(id)) {
            // What this organization sealed before its key was exchanged can still be checked.
            (Some(pinned), _) if id != self.organization.id => pinned,
            (_, Some(member)) => self.member_key(members, member).map_err(|source| RunError::Untrusted {
                run,
                organization: organization(),
                source,
            })?,
            (Some(pinned), None) => pinned,
            (None, None) => {
                let source = crate::pins::PinError::NoKey { organization: organization() };
                return Err(RunError::Untrusted { run, organization: organization(), source });
            }
        };
        let context = SealContext {
            direction: Direction::Result,
            collaboration_id: manifest.collaboration_id,
            sender: id,
            receiver: self.organization.id,
            nonce: manifest.nonce,
        };
        let opened = match &sender {
            PublicKey::Ed25519(sender) => open(key, sender, &context, &bytes),
            PublicKey::Rsa(_) => open_anonymous(key, &context, &bytes),
        };
        let tampered = |source| RunError::Tampered { run, organization: organization(), source };
        Ok((Content::new(opened.map_err(tampered)?), sender.ed25519().is_some()))
    }
}

fn organization_of(run: &Run) -> OrganizationId {
    // Zero is nobody's id: a run that names no organization fits no receiver.
    OrganizationId::new(run.organization.as_ref().map_or(0, |link| link.id))
}
