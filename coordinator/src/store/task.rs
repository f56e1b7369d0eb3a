//! The task's rows.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, JobId, OrganizationId, RunId, StudyId, TaskId, UserId};
use twinmesh_protocol::manifest::SignedManifest;
use twinmesh_protocol::status::{RunStatus, task_status};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::TaskDatabase;

use super::filter::{self, Filter, Value};
use super::page::PageRequest;
use super::read_status;
use super::run::task_tree;
use super::{Result, StoreError, Tx, expect_one};
use crate::authz::Permit;
use crate::authz::action::DeleteTask;

const COLUMNS: &str = "task.id, task.name, task.description, task.image, task.collaboration_id, task.study_id, \
                       task.job_id, task.parent_id, task.init_org_id, task.init_user_id, task.algorithm_store_id, \
                       task.created_at, task.manifest";

/// What a list of tasks can be sorted by.
pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "task.id"),
    ("name", "task.name"),
    ("description", "task.description"),
    ("image", "task.image"),
    ("collaboration_id", "task.collaboration_id"),
    ("study_id", "task.study_id"),
    ("job_id", "task.job_id"),
    ("parent_id", "task.parent_id"),
    ("init_org_id", "task.init_org_id"),
    ("init_user_id", "task.init_user_id"),
    ("created_at", "task.created_at"),
    ("algorithm_store_id", "task.algorithm_store_id"),
];

/// A task with what follows from its runs.
#[derive(Debug, Clone)]
pub(crate) struct TaskRecord {
    pub(crate) id: TaskId,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) image: String,
    pub(crate) collaboration_id: CollaborationId,
    pub(crate) study_id: Option<StudyId>,
    pub(crate) job_id: JobId,
    pub(crate) parent_id: Option<TaskId>,
    pub(crate) init_org: OrganizationId,
    pub(crate) init_user: Option<UserId>,
    pub(crate) store_id: Option<AlgorithmStoreId>,
    pub(crate) created_at: Time,
    pub(crate) manifest: Option<SignedManifest>,
    pub(crate) databases: Vec<TaskDatabase>,
    pub(crate) status: RunStatus,
    /// Null unless completed.
    pub(crate) finished_at: Option<Time>,
}

/// One task.
pub(crate) async fn task_fetch(conn: &mut AnyConnection, id: TaskId) -> Result<Option<TaskRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("task.id", Some(id.get()));
    Ok(task_all(conn, &filter).await?.pop())
}

/// The task that was made by a manifest.
pub(crate) async fn task_by_manifest(
    conn: &mut AnyConnection,
    manifest: &SignedManifest,
) -> Result<Option<TaskRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("task.manifest_digest", Some(manifest.digest().to_string()));
    Ok(task_all(conn, &filter).await?.pop())
}

/// The task that a caller made under a key of its own choice.
pub(crate) async fn task_by_key(conn: &mut AnyConnection, caller: &str, key: &str) -> Result<Option<TaskRecord>> {
    let row = sqlx::query("SELECT task_id FROM idempotency_key WHERE caller = $1 AND key = $2")
        .bind(caller)
        .bind(key)
        .fetch_optional(&mut *conn)
        .await?;
    match row {
        Some(row) => task_fetch(conn, TaskId::new(row.try_get(0)?)).await,
        None => Ok(None),
    }
}

/// One page of tasks, newest first, and how many there are.
pub(crate) async fn task_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<TaskRecord>, i64)> {
    let (rows, total) = filter::page(conn, COLUMNS, "task", filter, request, SORTABLE, "task.id DESC").await?;
    Ok((complete(conn, rows).await?, total))
}

/// Those of these tasks that the filter leaves.
pub(crate) async fn task_list(
    conn: &mut AnyConnection,
    filter: &Filter,
    ids: impl IntoIterator<Item = TaskId>,
) -> Result<Vec<TaskRecord>> {
    let ids = ("task.id", ids.into_iter().map(TaskId::get).collect());
    let rows = filter::all_in(conn, COLUMNS, "task", filter, ids, "task.id").await?;
    complete(conn, rows).await
}

/// Every task that the filter leaves.
pub(crate) async fn task_all(conn: &mut AnyConnection, filter: &Filter) -> Result<Vec<TaskRecord>> {
    let rows = filter::all(conn, COLUMNS, "task", filter, "task.id DESC").await?;
    complete(conn, rows).await
}

/// A task's status alone; `None` when there is no such task.
pub(crate) async fn task_status_fetch(conn: &mut AnyConnection, id: TaskId) -> Result<Option<RunStatus>> {
    let rows = sqlx::query("SELECT status FROM run WHERE task_id = $1").bind(id.get()).fetch_all(&mut *conn).await?;
    if rows.is_empty() {
        let known = sqlx::query("SELECT 1 FROM task WHERE id = $1").bind(id.get()).fetch_optional(conn).await?;
        return Ok(known.map(|_| RunStatus::Completed));
    }
    let statuses: Vec<RunStatus> = rows.iter().map(|row| read_status(row.try_get(0)?)).collect::<Result<_>>()?;
    Ok(Some(task_status(statuses)))
}

/// Leaves the tasks of a status: the rule of [`task_status`] in terms of their runs.
///
/// A task has the status of the first of its runs' statuses in the order failed, active, initializing, pending,
/// completed. Runs of the first four are few, whatever the history, and have an index of their own.
pub(crate) fn has_status(filter: &mut Filter, status: RunStatus) {
    let failures: Vec<RunStatus> = RunStatus::ALL.into_iter().filter(|known| known.is_failed()).collect();
    let before = |first: &[RunStatus]| [failures.as_slice(), first].concat();
    match status {
        RunStatus::Completed => {
            let sql = "NOT EXISTS (SELECT 1 FROM run r WHERE r.task_id = task.id AND r.status <> 'completed')";
            filter.and(sql, []);
        }
        RunStatus::Pending => {
            has_run(filter, status);
            has_no_run(filter, &before(&[RunStatus::Active, RunStatus::Initializing]));
        }
        RunStatus::Initializing => {
            has_run(filter, status);
            has_no_run(filter, &before(&[RunStatus::Active]));
        }
        RunStatus::Active => {
            has_run(filter, status);
            has_no_run(filter, &failures);
        }
        // Also of those that failed in several ways.
        RunStatus::Failed => {
            let (words, values) = word_list(&failures);
            let sql = format!(
                "task.id IN (SELECT r.task_id FROM run r WHERE r.status IN {words} AND r.status <> 'completed' \
                 GROUP BY r.task_id HAVING COUNT(DISTINCT r.status) > 1 OR MIN(r.status) = 'failed')"
            );
            filter.and_any(vec![(sql, values)]);
        }
        RunStatus::StartFailed
        | RunStatus::NonExistingImage
        | RunStatus::Crashed
        | RunStatus::Killed
        | RunStatus::NotAllowed
        | RunStatus::UnknownError => {
            has_run(filter, status);
            let others: Vec<RunStatus> = failures.into_iter().filter(|failure| *failure != status).collect();
            has_no_run(filter, &others);
        }
    }
}

/// Leaves the tasks with a run of a status other than completed.
fn has_run(filter: &mut Filter, status: RunStatus) {
    // The second condition is the index's own.
    let sql = "task.id IN (SELECT r.task_id FROM run r WHERE r.status = ? AND r.status <> 'completed')";
    filter.and(sql, [status.as_str().into()]);
}

/// Leaves the tasks without a run of any of these statuses.
fn has_no_run(filter: &mut Filter, statuses: &[RunStatus]) {
    let (words, values) = word_list(statuses);
    let sql = format!("NOT EXISTS (SELECT 1 FROM run r WHERE r.task_id = task.id AND r.status IN {words})");
    filter.and_any(vec![(sql, values)]);
}

/// `(?, …)` and what stands there.
fn word_list(statuses: &[RunStatus]) -> (String, Vec<Value>) {
    let words = vec!["?"; statuses.len()].join(", ");
    (format!("({words})"), statuses.iter().map(|status| status.as_str().into()).collect())
}

/// Removes a task and everything below it. What its nodes still run they are told to kill.
pub(crate) async fn task_remove(tx: &mut Tx, permit: Permit<DeleteTask>, now: Time) -> Result<()> {
    let tree = task_tree(tx.conn(), permit.subject()).await?;
    super::run::kill_tasks(tx, &tree, now).await?;
    // Children have larger ids than their parents.
    for id in tree.into_iter().rev() {
        let done = sqlx::query("DELETE FROM task WHERE id = $1").bind(id.get()).execute(tx.conn()).await?;
        expect_one(done.rows_affected())?;
    }
    Ok(())
}

/// The inputs of a task, in the order in which they were asked for.
pub(crate) async fn input_list(conn: &mut AnyConnection, task: TaskId) -> Result<Vec<(OrganizationId, String)>> {
    let rows = sqlx::query("SELECT organization_id, COALESCE(input, '') FROM run WHERE task_id = $1 ORDER BY id")
        .bind(task.get())
        .fetch_all(conn)
        .await?;
    rows.iter().map(|row| Ok((OrganizationId::new(row.try_get(0)?), row.try_get(1)?))).collect()
}

/// How many bytes the inputs of a task have, in the same order.
pub(crate) async fn input_lengths(conn: &mut AnyConnection, task: TaskId) -> Result<Vec<(OrganizationId, u64)>> {
    let sql = "SELECT organization_id, CAST(COALESCE(OCTET_LENGTH(input), 0) AS BIGINT) FROM run WHERE task_id = $1 \
               ORDER BY id";
    let rows = sqlx::query(sql).bind(task.get()).fetch_all(conn).await?;
    rows.iter()
        .map(|row| Ok((OrganizationId::new(row.try_get(0)?), row.try_get::<i64, _>(1)?.unsigned_abs())))
        .collect()
}

/// An organization's registered public key, as the interface has it.
pub(crate) async fn public_key_fetch(conn: &mut AnyConnection, id: OrganizationId) -> Result<Option<String>> {
    let row =
        sqlx::query("SELECT public_key FROM organization WHERE id = $1").bind(id.get()).fetch_optional(conn).await?;
    Ok(match row {
        Some(row) => row.try_get(0)?,
        None => None,
    })
}

/// Things a list of tasks can be narrowed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    User(UserId),
    Study(StudyId),
    Task(TaskId),
    Job(JobId),
    AlgorithmStore(AlgorithmStoreId),
    Run(RunId),
}

/// Whether there is such a thing.
pub(crate) async fn is_known(conn: &mut AnyConnection, thing: Known) -> Result<bool> {
    let (sql, id) = match thing {
        Known::User(id) => ("SELECT 1 FROM user_account WHERE id = $1", id.get()),
        Known::Study(id) => ("SELECT 1 FROM study WHERE id = $1", id.get()),
        Known::Task(id) => ("SELECT 1 FROM task WHERE id = $1", id.get()),
        Known::Job(id) => ("SELECT 1 FROM job WHERE id = $1", id.get()),
        Known::AlgorithmStore(id) => ("SELECT 1 FROM algorithm_store WHERE id = $1", id.get()),
        Known::Run(id) => ("SELECT 1 FROM run WHERE id = $1", id.get()),
    };
    Ok(sqlx::query(sql).bind(id).fetch_optional(conn).await?.is_some())
}

/// Adds to rows of tasks what stands in other tables, in two queries for all of them.
async fn complete(conn: &mut AnyConnection, rows: Vec<AnyRow>) -> Result<Vec<TaskRecord>> {
    let mut tasks = rows.iter().map(read).collect::<Result<Vec<_>>>()?;
    if tasks.is_empty() {
        return Ok(tasks);
    }
    let ids = || ("task_id", tasks.iter().map(|task| task.id.get()).collect());
    let filter = Filter::default();

    let rows = filter::all_in(conn, "task_id, status, finished_at", "run", &filter, ids(), "id").await?;
    let mut runs: BTreeMap<i64, (Vec<RunStatus>, Option<Time>)> = BTreeMap::new();
    for row in &rows {
        let (statuses, last) = runs.entry(row.try_get(0)?).or_default();
        statuses.push(read_status(row.try_get(1)?)?);
        *last = (*last).max(super::time(row.try_get(2)?));
    }

    let columns = "task_id, label, parameters";
    let rows = filter::all_in(conn, columns, "task_database", &filter, ids(), "id").await?;
    let mut databases: BTreeMap<i64, Vec<TaskDatabase>> = BTreeMap::new();
    for row in &rows {
        let database = TaskDatabase { label: row.try_get(1)?, parameters: row.try_get(2)? };
        databases.entry(row.try_get(0)?).or_default().push(database);
    }

    for task in &mut tasks {
        let (statuses, last) = runs.remove(&task.id.get()).unwrap_or_default();
        task.status = task_status(statuses);
        task.finished_at = if task.status == RunStatus::Completed { last } else { None };
        task.databases = databases.remove(&task.id.get()).unwrap_or_default();
    }
    Ok(tasks)
}

fn read(row: &AnyRow) -> Result<TaskRecord> {
    let manifest = match row.try_get::<Option<String>, _>(12)? {
        Some(json) => Some(
            serde_json::from_str(&json)
                .map_err(|error| StoreError::Corrupt { value: error.to_string(), expected: "a signed manifest" })?,
        ),
        None => None,
    };
    Ok(TaskRecord {
        id: TaskId::new(row.try_get(0)?),
        name: row.try_get(1)?,
        description: row.try_get(2)?,
        image: row.try_get(3)?,
        collaboration_id: CollaborationId::new(row.try_get(4)?),
        study_id: row.try_get::<Option<i64>, _>(5)?.map(StudyId::new),
        job_id: JobId::new(row.try_get(6)?),
        parent_id: row.try_get::<Option<i64>, _>(7)?.map(TaskId::new),
        init_org: OrganizationId::new(row.try_get(8)?),
        init_user: row.try_get::<Option<i64>, _>(9)?.map(UserId::new),
        store_id: row.try_get::<Option<i64>, _>(10)?.map(AlgorithmStoreId::new),
        created_at: Time::from_micros(row.try_get(11)?),
        manifest,
        databases: Vec::new(),
        status: RunStatus::Pending,
        finished_at: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing;

    #[tokio::test]
    async fn the_status_of_a_task_is_the_same_in_sql_as_in_the_protocol() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        let mut tx = store.write().await.unwrap();
        let mut tasks = Vec::new();
        sqlx::raw_sql(
            "INSERT INTO organization (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c'); \
             INSERT INTO collaboration (id, name, encrypted) VALUES (1, 'k', 0); \
             INSERT INTO job (id, created_at) VALUES (1, 0);",
        )
        .execute(tx.conn())
        .await
        .unwrap();
        for first in RunStatus::ALL {
            for second in RunStatus::ALL {
                for third in [RunStatus::Completed, RunStatus::Active, RunStatus::Crashed] {
                    let sql = "INSERT INTO task (image, collaboration_id, job_id, init_org_id, created_at) \
                               VALUES ('i', 1, 1, 1, 0) RETURNING id";
                    let id: i64 = sqlx::query(sql).fetch_one(tx.conn()).await.unwrap().try_get(0).unwrap();
                    for (organization, status) in [(1_i64, first), (2, second), (3, third)] {
                        let sql =
                            "INSERT INTO run (task_id, organization_id, status, assigned_at) VALUES ($1, $2, $3, 0)";
                        let query = sqlx::query(sql).bind(id).bind(organization).bind(status.as_str());
                        query.execute(tx.conn()).await.unwrap();
                    }
                    tasks.push((id, task_status([first, second, third])));
                }
            }
        }
        for status in RunStatus::ALL {
            let mut filter = Filter::default();
            has_status(&mut filter, status);
            let mut found: Vec<i64> =
                task_all(tx.conn(), &filter).await.unwrap().iter().map(|task| task.id.get()).collect();
            found.reverse();
            let expected: Vec<i64> = tasks.iter().filter(|(_, known)| *known == status).map(|(id, _)| *id).collect();
            assert_eq!(found, expected, "{status}");
        }
    }
}
