//! Removing what others depend on. Conditions are constants with one placeholder.

use sqlx::{AnyConnection, AssertSqlSafe, Row as _};
use twinmesh_protocol::id::{CollaborationId, JobId, OrganizationId, RunId, TaskId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::EventKind;

use super::event::{NewEvent, event_insert};
use super::{Result, Tx};

/// The words of those counts that are not zero.
pub(super) async fn dependents(
    conn: &mut AnyConnection,
    id: i64,
    counts: &[(&'static str, &'static str)],
) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for (word, sql) in counts {
        let count: i64 = sqlx::query(*sql).bind(id).fetch_one(&mut *conn).await?.try_get(0)?;
        if count > 0 {
            found.push(*word);
        }
    }
    Ok(found)
}

/// Removes tasks with all their subtasks, runs and results; nodes that work on them are told to stop.
pub(super) async fn tasks(tx: &mut Tx, condition: &'static str, id: i64, now: Time) -> Result<()> {
    let doomed = format!(
        "WITH RECURSIVE doomed (id) AS (SELECT id FROM task WHERE {condition} UNION \
         SELECT task.id FROM task JOIN doomed ON task.parent_id = doomed.id)"
    );
    let unfinished = format!(
        "{doomed} SELECT run.id, run.organization_id, task.id, task.parent_id, task.job_id, task.collaboration_id \
         FROM run JOIN task ON task.id = run.task_id WHERE run.finished_at IS NULL \
         AND task.id IN (SELECT id FROM doomed) ORDER BY run.id"
    );
    tell_to_stop(tx, unfinished, id, now).await?;
    let delete = format!("{doomed} DELETE FROM task WHERE id IN (SELECT id FROM doomed)");
    sqlx::query(AssertSqlSafe(delete)).bind(id).execute(tx.conn()).await?;
    Ok(())
}

/// Removes the runs at an organization.
pub(super) async fn runs(tx: &mut Tx, organization: i64, now: Time) -> Result<()> {
    let unfinished = "SELECT run.id, run.organization_id, task.id, task.parent_id, task.job_id, \
         task.collaboration_id FROM run JOIN task ON task.id = run.task_id \
         WHERE run.finished_at IS NULL AND run.organization_id = $1 ORDER BY run.id";
    tell_to_stop(tx, unfinished.into(), organization, now).await?;
    sqlx::query("DELETE FROM run WHERE organization_id = $1").bind(organization).execute(tx.conn()).await?;
    Ok(())
}

async fn tell_to_stop(tx: &mut Tx, unfinished: String, id: i64, now: Time) -> Result<()> {
    let rows = sqlx::query(AssertSqlSafe(unfinished)).bind(id).fetch_all(tx.conn()).await?;
    for row in rows {
        let event = NewEvent {
            run_id: Some(RunId::new(row.try_get(0)?)),
            organization_id: Some(OrganizationId::new(row.try_get(1)?)),
            task_id: Some(TaskId::new(row.try_get(2)?)),
            parent_id: row.try_get::<Option<i64>, _>(3)?.map(TaskId::new),
            job_id: Some(JobId::new(row.try_get(4)?)),
            collaboration_id: Some(CollaborationId::new(row.try_get(5)?)),
            ..NewEvent::new(EventKind::KillRequested, now)
        };
        event_insert(tx, event).await?;
    }
    Ok(())
}

/// Removes links to algorithm stores; tasks that these vouched for keep their image and lose the link, wherever they
/// are. How many there were.
pub(super) async fn algorithm_stores(tx: &mut Tx, condition: &'static str, id: i64) -> Result<u64> {
    let forget = format!(
        "UPDATE task SET algorithm_store_id = NULL \
         WHERE algorithm_store_id IN (SELECT id FROM algorithm_store WHERE {condition})"
    );
    sqlx::query(AssertSqlSafe(forget)).bind(id).execute(tx.conn()).await?;
    let delete = format!("DELETE FROM algorithm_store WHERE {condition}");
    Ok(sqlx::query(AssertSqlSafe(delete)).bind(id).execute(tx.conn()).await?.rows_affected())
}

/// Removes nodes; their tokens are void from then on.
pub(super) async fn nodes(tx: &mut Tx, condition: &'static str, id: i64) -> Result<()> {
    authenticatables(tx, "node", condition, id).await
}

/// Removes users, who must have no tasks left; their tokens are void from then on.
pub(super) async fn users(tx: &mut Tx, condition: &'static str, id: i64) -> Result<()> {
    authenticatables(tx, "user_account", condition, id).await
}

async fn authenticatables(tx: &mut Tx, table: &'static str, condition: &'static str, id: i64) -> Result<()> {
    let select = format!("SELECT id FROM {table} WHERE {condition}");
    let rows = sqlx::query(AssertSqlSafe(select)).bind(id).fetch_all(tx.conn()).await?;
    let delete = format!("DELETE FROM {table} WHERE {condition}");
    sqlx::query(AssertSqlSafe(delete)).bind(id).execute(tx.conn()).await?;
    for row in rows {
        let id: i64 = row.try_get(0)?;
        sqlx::query("DELETE FROM authenticatable WHERE id = $1").bind(id).execute(tx.conn()).await?;
    }
    Ok(())
}
