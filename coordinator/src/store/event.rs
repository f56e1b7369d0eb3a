//! The event log: what happened, for whoever follows.

use twinmesh_protocol::id::{CollaborationId, EventSequence, JobId, NodeId, OrganizationId, RunId, TaskId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{Event, EventKind};

use std::collections::BTreeSet;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::bell::Bell;
use super::filter::{self, Filter};
use super::{Result, StoreError, Tx, expect, rows};

/// An event to be recorded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEvent {
    pub(crate) time: Time,
    pub(crate) kind: EventKind,
    pub(crate) collaboration_id: Option<CollaborationId>,
    pub(crate) organization_id: Option<OrganizationId>,
    pub(crate) node_id: Option<NodeId>,
    pub(crate) task_id: Option<TaskId>,
    pub(crate) parent_id: Option<TaskId>,
    pub(crate) job_id: Option<JobId>,
    pub(crate) run_id: Option<RunId>,
    pub(crate) status: Option<RunStatus>,
}

impl NewEvent {
    /// An event that concerns nothing yet.
    pub(crate) const fn new(kind: EventKind, time: Time) -> Self {
        Self {
            time,
            kind,
            collaboration_id: None,
            organization_id: None,
            node_id: None,
            task_id: None,
            parent_id: None,
            job_id: None,
            run_id: None,
            status: None,
        }
    }
}

/// Records an event in the transaction of the change it reports.
pub(crate) async fn event_insert(tx: &mut Tx, event: NewEvent) -> Result<()> {
    event_insert_all(tx, &[event]).await
}

/// Records events in the transaction of the change they report, in this order.
pub(crate) async fn event_insert_all(tx: &mut Tx, events: &[NewEvent]) -> Result<()> {
    tx.ring_on_commit(Bell::Event);
    for events in rows::chunks(events) {
        let sql = rows::insert(
            tx.conn(),
            "INSERT INTO event (time, kind, collaboration_id, organization_id, node_id, task_id, parent_id, job_id, \
             run_id, status) VALUES ",
            10,
            events.len(),
            "",
        );
        let mut query = sqlx::query(sql);
        for event in events {
            query = query
                .bind(event.time.micros())
                .bind(event.kind.as_str())
                .bind(event.collaboration_id.map(CollaborationId::get))
                .bind(event.organization_id.map(OrganizationId::get))
                .bind(event.node_id.map(NodeId::get))
                .bind(event.task_id.map(TaskId::get))
                .bind(event.parent_id.map(TaskId::get))
                .bind(event.job_id.map(JobId::get))
                .bind(event.run_id.map(RunId::get))
                .bind(event.status.map(RunStatus::as_str));
        }
        let done = query.execute(tx.conn()).await?;
        expect(done.rows_affected(), events.len())?;
    }
    Ok(())
}

/// The last event's place in the log; 0 before the first.
pub(crate) async fn event_last(conn: &mut AnyConnection) -> Result<EventSequence> {
    let row = sqlx::query("SELECT COALESCE(MAX(sequence), 0) FROM event").fetch_one(conn).await?;
    Ok(EventSequence::new(row.try_get(0)?))
}

/// The events after a place in the log, in order, at most `limit`.
pub(crate) async fn event_list(conn: &mut AnyConnection, after: EventSequence, limit: i64) -> Result<Vec<Event>> {
    let rows = sqlx::query(
        "SELECT sequence, time, kind, collaboration_id, organization_id, node_id, task_id, parent_id, job_id, run_id, \
         status FROM event WHERE sequence > $1 ORDER BY sequence LIMIT $2",
    )
    .bind(after.get())
    .bind(limit)
    .fetch_all(conn)
    .await?;
    rows.iter().map(read).collect()
}

/// Who takes part in a job: organizations that run one of its tasks, and those that made one.
pub(crate) async fn job_parties(conn: &mut AnyConnection, job: JobId) -> Result<JobParties> {
    let mut parties = JobParties::default();
    let tasks =
        sqlx::query("SELECT id, init_org_id FROM task WHERE job_id = $1").bind(job.get()).fetch_all(&mut *conn).await?;
    let mut ids = BTreeSet::new();
    for row in tasks {
        ids.insert(row.try_get::<i64, _>(0)?);
        parties.asking.insert(OrganizationId::new(row.try_get(1)?));
    }
    // By the tasks' numbers: a server that knows little of its tables yet would read all runs to join the two.
    let (columns, filter) = ("DISTINCT organization_id", Filter::default());
    for row in filter::all_in(conn, columns, "run", &filter, ("task_id", ids), "organization_id").await? {
        parties.running.insert(OrganizationId::new(row.try_get(0)?));
    }
    Ok(parties)
}

/// Who takes part in a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct JobParties {
    /// Who runs one of its tasks.
    pub(crate) running: BTreeSet<OrganizationId>,
    /// Who made one of its tasks.
    pub(crate) asking: BTreeSet<OrganizationId>,
}

fn read(row: &AnyRow) -> Result<Event> {
    let word: String = row.try_get(2)?;
    let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.as_str() == word) else {
        return Err(StoreError::Corrupt { value: word, expected: "a kind of event" });
    };
    let status: Option<String> = row.try_get(10)?;
    Ok(Event {
        sequence: EventSequence::new(row.try_get(0)?),
        time: Time::from_micros(row.try_get(1)?),
        kind,
        collaboration_id: row.try_get::<Option<i64>, _>(3)?.map(CollaborationId::new),
        organization_id: row.try_get::<Option<i64>, _>(4)?.map(OrganizationId::new),
        node_id: row.try_get::<Option<i64>, _>(5)?.map(NodeId::new),
        task_id: row.try_get::<Option<i64>, _>(6)?.map(TaskId::new),
        parent_id: row.try_get::<Option<i64>, _>(7)?.map(TaskId::new),
        job_id: row.try_get::<Option<i64>, _>(8)?.map(JobId::new),
        run_id: row.try_get::<Option<i64>, _>(9)?.map(RunId::new),
        status: status.map(|word| super::read_status(&word)).transpose()?,
    })
}

/// A node, as far as its comings and goings concern others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodePlace {
    pub(crate) id: NodeId,
    pub(crate) organization_id: OrganizationId,
    pub(crate) collaboration_id: CollaborationId,
}
