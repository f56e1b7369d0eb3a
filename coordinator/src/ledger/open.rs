//! Whether a task may be opened, and what opening it records (contract A.8.1).

use std::collections::{BTreeMap, BTreeSet};

use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, JobId, OrganizationId, StudyId, TaskId, UserId};
use twinmesh_protocol::manifest::SignedManifest;
use twinmesh_protocol::payload::{PayloadForm, classify};
use twinmesh_protocol::wire::{FieldErrors, NewTask, TaskDatabase};

use crate::limits;

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    /// The organization in whose name.
    pub(crate) organization: OrganizationId,
    /// The user, or for a run the user whose task it is part of.
    pub(crate) user: Option<UserId>,
    /// Whether the rules let this user create tasks in the collaboration asked for. Of no meaning for a run.
    pub(crate) may_create: bool,
    /// The run that asks, if it is one.
    pub(crate) run: Option<AskingRun>,
}

/// A run whose algorithm asks for a subtask.
#[derive(Debug, Clone)]
pub(crate) struct AskingRun {
    /// The image in its token.
    pub(crate) image: String,
    /// The collaboration in its token.
    pub(crate) collaboration_id: CollaborationId,
    /// Whether somebody wants it ended.
    pub(crate) kill_requested: bool,
    /// Its task.
    pub(crate) parent: ParentTask,
}

/// The task whose run asks for a subtask.
#[derive(Debug, Clone)]
pub(crate) struct ParentTask {
    /// Which.
    pub(crate) id: TaskId,
    /// Its job.
    pub(crate) job_id: JobId,
    /// Its image, with a digest where a store gave one.
    pub(crate) image: String,
    /// The store that vouched for it.
    pub(crate) store_id: Option<AlgorithmStoreId>,
    /// Its study. What it makes stays there.
    pub(crate) study_id: Option<StudyId>,
    /// Whether it has ended.
    pub(crate) finished: bool,
}

/// What is known of the place where the task is to be carried out.
#[derive(Debug, Clone, Default)]
pub(crate) struct Place {
    /// The collaboration asked for, or that of the study; `None` when there is none such.
    pub(crate) collaboration: Option<KnownCollaboration>,
    /// The study asked for; `None` when there is none such, or none was asked for.
    pub(crate) study: Option<KnownStudy>,
    /// The nodes of the collaboration by organization.
    pub(crate) nodes: BTreeMap<OrganizationId, KnownNode>,
    /// The store asked for; `None` when there is none such, or none was asked for.
    pub(crate) store: Option<KnownStore>,
}

/// A collaboration.
#[derive(Debug, Clone)]
pub(crate) struct KnownCollaboration {
    /// Which.
    pub(crate) id: CollaborationId,
    /// Whether payloads are encrypted end to end.
    pub(crate) encrypted: bool,
    /// Who takes part.
    pub(crate) members: BTreeSet<OrganizationId>,
}

/// A study.
#[derive(Debug, Clone)]
pub(crate) struct KnownStudy {
    /// Which.
    pub(crate) id: StudyId,
    /// Where it belongs.
    pub(crate) collaboration_id: CollaborationId,
    /// Who takes part.
    pub(crate) members: BTreeSet<OrganizationId>,
}

/// A node, with whom it published to admit: user ids and organization ids or names, as text (contract E.3).
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownNode {
    /// The users it admits, if it limits them.
    pub(crate) allowed_users: Vec<String>,
    /// The organizations it admits, if it limits them.
    pub(crate) allowed_organizations: Vec<String>,
}

/// A link to an algorithm store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KnownStore {
    /// The collaboration it is linked to; all when `None`.
    pub(crate) collaboration_id: Option<CollaborationId>,
}

/// A payload that is kept outside of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptPayload {
    /// The number of its row.
    pub(crate) number: i64,
    /// What it hashes to.
    pub(crate) digest: Digest,
    /// What its beginning looks like.
    pub(crate) form: PayloadForm,
}

/// What is known of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownInput {
    /// What it looks like.
    pub(crate) form: PayloadForm,
    /// Where it is, unless the request holds it.
    pub(crate) kept: Option<KeptPayload>,
}

/// A task as it is to be recorded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OpenedTask {
    /// Its name; empty when none was given.
    pub(crate) name: String,
    /// What it is for.
    pub(crate) description: Option<String>,
    /// Its image.
    pub(crate) image: String,
    /// Where it belongs.
    pub(crate) collaboration_id: CollaborationId,
    /// Its study.
    pub(crate) study_id: Option<StudyId>,
    /// The task whose run made it, with that task's job; it begins a job of its own when `None`.
    pub(crate) parent: Option<(TaskId, JobId)>,
    /// Who asks.
    pub(crate) init_org: OrganizationId,
    /// The user who asks, or asked for the job.
    pub(crate) init_user: Option<UserId>,
    /// The store that vouches for the image.
    pub(crate) store_id: Option<AlgorithmStoreId>,
    /// What it may read.
    pub(crate) databases: Vec<TaskDatabase>,
    /// Who is to run it with which input, in the order asked for.
    pub(crate) inputs: Vec<(OrganizationId, String)>,
    /// The inputs that are kept outside of the rows.
    pub(crate) kept: BTreeMap<OrganizationId, KeptPayload>,
    /// What was signed.
    pub(crate) manifest: Option<SignedManifest>,
}

/// Why a task is not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OpenRefusal {
    /// The body's fields.
    #[error("Request body is incorrect")]
    Body(FieldErrors),
    /// No such collaboration.
    #[error("Collaboration id={0} not found!")]
    NoCollaboration(CollaborationId),
    /// No such study.
    #[error("Study id={0} not found")]
    NoStudy(StudyId),
    /// Study and collaboration do not go together.
    #[error("Study {study} belongs to collaboration {actual}, not to collaboration {asked}: give one of the two")]
    StudyElsewhere {
        /// The study asked for.
        study: StudyId,
        /// Where it belongs.
        actual: CollaborationId,
        /// The collaboration asked for.
        asked: CollaborationId,
    },
    /// An organization outside the collaboration.
    #[error("Organization {organization} is not within collaboration {collaboration}")]
    OutsideCollaboration {
        /// Which.
        organization: OrganizationId,
        /// Of what.
        collaboration: CollaborationId,
    },
    /// An organization outside the study.
    #[error("Organization {organization} is not within study {study}")]
    OutsideStudy {
        /// Which.
        organization: OrganizationId,
        /// Of what.
        study: StudyId,
    },
    /// Organizations without a node.
    #[error("No node is registered for the following organization(s): {}", list(.0))]
    NoNode(Vec<OrganizationId>),
    /// A node published that it does not admit who asks.
    #[error("The node of organization {organization} does not accept tasks from you: it limits who may ask")]
    NotAdmitted {
        /// Whose node.
        organization: OrganizationId,
    },
    /// Who asks is not part of the collaboration.
    #[error("Your organization ({organization}) is not a member of collaboration {collaboration}")]
    NotMember {
        /// Who asks.
        organization: OrganizationId,
        /// Of what.
        collaboration: CollaborationId,
    },
    /// The rules do not let the user.
    #[error("You lack the permission to do that!")]
    NotAllowed,
    /// The run's token does not cover what it asks.
    #[error("Container-token is not valid")]
    Token(&'static str),
    /// No such store.
    #[error("Algorithm store id={0} does not exist!")]
    NoStore(AlgorithmStoreId),
    /// The store is not linked to the collaboration.
    #[error("Algorithm store {store} is not linked to collaboration {collaboration}")]
    StoreElsewhere {
        /// The store asked for.
        store: AlgorithmStoreId,
        /// The task's collaboration.
        collaboration: CollaborationId,
    },
    /// An input in clear in an encrypted collaboration.
    #[error(
        "The input of organization {organization} is not encrypted, but collaboration {collaboration} is: set up \
         encryption before you create tasks in it"
    )]
    NotEncrypted {
        /// Whose input.
        organization: OrganizationId,
        /// Where.
        collaboration: CollaborationId,
    },
    /// An encrypted input in a collaboration without encryption.
    #[error(
        "The input of organization {organization} is encrypted, but collaboration {collaboration} is not: create the \
         task without encryption"
    )]
    Encrypted {
        /// Whose input.
        organization: OrganizationId,
        /// Where.
        collaboration: CollaborationId,
    },
    /// An input that is no payload at all.
    #[error("The input of organization {organization} is neither base64 of text nor an encrypted payload")]
    Malformed {
        /// Whose input.
        organization: OrganizationId,
    },
}

fn list(organizations: &[OrganizationId]) -> String {
    organizations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What is wrong with a body, field by field; empty when nothing is.
#[must_use]
pub(crate) fn validate(request: &NewTask) -> FieldErrors {
    let mut errors = limits::faults(request);
    let mut refuse = |field: &str, text: String| errors.entry(field.to_owned()).or_default().push(text);
    // The stock client sends an empty name when its user gives none.
    if let Some(name) = &request.name
        && !name.is_empty()
        && name.chars().all(|letter| letter.is_ascii_digit())
    {
        refuse("name", "Name cannot be numeric.".into());
    }
    if request.name.as_deref().is_some_and(|name| name.contains(char::is_control)) {
        refuse("name", limits::CONTROL_CHARACTERS.into());
    }
    if request.collaboration_id.is_none() && request.study_id.is_none() {
        refuse("_schema", "Either collaboration_id or study_id must be given.".into());
    }
    for (field, id) in [
        ("collaboration_id", request.collaboration_id.map(CollaborationId::get)),
        ("study_id", request.study_id.map(StudyId::get)),
        ("store_id", request.store_id.map(AlgorithmStoreId::get)),
    ] {
        if id.is_some_and(|id| id < 1) {
            refuse(field, "Must be greater than or equal to 1.".into());
        }
    }
    let mut seen = BTreeSet::new();
    for organization in &request.organizations {
        if !seen.insert(organization.id) {
            refuse("organizations", format!("Organization {} is named more than once.", organization.id));
        }
        if organization.input.is_empty() {
            refuse("organizations", format!("The input of organization {} is missing.", organization.id));
        }
    }
    errors
}

/// What each input looks like, in the order of the request's organizations. Long inputs take a while to look at, so it
/// is done before anything is locked. What is kept elsewhere is not known then.
#[must_use]
pub(crate) fn look_at_inputs(request: &NewTask) -> Vec<KnownInput> {
    request.organizations.iter().map(|entry| KnownInput { form: classify(&entry.input), kept: None }).collect()
}

/// Decides whether the task is opened, and what is recorded. `known` is what [`look_at_inputs`] found, with what is
/// known of inputs that are kept elsewhere. Checks come in the contract's order; the manifest, which the contract does
/// not know, is checked afterwards by [`super::manifest::check`].
///
/// # Errors
/// The first thing that stands against it.
pub(crate) fn open_task(
    mut request: NewTask,
    known: &[KnownInput],
    asker: &Asker,
    place: &Place,
) -> Result<OpenedTask, OpenRefusal> {
    let errors = validate(&request);
    if !errors.is_empty() {
        return Err(OpenRefusal::Body(errors));
    }
    request.study_id = study(request.study_id, asker.run.as_ref())?;
    let collaboration = find_collaboration(&request, place)?;
    check_organizations(&request, collaboration, place)?;
    check_asker(&request, asker, collaboration, place)?;
    let (image, store_id, parent) = match &asker.run {
        Some(run) => (run.parent.image.clone(), run.parent.store_id, Some((run.parent.id, run.parent.job_id))),
        None => (request.image, check_store(request.store_id, collaboration.id, place)?, None),
    };
    let inputs: Vec<_> = request.organizations.into_iter().map(|entry| (entry.id, entry.input)).collect();
    check_inputs(&inputs, known, collaboration)?;
    let kept = inputs.iter().zip(known).filter_map(|((id, _), known)| known.kept.map(|kept| (*id, kept))).collect();
    Ok(OpenedTask {
        name: request.name.unwrap_or_default(),
        description: request.description,
        image,
        collaboration_id: collaboration.id,
        study_id: request.study_id,
        parent,
        init_org: asker.organization,
        init_user: asker.user,
        store_id,
        databases: request.databases.unwrap_or_default().into_iter().map(TaskDatabase::from).collect(),
        inputs,
        kept,
        manifest: request.manifest,
    })
}

/// The study of a task: the one asked for, and that of its parent if it has one.
///
/// # Errors
/// When a run asks for another study than its task's.
pub(crate) fn study(asked: Option<StudyId>, run: Option<&AskingRun>) -> Result<Option<StudyId>, OpenRefusal> {
    match (run.and_then(|run| run.parent.study_id), asked) {
        (Some(parent), Some(asked)) if parent != asked => Err(OpenRefusal::Token("the study is another")),
        (parent, asked) => Ok(parent.or(asked)),
    }
}

fn find_collaboration<'a>(request: &NewTask, place: &'a Place) -> Result<&'a KnownCollaboration, OpenRefusal> {
    let missing = |id: CollaborationId| OpenRefusal::NoCollaboration(id);
    if let Some(study_id) = request.study_id {
        let study = place.study.as_ref().ok_or(OpenRefusal::NoStudy(study_id))?;
        if let Some(asked) = request.collaboration_id
            && asked != study.collaboration_id
        {
            return Err(match &place.collaboration {
                Some(_) => OpenRefusal::StudyElsewhere { study: study_id, actual: study.collaboration_id, asked },
                None => missing(asked),
            });
        }
        return place.collaboration.as_ref().ok_or_else(|| missing(study.collaboration_id));
    }
    let asked = request.collaboration_id.unwrap_or(CollaborationId::new(0));
    place.collaboration.as_ref().ok_or_else(|| missing(asked))
}

fn check_organizations(
    request: &NewTask,
    collaboration: &KnownCollaboration,
    place: &Place,
) -> Result<(), OpenRefusal> {
    let organizations = || request.organizations.iter().map(|entry| entry.id);
    if let Some(organization) = organizations().find(|id| !collaboration.members.contains(id)) {
        return Err(OpenRefusal::OutsideCollaboration { organization, collaboration: collaboration.id });
    }
    if let (Some(study), Some(_)) = (&place.study, request.study_id)
        && let Some(organization) = organizations().find(|id| !study.members.contains(id))
    {
        return Err(OpenRefusal::OutsideStudy { organization, study: study.id });
    }
    let without: Vec<_> = organizations().filter(|id| !place.nodes.contains_key(id)).collect();
    if without.is_empty() { Ok(()) } else { Err(OpenRefusal::NoNode(without)) }
}

fn check_asker(
    request: &NewTask,
    asker: &Asker,
    collaboration: &KnownCollaboration,
    place: &Place,
) -> Result<(), OpenRefusal> {
    if let (None, Some(user)) = (&asker.run, asker.user) {
        let refusing = request
            .organizations
            .iter()
            .find(|entry| place.nodes.get(&entry.id).is_some_and(|node| !admits(node, user, asker.organization)));
        if let Some(entry) = refusing {
            return Err(OpenRefusal::NotAdmitted { organization: entry.id });
        }
    }
    if !collaboration.members.contains(&asker.organization) {
        return Err(OpenRefusal::NotMember { organization: asker.organization, collaboration: collaboration.id });
    }
    match &asker.run {
        None if asker.may_create => Ok(()),
        None => Err(OpenRefusal::NotAllowed),
        Some(run) if !request.image.ends_with(&run.image) => Err(OpenRefusal::Token("the image is another")),
        Some(run) if run.parent.finished => Err(OpenRefusal::Token("the run's task has ended")),
        // A kill marks every open run of the tree, so what could add to it is marked whenever something above it is.
        Some(run) if run.kill_requested => Err(OpenRefusal::Token("the run is being killed")),
        Some(run) if run.collaboration_id != collaboration.id => {
            Err(OpenRefusal::Token("the collaboration is another"))
        }
        Some(_) => Ok(()),
    }
}

/// Stock admits who is on either list; a node that published none admits everybody (contract E.3).
fn admits(node: &KnownNode, user: UserId, organization: OrganizationId) -> bool {
    let (user, organization) = (user.to_string(), organization.to_string());
    (node.allowed_users.is_empty() && node.allowed_organizations.is_empty())
        || node.allowed_users.contains(&user)
        || node.allowed_organizations.contains(&organization)
}

fn check_store(
    asked: Option<AlgorithmStoreId>,
    collaboration: CollaborationId,
    place: &Place,
) -> Result<Option<AlgorithmStoreId>, OpenRefusal> {
    let Some(asked) = asked else { return Ok(None) };
    let store = place.store.ok_or(OpenRefusal::NoStore(asked))?;
    if store.collaboration_id.is_some_and(|linked| linked != collaboration) {
        return Err(OpenRefusal::StoreElsewhere { store: asked, collaboration });
    }
    Ok(Some(asked))
}

fn check_inputs(
    inputs: &[(OrganizationId, String)],
    known: &[KnownInput],
    collaboration: &KnownCollaboration,
) -> Result<(), OpenRefusal> {
    for ((organization, _), known) in inputs.iter().zip(known) {
        let (organization, collaboration_id) = (*organization, collaboration.id);
        match (known.form, collaboration.encrypted) {
            (PayloadForm::Plain, false) | (PayloadForm::Sealed | PayloadForm::Vantage6Envelope, true) => {}
            (PayloadForm::Plain, true) => {
                return Err(OpenRefusal::NotEncrypted { organization, collaboration: collaboration_id });
            }
            (PayloadForm::Sealed | PayloadForm::Vantage6Envelope, false) => {
                return Err(OpenRefusal::Encrypted { organization, collaboration: collaboration_id });
            }
            (PayloadForm::Malformed, _) => return Err(OpenRefusal::Malformed { organization }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
