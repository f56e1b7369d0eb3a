//! Opening tasks: what must be known of the place, and what is recorded.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, JobId, OrganizationId, RunId, StudyId, TaskId, UserId};
use twinmesh_protocol::status::task_status;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{EventKind, TaskDatabase};

use super::event::{NewEvent, event_insert_all};
use super::rows::{self, gather};
use super::task::TaskRecord;
use super::{Result, Tx};
use crate::authz::Permit;
use crate::authz::action::{CreateSubtask, CreateTask};
use crate::ledger::open::{KnownCollaboration, KnownNode, KnownStore, KnownStudy, OpenedTask, Place};
use crate::ledger::run::RunState;

/// What is known of the place where a task is to be carried out.
pub(crate) async fn place_fetch(
    conn: &mut AnyConnection,
    collaboration: Option<CollaborationId>,
    study: Option<StudyId>,
    store: Option<AlgorithmStoreId>,
) -> Result<Place> {
    let mut place = Place::default();
    if let Some(study) = study {
        place.study = study_fetch(conn, study).await?;
    }
    let id = collaboration.or(place.study.as_ref().map(|study| study.collaboration_id));
    if let Some(id) = id {
        (place.collaboration, place.nodes) = collaboration_fetch(conn, id).await?;
    }
    if let Some(store) = store {
        let row = sqlx::query("SELECT collaboration_id FROM algorithm_store WHERE id = $1")
            .bind(store.get())
            .fetch_optional(conn)
            .await?;
        if let Some(row) = row {
            let linked = row.try_get::<Option<i64>, _>(0)?.map(CollaborationId::new);
            place.store = Some(KnownStore { collaboration_id: linked });
        }
    }
    Ok(place)
}

/// A collaboration and its nodes, by one question: whoever opens a task holds everybody else's turn meanwhile.
async fn collaboration_fetch(
    conn: &mut AnyConnection,
    id: CollaborationId,
) -> Result<(Option<KnownCollaboration>, BTreeMap<OrganizationId, KnownNode>)> {
    let rows = sqlx::query(concat!(
        "SELECT encrypted, (SELECT ",
        gather!("organization_id"),
        " FROM collaboration_organization WHERE collaboration_id = $1), (SELECT ",
        gather!("organization_id"),
        " FROM node WHERE collaboration_id = $1), CAST(NULL AS BIGINT), CAST(NULL AS TEXT), CAST(NULL AS TEXT) \
         FROM collaboration WHERE id = $1 \
         UNION ALL SELECT NULL, NULL, NULL, node.organization_id, node_config.key, node_config.value FROM node \
         JOIN node_config ON node_config.node_id = node.id \
         AND node_config.key IN ('allowed_users', 'allowed_orgs') WHERE node.collaboration_id = $1"
    ))
    .bind(id.get())
    .fetch_all(conn)
    .await?;
    let mut collaboration = None;
    let mut nodes: BTreeMap<OrganizationId, KnownNode> = BTreeMap::new();
    let ids = |row: &AnyRow, at: usize| -> Result<Vec<OrganizationId>> {
        Ok(rows::numbers(row.try_get(at)?)?.into_iter().map(OrganizationId::new).collect())
    };
    for row in &rows {
        let Some(organization) = row.try_get::<Option<i64>, _>(3)? else {
            let encrypted = row.try_get::<i64, _>(0)? != 0;
            collaboration = Some(KnownCollaboration { id, encrypted, members: ids(row, 1)?.into_iter().collect() });
            for organization in ids(row, 2)? {
                nodes.entry(organization).or_default();
            }
            continue;
        };
        let node = nodes.entry(OrganizationId::new(organization)).or_default();
        let (key, value): (String, String) = (row.try_get(4)?, row.try_get(5)?);
        match key.as_str() {
            "allowed_users" => node.allowed_users.push(value),
            _ => node.allowed_organizations.push(value),
        }
    }
    Ok((collaboration, nodes))
}

async fn study_fetch(conn: &mut AnyConnection, id: StudyId) -> Result<Option<KnownStudy>> {
    let row = sqlx::query("SELECT collaboration_id FROM study WHERE id = $1")
        .bind(id.get())
        .fetch_optional(&mut *conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let members = sqlx::query("SELECT organization_id FROM study_organization WHERE study_id = $1")
        .bind(id.get())
        .fetch_all(conn)
        .await?;
    let members = members.iter().map(|row| Ok(OrganizationId::new(row.try_get(0)?))).collect::<Result<_>>()?;
    Ok(Some(KnownStudy { id, collaboration_id: CollaborationId::new(row.try_get(0)?), members }))
}

/// By what right a task is opened.
#[derive(Debug)]
pub(crate) enum Opener {
    /// A user's.
    User(Permit<CreateTask>),
    /// A run's, for a subtask.
    Run(Permit<CreateSubtask>),
}

impl Opener {
    fn collaboration(&self) -> CollaborationId {
        match self {
            Self::User(permit) => permit.subject(),
            Self::Run(permit) => permit.subject(),
        }
    }
}

/// A key that a caller chose for a request.
#[derive(Debug)]
pub(crate) struct CallerKey {
    pub(crate) caller: String,
    pub(crate) key: String,
}

/// A task that may be opened.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) opener: Opener,
    pub(crate) task: OpenedTask,
    /// Under which it was asked for.
    pub(crate) key: Option<CallerKey>,
    pub(crate) at: Time,
}

/// Records tasks in this order, with their runs, databases and events. Each table is written for all of them together,
/// because everybody else waits meanwhile.
pub(crate) async fn task_insert_all(tx: &mut Tx, openings: Vec<Opening>) -> Result<Vec<TaskRecord>> {
    let jobs = job_insert_all(tx, &openings).await?;
    let placed: Vec<(&Opening, JobId)> = openings.iter().zip(jobs.iter().copied()).collect();
    let ids = row_insert_all(tx, &placed).await?;
    let placed: Vec<Placed<'_>> =
        placed.into_iter().zip(&ids).map(|((opening, job), id)| Placed { id: *id, job, opening }).collect();
    database_insert_all(tx, &placed).await?;
    let runs = run_insert_all(tx, &placed).await?;
    key_insert_all(tx, &placed).await?;
    let mut runs = runs.into_iter();
    let mut events = Vec::new();
    for place in &placed {
        let created = place.created();
        events.push(created);
        for ((organization, _), run) in place.opening.task.inputs.iter().zip(runs.by_ref()) {
            events.push(NewEvent {
                kind: EventKind::RunAssigned,
                organization_id: Some(*organization),
                run_id: Some(run),
                status: Some(RunState::NEW.status()),
                ..created
            });
        }
    }
    event_insert_all(tx, &events).await?;
    drop(placed);
    Ok(openings.into_iter().zip(ids).zip(jobs).map(|((opening, id), job)| record(opening, id, job)).collect())
}

/// A task whose row is there.
struct Placed<'a> {
    id: TaskId,
    job: JobId,
    opening: &'a Opening,
}

impl Placed<'_> {
    /// What tells that it was created.
    fn created(&self) -> NewEvent {
        let task = &self.opening.task;
        NewEvent {
            collaboration_id: Some(task.collaboration_id),
            organization_id: Some(task.init_org),
            task_id: Some(self.id),
            parent_id: task.parent.map(|(parent, _)| parent),
            job_id: Some(self.job),
            ..NewEvent::new(EventKind::TaskCreated, self.opening.at)
        }
    }
}

fn record(opening: Opening, id: TaskId, job_id: JobId) -> TaskRecord {
    let Opening { task, at, .. } = opening;
    TaskRecord {
        id,
        name: Some(task.name),
        description: task.description,
        image: task.image,
        collaboration_id: task.collaboration_id,
        study_id: task.study_id,
        job_id,
        parent_id: task.parent.map(|(parent, _)| parent),
        init_org: task.init_org,
        init_user: task.init_user,
        store_id: task.store_id,
        created_at: at,
        manifest: task.manifest,
        databases: task.databases,
        status: task_status(task.inputs.iter().map(|_| RunState::NEW.status())),
        finished_at: None,
    }
}

/// The job of each task: that of its parent, or a new one.
async fn job_insert_all(tx: &mut Tx, openings: &[Opening]) -> Result<Vec<JobId>> {
    let begun: Vec<Time> =
        openings.iter().filter(|opening| opening.task.parent.is_none()).map(|opening| opening.at).collect();
    let mut new = Vec::with_capacity(begun.len());
    for times in rows::chunks(&begun) {
        let before = "INSERT INTO job (created_at) VALUES ";
        let mut query = sqlx::query(rows::insert(tx.conn(), before, 1, times.len(), " RETURNING id"));
        for time in times {
            query = query.bind(time.micros());
        }
        for row in query.fetch_all(tx.conn()).await? {
            new.push(JobId::new(row.try_get(0)?));
        }
    }
    super::expect(new.len() as u64, begun.len())?;
    new.sort_unstable();
    let mut new = new.into_iter();
    Ok(openings.iter().filter_map(|opening| opening.task.parent.map(|(_, job)| job).or_else(|| new.next())).collect())
}

/// Records the tasks' own rows.
async fn row_insert_all(tx: &mut Tx, placed: &[(&Opening, JobId)]) -> Result<Vec<TaskId>> {
    let mut ids = Vec::with_capacity(placed.len());
    for placed in rows::chunks(placed) {
        let sql = rows::insert(
            tx.conn(),
            "INSERT INTO task (name, description, image, collaboration_id, study_id, job_id, parent_id, init_org_id, \
             init_user_id, algorithm_store_id, created_at, manifest, manifest_digest) VALUES ",
            13,
            placed.len(),
            " RETURNING id, job_id",
        );
        let mut query = sqlx::query(sql);
        for (Opening { opener, task, at, .. }, job) in placed {
            debug_assert_eq!(opener.collaboration(), task.collaboration_id, "the permit is for this collaboration");
            let manifest = task.manifest.as_ref().map(|manifest| {
                let json =
                    serde_json::to_string(manifest).expect("a manifest that came as JSON can be written as JSON");
                (json, manifest.digest().to_string())
            });
            let (manifest, digest) = manifest.unzip();
            query = query
                .bind(task.name.as_str())
                .bind(task.description.as_deref())
                .bind(task.image.as_str())
                .bind(task.collaboration_id.get())
                .bind(task.study_id.map(StudyId::get))
                .bind(job.get())
                .bind(task.parent.map(|(parent, _)| parent.get()))
                .bind(task.init_org.get())
                .bind(task.init_user.map(UserId::get))
                .bind(task.store_id.map(AlgorithmStoreId::get))
                .bind(at.micros())
                .bind(manifest)
                .bind(digest);
        }
        let rows = query.fetch_all(tx.conn()).await?;
        let numbers = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<Vec<_>>>()?;
        let numbers = rows::numbered(numbers, placed.iter().map(|(_, job)| job.get()))?;
        ids.extend(numbers.into_iter().map(TaskId::new));
    }
    Ok(ids)
}

async fn database_insert_all(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<()> {
    let databases: Vec<(TaskId, &TaskDatabase)> = placed
        .iter()
        .flat_map(|place| place.opening.task.databases.iter().map(|database| (place.id, database)))
        .collect();
    for databases in rows::chunks(&databases) {
        let before = "INSERT INTO task_database (task_id, label, parameters) VALUES ";
        let mut query = sqlx::query(rows::insert(tx.conn(), before, 3, databases.len(), ""));
        for (id, database) in databases {
            query = query.bind(id.get()).bind(database.label.as_str()).bind(database.parameters.as_str());
        }
        query.execute(tx.conn()).await?;
    }
    Ok(())
}

/// Records the runs of the tasks, of each in the order of its inputs.
async fn run_insert_all(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<Vec<RunId>> {
    let inputs: Vec<(&Placed<'_>, &(OrganizationId, String))> =
        placed.iter().flat_map(|place| place.opening.task.inputs.iter().map(move |input| (place, input))).collect();
    let mut runs = Vec::with_capacity(inputs.len());
    for inputs in rows::chunks(&inputs) {
        let sql = rows::insert(
            tx.conn(),
            "INSERT INTO run (task_id, organization_id, status, assigned_at, input, input_object) VALUES ",
            6,
            inputs.len(),
            " RETURNING id, task_id, organization_id",
        );
        let mut query = sqlx::query(sql);
        for (place, (organization, input)) in inputs {
            let Opening { task, at, .. } = place.opening;
            query = query
                .bind(place.id.get())
                .bind(organization.get())
                .bind(RunState::NEW.status().as_str())
                .bind(at.micros())
                .bind(input.as_str())
                .bind(task.kept.get(organization).map(|kept| kept.number));
        }
        let rows = query.fetch_all(tx.conn()).await?;
        let number = |row: &AnyRow| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)));
        let numbers = rows.iter().map(number).collect::<Result<Vec<_>>>()?;
        let given = inputs.iter().map(|(place, (organization, _))| (place.id.get(), organization.get()));
        runs.extend(rows::numbered(numbers, given)?.into_iter().map(RunId::new));
    }
    Ok(runs)
}

/// Remembers under which keys callers made the tasks.
async fn key_insert_all(tx: &mut Tx, placed: &[Placed<'_>]) -> Result<()> {
    let keys: Vec<_> = placed.iter().filter_map(|place| Some((place, place.opening.key.as_ref()?))).collect();
    for keys in rows::chunks(&keys) {
        let before = "INSERT INTO idempotency_key (caller, key, task_id, created_at) VALUES ";
        let mut query = sqlx::query(rows::insert(tx.conn(), before, 4, keys.len(), ""));
        for (place, CallerKey { caller, key }) in keys {
            query = query.bind(caller.as_str()).bind(key.as_str()).bind(place.id.get()).bind(place.opening.at.micros());
        }
        query.execute(tx.conn()).await?;
    }
    Ok(())
}
