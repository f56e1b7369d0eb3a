//! Whether a task may be opened as things are (contract A.8.1).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::http::StatusCode;
use sqlx::AnyConnection;
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, StudyId};
use twinmesh_protocol::manifest::SignedManifest;
use twinmesh_protocol::wire::NewTask;

use crate::authz::action::{CreateSubtask, CreateTask};
use crate::authz::{Target, decide};
use crate::http::caller::Caller;
use crate::http::problem::Problem;
use crate::http::run;
use crate::ledger;
use crate::ledger::manifest::ManifestContext;
use crate::ledger::open::{Asker, AskingRun, KnownInput, OpenRefusal, OpenedTask, ParentTask, Place};
use crate::store;
use crate::store::opening::Opener;
use crate::store::task::TaskRecord;

/// A task that may be opened, but for its manifest.
pub(super) struct Weighed {
    pub(super) task: OpenedTask,
    pub(super) opener: Opener,
    /// The manifest of the task whose run asks.
    pub(super) parent_manifest: Option<SignedManifest>,
}

/// Places that were asked about in a transaction, and are as they were.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<Address, Place>);

/// What a request says of the place: its collaboration, its study and the store of its image.
type Address = (Option<CollaborationId>, Option<StudyId>, Option<AlgorithmStoreId>);

impl Places {
    async fn find(&mut self, conn: &mut AnyConnection, address: Address) -> Result<&Place, Problem> {
        Ok(match self.0.entry(address) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let (collaboration, study, store_id) = address;
                unknown.insert(store::opening::place_fetch(conn, collaboration, study, store_id).await?)
            }
        })
    }
}

/// Decides whether a task may be opened. Nothing is written.
pub(super) async fn weigh(
    caller: &mut Caller,
    places: &mut Places,
    request: NewTask,
    known: &[KnownInput],
) -> Result<Weighed, Problem> {
    let (run, parent) = asking_run(caller).await?.unzip();
    let study = ledger::open::study(request.study_id, run.as_ref()).map_err(refuse)?;
    let (collaboration, store_id) = (request.collaboration_id, request.store_id);
    let place = places.find(caller.tx.conn(), (collaboration, study, store_id)).await?;
    let target = place.collaboration.as_ref().map_or_else(Target::anywhere, |known| Target::collaboration(known.id));
    let subject = place.collaboration.as_ref().map_or(collaboration.unwrap_or_else(nowhere), |known| known.id);
    let may_create = decide::<CreateTask>(&caller.actor, subject, &target);
    let may_continue = decide::<CreateSubtask>(&caller.actor, subject, &target);
    let (user, parent_manifest) = match parent {
        Some(parent) => (parent.init_user, parent.manifest),
        None => (Some(caller.actor.user().ok_or_else(Problem::permission)?), None),
    };
    let may = run.is_none() && may_create.is_ok();
    let asker = Asker { organization: caller.actor.organization, user, may_create: may, run };

    let mut known = known.to_vec();
    for (entry, known) in request.organizations.iter().zip(&mut known) {
        if let Some(kept) = run::view::find_kept(caller, &entry.input).await? {
            *known = KnownInput { form: kept.form, kept: Some(kept) };
        }
    }
    let task = ledger::open::open_task(request, &known, &asker, place).map_err(refuse)?;
    let opener = match asker.run {
        Some(_) => Opener::Run(may_continue?),
        None => Opener::User(may_create?),
    };
    Ok(Weighed { task, opener, parent_manifest })
}

/// Refuses a manifest that is not its task's.
pub(super) async fn check_manifest(
    caller: &mut Caller,
    task: &OpenedTask,
    parent: Option<&SignedManifest>,
) -> Result<(), Problem> {
    let Some(manifest) = &task.manifest else { return Ok(()) };
    let key = store::task::public_key_fetch(caller.tx.conn(), task.init_org).await?;
    let context = ManifestContext { registered_key: key.as_deref().unwrap_or_default(), parent };
    ledger::manifest::check(manifest, task, context, caller.now).map_err(|refusal| {
        Problem::bad_request("manifest_refused", format!("The task's manifest is refused: {refusal}"))
    })
}

/// The run that asks, if it is one, and its task.
async fn asking_run(caller: &mut Caller) -> Result<Option<(AskingRun, TaskRecord)>, Problem> {
    let Some(container) = caller.actor.container().cloned() else { return Ok(None) };
    let parent = store::task::task_fetch(caller.tx.conn(), container.task).await?.ok_or_else(Problem::permission)?;
    let place = run::view::find(caller, container.run).await?;
    let run = AskingRun {
        image: container.image,
        collaboration_id: container.collaboration,
        kill_requested: place.state.kill_requested(),
        parent: ParentTask {
            id: parent.id,
            job_id: parent.job_id,
            image: parent.image.clone(),
            store_id: parent.store_id,
            study_id: parent.study_id,
            finished: parent.status.is_finished(),
        },
    };
    Ok(Some((run, parent)))
}

fn refuse(refusal: OpenRefusal) -> Problem {
    let text = refusal.to_string();
    let bad_request = |code| Problem::bad_request(code, text.clone());
    match refusal {
        OpenRefusal::Body(errors) => Problem::fields(errors),
        OpenRefusal::NoCollaboration(_) | OpenRefusal::NoStudy(_) => Problem::not_found(text),
        OpenRefusal::StudyElsewhere { .. } => bad_request("study_elsewhere"),
        OpenRefusal::OutsideCollaboration { .. } => bad_request("outside_collaboration"),
        OpenRefusal::OutsideStudy { .. } => bad_request("outside_study"),
        OpenRefusal::NoNode(_) => bad_request("no_node"),
        OpenRefusal::NotAdmitted { .. } => bad_request("not_admitted"),
        OpenRefusal::NotMember { .. } => Problem::unauthorized("not_member", text),
        OpenRefusal::NotAllowed => Problem::permission(),
        OpenRefusal::Token(why) => Problem::unauthorized("container_token", text).with_detail(why),
        OpenRefusal::NoStore(_) => bad_request("no_store"),
        OpenRefusal::StoreElsewhere { .. } => Problem::new(StatusCode::FORBIDDEN, "store_elsewhere", text),
        OpenRefusal::NotEncrypted { .. } => bad_request("input_not_encrypted"),
        OpenRefusal::Encrypted { .. } => bad_request("input_encrypted"),
        OpenRefusal::Malformed { .. } => bad_request("input_malformed"),
    }
}

/// An id that nothing has, for decisions about what there is not.
fn nowhere() -> CollaborationId {
    CollaborationId::new(0)
}
