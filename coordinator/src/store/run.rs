//! The run's rows.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, JobId, NodeId, OrganizationId, PortId, RunId, TaskId, UserId};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{EventKind, NodeSummary, Port};

use super::event::{NewEvent, NodePlace, event_insert};
use super::filter::{self, Filter};
use super::page::PageRequest;
use super::{Result, Tx, expect_one, read_status};
use crate::authz::Permit;
use crate::authz::action::{KillNodeTasks, KillTask, ReportRun};
use crate::ledger;
use crate::ledger::kill::{KillStep, Victim};
use crate::ledger::open::KeptPayload;
use crate::ledger::run::{Fact, RunState};
use crate::ledger::siblings::{Sibling, fail_fast};

/// A run with its task and the node that works on it.
const FROM: &str = "run JOIN task ON task.id = run.task_id \
                    LEFT JOIN node ON node.organization_id = run.organization_id \
                    AND node.collaboration_id = task.collaboration_id \
                    LEFT JOIN authenticatable ON authenticatable.id = node.id";

/// The same with [`JOINED`] for a condition. Written so, SQLite begins with the runs, which a page needs in their order;
/// begun with tasks, all runs would be sorted for each page.
const PAGE_FROM: &str = "run CROSS JOIN task \
                         LEFT JOIN node ON node.organization_id = run.organization_id \
                         AND node.collaboration_id = task.collaboration_id \
                         LEFT JOIN authenticatable ON authenticatable.id = node.id";
/// What is enough to count runs, with the same condition.
const COUNT_FROM: &str = "run, task";
const JOINED: &str = "task.id = run.task_id";

const COLUMNS: &str = "run.id, run.task_id, run.organization_id, run.status, run.assigned_at, run.started_at, \
                       run.finished_at, run.cleanup_at, run.kill_requested_at, \
                       CAST(CASE WHEN run.input_object IS NULL THEN 0 ELSE 1 END AS BIGINT), run.input, run.log, node.id, node.name, authenticatable.ip, authenticatable.status";

const RESULT_COLUMNS: &str = "run.id, run.task_id, run.result, run.cleanup_at, \
                              CAST(CASE WHEN run.result_object IS NULL THEN 0 ELSE 1 END AS BIGINT)";

const VICTIM_COLUMNS: &str = "run.id, run.status, run.started_at, run.finished_at, run.kill_requested_at, \
                              authenticatable.status";

/// What a list of runs or results can be sorted by.
pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "run.id"),
    ("task_id", "run.task_id"),
    ("organization_id", "run.organization_id"),
    ("status", "run.status"),
    ("assigned_at", "run.assigned_at"),
    ("started_at", "run.started_at"),
    ("finished_at", "run.finished_at"),
    ("cleanup_at", "run.cleanup_at"),
    ("blob_storage_used", "run.blob_storage_used"),
];

/// The condition that a run has not ended.
pub(crate) const IS_OPEN: &str = "run.status IN ('pending', 'initializing', 'active')";

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct RunRecord {
    pub(crate) id: RunId,
    pub(crate) task_id: TaskId,
    pub(crate) organization_id: OrganizationId,
    pub(crate) state: RunState,
    pub(crate) assigned_at: Time,
    pub(crate) cleanup_at: Option<Time>,
    pub(crate) blob_storage_used: bool,
    pub(crate) input: Option<String>,
    pub(crate) log: Option<String>,
    pub(crate) node: Option<NodeSummary>,
    pub(crate) ports: Vec<Port>,
}

/// The result of a run.
#[derive(Debug, Clone)]
pub(crate) struct ResultRecord {
    pub(crate) id: RunId,
    pub(crate) task_id: TaskId,
    pub(crate) result: Option<String>,
    pub(crate) cleanup_at: Option<Time>,
    pub(crate) blob_storage_used: bool,
}

/// What decisions about a run need to know of it: where it belongs, without its payloads.
#[derive(Debug, Clone)]
pub(crate) struct RunPlace {
    pub(crate) id: RunId,
    pub(crate) state: RunState,
    pub(crate) assigned_at: Time,
    pub(crate) organization_id: OrganizationId,
    pub(crate) node_id: Option<NodeId>,
    pub(crate) task_id: TaskId,
    pub(crate) collaboration_id: CollaborationId,
    pub(crate) encrypted: bool,
    pub(crate) parent_id: Option<TaskId>,
    pub(crate) job_id: JobId,
    pub(crate) init_org: OrganizationId,
    pub(crate) init_user: Option<UserId>,
}

impl RunPlace {
    /// An event about this run.
    pub(crate) fn event(&self, kind: EventKind, now: Time) -> NewEvent {
        NewEvent {
            collaboration_id: Some(self.collaboration_id),
            organization_id: Some(self.organization_id),
            node_id: self.node_id,
            task_id: Some(self.task_id),
            parent_id: self.parent_id,
            job_id: Some(self.job_id),
            run_id: Some(self.id),
            ..NewEvent::new(kind, now)
        }
    }
}

/// One run.
pub(crate) async fn run_fetch(conn: &mut AnyConnection, id: RunId) -> Result<Option<RunRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("run.id", Some(id.get()));
    let rows = filter::all(conn, COLUMNS, FROM, &filter, "run.id DESC").await?;
    Ok(complete(conn, rows).await?.pop())
}

/// One page of runs, newest first, and how many there are.
pub(crate) async fn run_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<RunRecord>, i64)> {
    let (rows, total) = page(conn, COLUMNS, filter, request).await?;
    Ok((complete(conn, rows).await?, total))
}

/// The runs of these tasks, the newest of each task first.
pub(crate) async fn run_list(
    conn: &mut AnyConnection,
    tasks: impl IntoIterator<Item = TaskId>,
) -> Result<Vec<RunRecord>> {
    let tasks = ("run.task_id", tasks.into_iter().map(TaskId::get).collect());
    let rows = filter::all_in(conn, COLUMNS, FROM, &Filter::default(), tasks, "run.id DESC").await?;
    complete(conn, rows).await
}

/// The result of one run.
pub(crate) async fn result_fetch(conn: &mut AnyConnection, id: RunId) -> Result<Option<ResultRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("run.id", Some(id.get()));
    let rows = filter::all(conn, RESULT_COLUMNS, FROM, &filter, "run.id DESC").await?;
    rows.first().map(read_result).transpose()
}

/// One page of results, newest first, and how many there are.
pub(crate) async fn result_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<ResultRecord>, i64)> {
    let (rows, total) = page(conn, RESULT_COLUMNS, filter, request).await?;
    Ok((rows.iter().map(read_result).collect::<Result<_>>()?, total))
}

async fn page(
    conn: &mut AnyConnection,
    columns: &'static str,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<AnyRow>, i64)> {
    let mut filter = filter.clone();
    filter.and(JOINED, []);
    let count_from = if filter.mentions("node") { PAGE_FROM } else { COUNT_FROM };
    filter::page_counted(conn, columns, [PAGE_FROM, count_from], &filter, request, SORTABLE, "run.id DESC").await
}

/// The results of these tasks, the newest of each task first.
pub(crate) async fn result_list(
    conn: &mut AnyConnection,
    tasks: impl IntoIterator<Item = TaskId>,
) -> Result<Vec<ResultRecord>> {
    let tasks = ("run.task_id", tasks.into_iter().map(TaskId::get).collect());
    let rows = filter::all_in(conn, RESULT_COLUMNS, FROM, &Filter::default(), tasks, "run.id DESC").await?;
    rows.iter().map(read_result).collect()
}

/// Where a run belongs.
pub(crate) async fn run_place(conn: &mut AnyConnection, id: RunId) -> Result<Option<RunPlace>> {
    let row = sqlx::query(
        "SELECT run.id, run.status, run.started_at, run.finished_at, run.kill_requested_at, run.organization_id, \
         node.id, task.id, task.collaboration_id, collaboration.encrypted, task.parent_id, task.job_id, \
         task.init_org_id, task.init_user_id, run.assigned_at \
         FROM run JOIN task ON task.id = run.task_id JOIN collaboration ON collaboration.id = task.collaboration_id \
         LEFT JOIN node ON node.organization_id = run.organization_id \
         AND node.collaboration_id = task.collaboration_id WHERE run.id = $1",
    )
    .bind(id.get())
    .fetch_optional(conn)
    .await?;
    row.as_ref().map(read_place).transpose()
}

/// The run of a task at an organization.
pub(crate) async fn run_of(
    conn: &mut AnyConnection,
    task: TaskId,
    organization: OrganizationId,
) -> Result<Option<RunId>> {
    let row = sqlx::query("SELECT id FROM run WHERE task_id = $1 AND organization_id = $2")
        .bind(task.get())
        .bind(organization.get())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Ok(RunId::new(row.try_get(0)?))).transpose()
}

/// The runs of a task.
async fn siblings(conn: &mut AnyConnection, task: TaskId) -> Result<Vec<Sibling>> {
    let rows = sqlx::query(
        "SELECT id, status, started_at, finished_at, kill_requested_at FROM run WHERE task_id = $1 ORDER BY id",
    )
    .bind(task.get())
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(Sibling { id: RunId::new(row.try_get(0)?), state: read_state(row, 1)? })).collect()
}

/// The open runs of these tasks, and whether their nodes are there to be asked.
async fn victims(conn: &mut AnyConnection, tasks: impl IntoIterator<Item = TaskId>) -> Result<Vec<Victim>> {
    let mut filter = Filter::default();
    filter.and(IS_OPEN, []);
    let tasks = ("run.task_id", tasks.into_iter().map(TaskId::get).collect());
    read_victims(&filter::all_in(conn, VICTIM_COLUMNS, FROM, &filter, tasks, "run.id").await?)
}

/// The open runs at a node.
async fn victims_at(conn: &mut AnyConnection, node: NodeId) -> Result<Vec<Victim>> {
    let mut filter = Filter::default();
    filter.and_equal("node.id", Some(node.get()));
    filter.and(IS_OPEN, []);
    read_victims(&filter::all(conn, VICTIM_COLUMNS, FROM, &filter, "run.id").await?)
}

fn read_victims(rows: &[AnyRow]) -> Result<Vec<Victim>> {
    rows.iter()
        .map(|row| {
            let status: Option<String> = row.try_get(5)?;
            Ok(Victim {
                id: RunId::new(row.try_get(0)?),
                state: read_state(row, 1)?,
                node_online: status.as_deref() == Some("online"),
            })
        })
        .collect()
}

/// What a run is changed to; payloads that are not given stay as they are.
#[derive(Debug)]
pub(crate) struct RunChange<'a> {
    pub(crate) state: RunState,
    pub(crate) result: Option<&'a str>,
    /// Where the result is, if it is kept outside of the rows.
    pub(crate) kept: Option<KeptPayload>,
    pub(crate) log: Option<&'a str>,
}

/// Writes what a node reported of its run, and what follows for the task's other runs.
pub(crate) async fn run_report(
    tx: &mut Tx,
    permit: Permit<ReportRun>,
    place: &RunPlace,
    change: RunChange<'_>,
    now: Time,
) -> Result<()> {
    debug_assert_eq!(permit.subject(), place.id, "the permit is for this run");
    let state = change.state;
    run_update(tx, place, change, now).await?;
    follow_up(tx, place, state, now).await
}

/// What follows for others from what became of a run: `place` tells where it stood before.
async fn follow_up(tx: &mut Tx, place: &RunPlace, state: RunState, now: Time) -> Result<()> {
    if state.is_finished() && (state.status() == RunStatus::Killed || place.state.kill_requested()) {
        kill_made(tx, place, now).await?;
    }
    fail_siblings(tx, place, state.status(), now).await
}

/// Ends what nobody took up of a task of which a run failed.
async fn fail_siblings(tx: &mut Tx, place: &RunPlace, status: RunStatus, now: Time) -> Result<()> {
    if !status.is_failed() {
        return Ok(());
    }
    let siblings = siblings(tx.conn(), place.task_id).await?;
    for end in fail_fast(place.id, place.organization_id, status, &siblings, now) {
        if let Some(place) = run_place(tx.conn(), end.id).await? {
            let change = RunChange { state: end.state, result: None, kept: None, log: Some(&end.log) };
            run_update(tx, &place, change, now).await?;
        }
    }
    Ok(())
}

/// Ends the open runs of a task and of everything below it; how many there were.
pub(crate) async fn kill_task(tx: &mut Tx, permit: Permit<KillTask>, now: Time) -> Result<usize> {
    let tree = task_tree(tx.conn(), permit.subject()).await?;
    kill_tasks(tx, &tree, now).await
}

/// Ends the open runs at a node; how many there were.
pub(crate) async fn kill_node_tasks(tx: &mut Tx, permit: Permit<KillNodeTasks>, now: Time) -> Result<usize> {
    let victims = victims_at(tx.conn(), permit.subject()).await?;
    let steps = kill(tx, &victims, now).await?;
    // Of the others their node says when they have ended.
    for step in steps.iter().filter(|step| step.state.is_finished()) {
        if let Some(place) = run_place(tx.conn(), step.id).await? {
            kill_made(tx, &place, now).await?;
        }
    }
    Ok(steps.len())
}

/// Why a node will not report on its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// It is about to be removed.
    Deleted,
    /// Its organization takes no part any more.
    Left,
}

impl Gone {
    /// What stands in the log of a run at an organization's node.
    fn log(self, organization: OrganizationId) -> String {
        match self {
            Self::Deleted => format!("The node of organization {organization} was deleted before this run ended."),
            Self::Left => format!("Organization {organization} left the collaboration before this run ended."),
        }
    }
}

/// Ends the open runs at a node that will not report on them: nobody else would. How many there were.
pub(super) async fn fail_node_runs(tx: &mut Tx, node: NodeId, gone: Gone, now: Time) -> Result<usize> {
    let victims = victims_at(tx.conn(), node).await?;
    let mut ended = 0;
    for victim in &victims {
        // An earlier one may have ended this as its sibling.
        let Some(place) = run_place(tx.conn(), victim.id).await?.filter(|place| !place.state.is_finished()) else {
            continue;
        };
        let state = place.state.apply(Fact::NodeRemoved, now).unwrap_or(place.state);
        event_insert(tx, place.event(EventKind::KillRequested, now)).await?;
        let log = gone.log(place.organization_id);
        run_update(tx, &place, RunChange { state, result: None, kept: None, log: Some(&log) }, now).await?;
        follow_up(tx, &place, state, now).await?;
        ended += 1;
    }
    Ok(ended)
}

/// Ends the open runs of these tasks; how many there were.
pub(super) async fn kill_tasks(tx: &mut Tx, tasks: &[TaskId], now: Time) -> Result<usize> {
    let victims = victims(tx.conn(), tasks.iter().copied()).await?;
    Ok(kill(tx, &victims, now).await?.len())
}

/// Ends what a run that was killed has made, and everything below: nobody waits for it. What is being killed already
/// has been told.
async fn kill_made(tx: &mut Tx, place: &RunPlace, now: Time) -> Result<()> {
    let made = made_tree(tx.conn(), place).await?;
    let mut victims = victims(tx.conn(), made).await?;
    victims.retain(|victim| !victim.state.kill_requested());
    kill(tx, &victims, now).await?;
    Ok(())
}

async fn kill(tx: &mut Tx, victims: &[Victim], now: Time) -> Result<Vec<KillStep>> {
    let steps = ledger::kill::kill(victims, now);
    for step in &steps {
        let Some(place) = run_place(tx.conn(), step.id).await? else { continue };
        // The node hears of it in any case: it may have taken up what it has not reported yet.
        event_insert(tx, place.event(EventKind::KillRequested, now)).await?;
        let change = RunChange { state: step.state, result: None, kept: None, log: None };
        run_update(tx, &place, change, now).await?;
    }
    Ok(steps)
}

/// Where a node belongs.
pub(crate) async fn node_place(conn: &mut AnyConnection, id: NodeId) -> Result<Option<NodePlace>> {
    let row = sqlx::query("SELECT organization_id, collaboration_id FROM node WHERE id = $1")
        .bind(id.get())
        .fetch_optional(conn)
        .await?;
    row.map(|row| {
        Ok(NodePlace {
            id,
            organization_id: OrganizationId::new(row.try_get(0)?),
            collaboration_id: CollaborationId::new(row.try_get(1)?),
        })
    })
    .transpose()
}

/// A task and everything below it, parents before children.
pub(crate) async fn task_tree(conn: &mut AnyConnection, id: TaskId) -> Result<Vec<TaskId>> {
    let rows = sqlx::query(
        "WITH RECURSIVE tree (id) AS (SELECT id FROM task WHERE id = $1 UNION \
         SELECT task.id FROM task JOIN tree ON task.parent_id = tree.id) SELECT id FROM tree ORDER BY id",
    )
    .bind(id.get())
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(TaskId::new(row.try_get(0)?))).collect()
}

/// The tasks that a run made and everything below them, parents before children.
async fn made_tree(conn: &mut AnyConnection, place: &RunPlace) -> Result<Vec<TaskId>> {
    let rows = sqlx::query(
        "WITH RECURSIVE tree (id) AS (SELECT id FROM task WHERE parent_id = $1 AND init_org_id = $2 UNION \
         SELECT task.id FROM task JOIN tree ON task.parent_id = tree.id) SELECT id FROM tree ORDER BY id",
    )
    .bind(place.task_id.get())
    .bind(place.organization_id.get())
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(TaskId::new(row.try_get(0)?))).collect()
}

/// Takes a run's ports back.
pub(super) async fn ports_clear(tx: &mut Tx, run: RunId) -> Result<()> {
    sqlx::query("DELETE FROM algorithm_port WHERE run_id = $1").bind(run.get()).execute(tx.conn()).await?;
    Ok(())
}

/// Writes a run's state, with the event of it if the status changed. A run that ended has no ports any more.
async fn run_update(tx: &mut Tx, place: &RunPlace, change: RunChange<'_>, now: Time) -> Result<()> {
    let RunChange { state, result, kept, log } = change;
    let done = sqlx::query(
        "UPDATE run SET status = $1, started_at = $2, finished_at = $3, result = COALESCE($4, result), \
         result_object = CASE WHEN $9 = 1 THEN $10 ELSE result_object END, log = COALESCE($5, log), \
         kill_requested_at = CASE WHEN $6 = 1 THEN COALESCE(kill_requested_at, $7) ELSE kill_requested_at END \
         WHERE id = $8",
    )
    .bind(state.status().as_str())
    .bind(state.started_at().map(Time::micros))
    .bind(state.finished_at().map(Time::micros))
    .bind(result)
    .bind(log)
    .bind(i64::from(state.kill_requested()))
    .bind(now.micros())
    .bind(place.id.get())
    .bind(i64::from(result.is_some()))
    .bind(kept.map(|kept| kept.number))
    .execute(tx.conn())
    .await?;
    expect_one(done.rows_affected())?;
    if state.is_finished() {
        ports_clear(tx, place.id).await?;
    }
    if state.status() != place.state.status() {
        let event = NewEvent { status: Some(state.status()), ..place.event(EventKind::RunStatus, now) };
        event_insert(tx, event).await?;
    }
    Ok(())
}

/// Reads status, start, end and wish to kill from four columns in a row.
fn read_state(row: &AnyRow, at: usize) -> Result<RunState> {
    let word: String = row.try_get(at)?;
    let killed_at: Option<i64> = row.try_get(at + 3)?;
    Ok(RunState::restore(
        read_status(&word)?,
        super::time(row.try_get(at + 1)?),
        super::time(row.try_get(at + 2)?),
        killed_at.is_some(),
    ))
}

fn read_place(row: &AnyRow) -> Result<RunPlace> {
    Ok(RunPlace {
        id: RunId::new(row.try_get(0)?),
        state: read_state(row, 1)?,
        assigned_at: Time::from_micros(row.try_get(14)?),
        organization_id: OrganizationId::new(row.try_get(5)?),
        node_id: row.try_get::<Option<i64>, _>(6)?.map(NodeId::new),
        task_id: TaskId::new(row.try_get(7)?),
        collaboration_id: CollaborationId::new(row.try_get(8)?),
        encrypted: row.try_get::<i64, _>(9)? != 0,
        parent_id: row.try_get::<Option<i64>, _>(10)?.map(TaskId::new),
        job_id: JobId::new(row.try_get(11)?),
        init_org: OrganizationId::new(row.try_get(12)?),
        init_user: row.try_get::<Option<i64>, _>(13)?.map(UserId::new),
    })
}

/// Adds the ports to rows of runs, in one query for all of them.
async fn complete(conn: &mut AnyConnection, rows: Vec<AnyRow>) -> Result<Vec<RunRecord>> {
    let mut runs = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
    let open: BTreeSet<i64> = runs.iter().filter(|run| !run.state.is_finished()).map(|run| run.id.get()).collect();
    if open.is_empty() {
        return Ok(runs);
    }
    let (columns, filter) = ("run_id, id, port, label", Filter::default());
    let rows = filter::all_in(conn, columns, "algorithm_port", &filter, ("run_id", open), "id").await?;
    let mut ports: BTreeMap<i64, Vec<Port>> = BTreeMap::new();
    for row in &rows {
        ports.entry(row.try_get(0)?).or_default().push(read_port(row)?);
    }
    for run in &mut runs {
        run.ports = ports.remove(&run.id.get()).unwrap_or_default();
    }
    Ok(runs)
}

fn read_port(row: &AnyRow) -> Result<Port> {
    let port: i64 = row.try_get(2)?;
    Ok(Port { id: PortId::new(row.try_get(1)?), port: super::port_number(port)?, label: row.try_get(3)? })
}

fn read(row: &AnyRow) -> Result<RunRecord> {
    let node = match row.try_get::<Option<i64>, _>(12)? {
        Some(id) => Some(NodeSummary {
            id: NodeId::new(id),
            name: row.try_get(13)?,
            ip: row.try_get(14)?,
            status: row.try_get(15)?,
        }),
        None => None,
    };
    let word: String = row.try_get(3)?;
    let killed_at: Option<i64> = row.try_get(8)?;
    Ok(RunRecord {
        id: RunId::new(row.try_get(0)?),
        task_id: TaskId::new(row.try_get(1)?),
        organization_id: OrganizationId::new(row.try_get(2)?),
        state: RunState::restore(
            read_status(&word)?,
            super::time(row.try_get(5)?),
            super::time(row.try_get(6)?),
            killed_at.is_some(),
        ),
        assigned_at: Time::from_micros(row.try_get(4)?),
        cleanup_at: super::time(row.try_get(7)?),
        blob_storage_used: row.try_get::<i64, _>(9)? != 0,
        input: row.try_get(10)?,
        log: row.try_get(11)?,
        node,
        ports: Vec::new(),
    })
}

fn read_result(row: &AnyRow) -> Result<ResultRecord> {
    Ok(ResultRecord {
        id: RunId::new(row.try_get(0)?),
        task_id: TaskId::new(row.try_get(1)?),
        result: row.try_get(2)?,
        cleanup_at: super::time(row.try_get(3)?),
        blob_storage_used: row.try_get::<i64, _>(4)? != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    #[tokio::test]
    async fn what_a_job_of_very_many_tasks_still_runs_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        let mut tx = store.write().await.unwrap();
        sqlx::raw_sql(
            "INSERT INTO organization (id, name) VALUES (1, 'a'); \
             INSERT INTO collaboration (id, name, encrypted) VALUES (1, 'k', 0); \
             INSERT INTO job (id, created_at) VALUES (1, 0); \
             INSERT INTO task (id, image, collaboration_id, job_id, init_org_id, created_at) VALUES \
             (1, 'i', 1, 1, 1, 0), (70000, 'i', 1, 1, 1, 0); \
             INSERT INTO run (task_id, organization_id, status, assigned_at) VALUES \
             (1, 1, 'pending', 0), (70000, 1, 'pending', 0);",
        )
        .execute(tx.conn())
        .await
        .unwrap();
        let tasks: Vec<TaskId> = (1..=70_000).map(TaskId::new).collect();
        assert_eq!(kill_tasks(&mut tx, &tasks, Time::from_micros(1)).await.unwrap(), 2);
        assert_eq!(kill_tasks(&mut tx, &tasks, Time::from_micros(2)).await.unwrap(), 0);
        assert_eq!(run_list(tx.conn(), tasks).await.unwrap().len(), 2);
    }
}
