//! What the node must not forget: which runs it accepted, how far each is, and what has not been delivered yet.
//!
//! A SQLite database that is written before the effect that it records, with a sync at each commit. So a restarted node
//! re-attaches to what still runs, delivers what is spooled, and starts nothing twice.

mod record;
mod subtask;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::FlockOperation;
use sqlx::{
    Row as _, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous},
};
use twinmesh_protocol::{
    address::FIRST_EXTERNAL_PORT,
    digest::Digest,
    id::{JobId, RunId, TaskId},
    time::Time,
    wire::RunPatch,
};

pub use record::{Accepted, Details, PortRecord, Record, Seed, Stage};
pub use subtask::{ContentKey, MAX_SUBTASKS, Made, Subtask, SubtaskClaim};

use crate::config::AlgorithmPort;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS run (
    run_id INTEGER PRIMARY KEY,
    task_id INTEGER NOT NULL,
    job_id INTEGER NOT NULL,
    parent_id INTEGER,
    seed BLOB NOT NULL,
    details TEXT NOT NULL,
    accepted_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    token_digest TEXT NOT NULL,
    patch TEXT,
    finished_at INTEGER,
    delivered_at INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS port (
    external INTEGER PRIMARY KEY,
    run_id INTEGER NOT NULL REFERENCES run(run_id) ON DELETE CASCADE,
    internal INTEGER NOT NULL,
    label TEXT
) STRICT;
CREATE INDEX IF NOT EXISTS port_run ON port(run_id);
CREATE TABLE IF NOT EXISTS manifest (
    digest TEXT PRIMARY KEY,
    run_id INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS listener (
    run_id INTEGER NOT NULL REFERENCES run(run_id) ON DELETE CASCADE,
    ip INTEGER NOT NULL,
    port INTEGER NOT NULL,
    PRIMARY KEY (run_id, ip, port)
) STRICT;
CREATE TABLE IF NOT EXISTS subtask (
    run_id INTEGER NOT NULL REFERENCES run(run_id) ON DELETE CASCADE,
    content TEXT NOT NULL,
    occurrence INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    answered INTEGER NOT NULL,
    task_id INTEGER UNIQUE,
    manifest TEXT,
    request TEXT,
    PRIMARY KEY (run_id, content, occurrence)
) STRICT;
";

/// The size of a page of the database in bytes: SQLite's default, on which the size limit counts.
const PAGE_BYTES: u64 = 4096;

/// How long a statement waits for another one. Only this process writes, so this is never reached.
const BUSY: Duration = Duration::from_secs(10);

/// Why the journal could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(
        "cannot open the journal `{path}`: if the file is damaged, move it away; runs that are open then start anew"
    )]
    Open { path: Utf8PathBuf, source: sqlx::Error },
    #[error("cannot use the state directory `{path}`")]
    Directory { path: Utf8PathBuf, source: io::Error },
    #[error("another node uses the state directory `{path}`: give each node its own")]
    InUse { path: Utf8PathBuf },
    /// There is no room; nothing was written.
    #[error("the node's disk is full: the journal cannot be written. Free some space under its state directory")]
    Full,
    /// The manifest was accepted before, and this is no further attempt at the run that it was accepted for.
    #[error("the manifest was accepted before, as run {run_id}")]
    Replayed { run_id: RunId },
    #[error("the run has made {MAX_SUBTASKS} subtasks, more than which none may make")]
    Subtasks,
    #[error("no external port is free: {used} are in use")]
    NoPort { used: usize },
    #[error("the journal has no run {0}")]
    Unknown(RunId),
    #[error("the journal's entry of run {run_id} cannot be read: {problem}")]
    Entry { run_id: i64, problem: String },
    #[error("the journal cannot be read or written")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for JournalError {
    fn from(error: sqlx::Error) -> Self {
        /// SQLITE_FULL, and the write errors that a quota or a full disk causes (SQLITE_IOERR_WRITE, _FSYNC, _TRUNCATE, _SHMSIZE).
        const FULL: [&str; 5] = ["13", "778", "1034", "1546", "4874"];
        match &error {
            sqlx::Error::Database(database) if database.code().is_some_and(|code| FULL.contains(&code.as_ref())) => {
                Self::Full
            }
            _ => Self::Database(error),
        }
    }
}

/// What is to be recorded when a run is accepted.
#[derive(Debug, Clone)]
pub struct Acceptance {
    pub run_id: RunId,
    pub task_id: TaskId,
    pub job_id: JobId,
    pub parent_id: Option<TaskId>,
    pub details: Details,
    /// The manifest's digest and the end of its life in seconds since 1970.
    pub manifest: Option<(Digest, i64)>,
    pub ports: Vec<AlgorithmPort>,
    /// The digest of the token with which the run will come to the gateway.
    pub token_digest: Digest,
}

/// The node's memory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal {
    pool: SqlitePool,
    /// Held as long as the journal is; the kernel frees it when the process dies.
    lock: std::sync::Arc<std::fs::File>,
}

impl Journal {
    /// Opens the journal in the node's state directory, making it if need be.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used or another node uses it, or the file is no journal.
    pub async fn open(directory: &Utf8Path, max_bytes: Option<u64>) -> Result<Self, JournalError> {
        let unusable = |source| JournalError::Directory { path: directory.to_owned(), source };
        make_private_directory(directory).map_err(unusable)?;
        let lock = std::fs::File::create(directory.join("node.lock")).map_err(unusable)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| JournalError::InUse { path: directory.to_owned() })?;
        let path = directory.join("journal.sqlite");
        let failed = |source| JournalError::Open { path: path.clone(), source };
        let mut options = SqliteConnectOptions::new()
            .filename(path.as_std_path())
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY);
        if let Some(bytes) = max_bytes {
            options = options.pragma("max_page_count", (bytes / PAGE_BYTES).max(1).to_string());
        }
        // One connection: writes are then in the order in which they were asked for, and none meets a busy database.
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.map_err(failed)?;
        sqlx::raw_sql(SCHEMA).execute(&pool).await.map_err(failed)?;
        Ok(Self { pool, lock: std::sync::Arc::new(lock) })
    }

    /// Writes what is open to the main file, closes it, and lets another node use the state directory. Whoever still has the
    /// journal gets errors from then on.
    pub async fn close(&self) {
        self.pool.close().await;
        if let Err(error) = rustix::fs::flock(&*self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "the state directory stays locked until this process ends");
        }
    }

    /// Records that a run is accepted and that its next attempt starts: one commit. Returns the record as it is then.
    ///
    /// A run that is recorded keeps its seed and its ports.
    ///
    /// # Errors
    ///
    /// [`JournalError::Replayed`] when its manifest was accepted for another run, or for this one, which has been delivered
    /// and forgotten since; [`JournalError::Full`].
    pub async fn run_begin(&self, new: &Acceptance, attempt: u32, now: Time) -> Result<Record, JournalError> {
        let mut transaction = self.pool.begin().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT attempts FROM run WHERE run_id = ?")
            .bind(new.run_id.get())
            .fetch_optional(&mut *transaction)
            .await?;
        if let Some((digest, not_after)) = new.manifest {
            let owner: Option<i64> = sqlx::query_scalar("SELECT run_id FROM manifest WHERE digest = ?")
                .bind(digest.to_string())
                .fetch_optional(&mut *transaction)
                .await?;
            match owner {
                None => {
                    sqlx::query("INSERT INTO manifest (digest, run_id, not_after) VALUES (?, ?, ?)")
                        .bind(digest.to_string())
                        .bind(new.run_id.get())
                        .bind(not_after)
                        .execute(&mut *transaction)
                        .await?;
                }
                // Another attempt at a run that goes on.
                Some(owner) if owner == new.run_id.get() && known.is_some() => {}
                Some(owner) => return Err(JournalError::Replayed { run_id: RunId::new(owner) }),
            }
        }
        let details = serde_json::to_string(&new.details)
            .map_err(|error| JournalError::Entry { run_id: new.run_id.get(), problem: error.to_string() })?;
        if known.is_none() {
            sqlx::query(
                "INSERT INTO run (run_id, task_id, job_id, parent_id, seed, details, accepted_at, attempts, started_at, \
                 token_digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(new.run_id.get())
            .bind(new.task_id.get())
            .bind(new.job_id.get())
            .bind(new.parent_id.map(TaskId::get))
            .bind(Seed::random().0.to_vec())
            .bind(details)
            .bind(now.micros())
            .bind(i64::from(attempt))
            .bind(now.micros())
            .bind(new.token_digest.to_string())
            .execute(&mut *transaction)
            .await?;
            let used: Vec<i64> =
                sqlx::query_scalar("SELECT external FROM port ORDER BY external").fetch_all(&mut *transaction).await?;
            for (port, external) in new.ports.iter().zip(free_ports(&used, new.run_id, new.ports.len())?) {
                sqlx::query("INSERT INTO port (external, run_id, internal, label) VALUES (?, ?, ?, ?)")
                    .bind(i64::from(external))
                    .bind(new.run_id.get())
                    .bind(i64::from(port.port))
                    .bind(&port.label)
                    .execute(&mut *transaction)
                    .await?;
            }
        } else {
            sqlx::query("UPDATE run SET attempts = ?, started_at = ?, token_digest = ? WHERE run_id = ?")
                .bind(i64::from(attempt))
                .bind(now.micros())
                .bind(new.token_digest.to_string())
                .bind(new.run_id.get())
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        self.run_fetch(new.run_id).await?.ok_or(JournalError::Unknown(new.run_id))
    }

    /// Records how a run ended, together with the report that is to be delivered; frees its ports.
    ///
    /// Also for runs that were never accepted: a refusal is an end too. A run that has an end keeps it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Full`] and others; nothing was written then.
    pub async fn run_finish(&self, end: &End, now: Time) -> Result<(), JournalError> {
        let patch = serde_json::to_string(&end.patch)
            .map_err(|error| JournalError::Entry { run_id: end.run_id.get(), problem: error.to_string() })?;
        let mut transaction = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO run (run_id, task_id, job_id, parent_id, seed, details, accepted_at, attempts, started_at, \
             token_digest, patch, finished_at) VALUES (?, ?, ?, NULL, x'', '', ?, 0, ?, '', ?, ?) \
             ON CONFLICT (run_id) DO UPDATE SET patch = excluded.patch, finished_at = excluded.finished_at \
             WHERE run.finished_at IS NULL",
        )
        .bind(end.run_id.get())
        .bind(end.task_id.get())
        .bind(end.job_id.get())
        .bind(now.micros())
        .bind(now.micros())
        .bind(patch)
        .bind(now.micros())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM port WHERE run_id = ?").bind(end.run_id.get()).execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// The report of a finished run.
    pub async fn run_patch(&self, run_id: RunId) -> Result<Option<RunPatch>, JournalError> {
        let text: Option<Option<String>> = sqlx::query_scalar("SELECT patch FROM run WHERE run_id = ?")
            .bind(run_id.get())
            .fetch_optional(&self.pool)
            .await?;
        text.flatten()
            .map(|text| serde_json::from_str(&text))
            .transpose()
            .map_err(|error| JournalError::Entry { run_id: run_id.get(), problem: error.to_string() })
    }

    /// Records that the coordinator has the report.
    pub async fn run_delivered(&self, run_id: RunId, now: Time) -> Result<(), JournalError> {
        sqlx::query("UPDATE run SET delivered_at = ? WHERE run_id = ?")
            .bind(now.micros())
            .bind(run_id.get())
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Removes a run that is done with. Its manifest stays known as long as it could be replayed.
    pub async fn run_forget(&self, run_id: RunId, now: Time) -> Result<(), JournalError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query("DELETE FROM run WHERE run_id = ?").bind(run_id.get()).execute(&mut *transaction).await?;
        sqlx::query("DELETE FROM manifest WHERE not_after < ?")
            .bind(now.seconds().saturating_sub(twinmesh_protocol::manifest::CLOCK_TOLERANCE_SECONDS))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Records the twins' addresses that exist inside a run, so that a restarted node opens them again.
    pub async fn listener_add(&self, run_id: RunId, addresses: &[SocketAddrV4]) -> Result<(), JournalError> {
        let mut transaction = self.pool.begin().await?;
        for address in addresses {
            sqlx::query("INSERT INTO listener (run_id, ip, port) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
                .bind(run_id.get())
                .bind(i64::from(u32::from(*address.ip())))
                .bind(i64::from(address.port()))
                .execute(&mut *transaction)
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The twins' addresses that exist inside a run.
    pub async fn listener_list(&self, run_id: RunId) -> Result<Vec<SocketAddrV4>, JournalError> {
        let rows = sqlx::query("SELECT ip, port FROM listener WHERE run_id = ? ORDER BY ip, port")
            .bind(run_id.get())
            .fetch_all(&self.pool)
            .await?;
        rows.iter()
            .map(|row| {
                let (ip, port): (i64, i64) = (row.try_get("ip")?, row.try_get("port")?);
                match (u32::try_from(ip), u16::try_from(port)) {
                    (Ok(ip), Ok(port)) => Ok(SocketAddrV4::new(Ipv4Addr::from(ip), port)),
                    _ => Err(JournalError::Entry { run_id: run_id.get(), problem: "no address".into() }),
                }
            })
            .collect()
    }

    /// One run.
    pub async fn run_fetch(&self, run_id: RunId) -> Result<Option<Record>, JournalError> {
        let row =
            sqlx::query("SELECT * FROM run WHERE run_id = ?").bind(run_id.get()).fetch_optional(&self.pool).await?;
        let Some(row) = row else { return Ok(None) };
        let ports = sqlx::query("SELECT * FROM port WHERE run_id = ? ORDER BY external")
            .bind(run_id.get())
            .fetch_all(&self.pool)
            .await?;
        let ports = ports.iter().map(PortRecord::from_row).collect::<Result<_, _>>()?;
        Record::from_row(&row, ports).map(Some)
    }

    /// Every run, in order of its id.
    pub async fn run_list(&self) -> Result<Vec<Record>, JournalError> {
        let mut ports: BTreeMap<i64, Vec<PortRecord>> = BTreeMap::new();
        for row in sqlx::query("SELECT * FROM port ORDER BY external").fetch_all(&self.pool).await? {
            ports.entry(row.try_get("run_id")?).or_default().push(PortRecord::from_row(&row)?);
        }
        let rows: Vec<SqliteRow> = sqlx::query("SELECT * FROM run ORDER BY run_id").fetch_all(&self.pool).await?;
        rows.iter()
            .map(|row| Record::from_row(row, ports.remove(&row.try_get::<i64, _>("run_id")?).unwrap_or_default()))
            .collect()
    }
}

/// How a run ended.
#[derive(Debug, Clone)]
pub struct End {
    pub run_id: RunId,
    pub task_id: TaskId,
    pub job_id: JobId,
    pub patch: RunPatch,
}

/// Free external ports, beginning at a place that depends on the run so that a port is not reused at once.
fn free_ports(used: &[i64], run_id: RunId, count: usize) -> Result<Vec<u16>, JournalError> {
    let first = i64::from(FIRST_EXTERNAL_PORT);
    let span = i64::from(u16::MAX) - first;
    let start = run_id.get().rem_euclid(span);
    let free: Vec<u16> = (0..span)
        .map(|step| first + (start + step) % span)
        .filter(|port| used.binary_search(port).is_err())
        .filter_map(|port| u16::try_from(port).ok())
        .take(count)
        .collect();
    if free.len() == count { Ok(free) } else { Err(JournalError::NoPort { used: used.len() }) }
}

/// Makes a directory that only its owner can look into.
pub fn make_private_directory(path: &Utf8Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let mut permissions = std::fs::metadata(path)?.permissions();
    if permissions.mode() & 0o077 != 0 {
        permissions.set_mode(0o700);
        std::fs::set_permissions(path, permissions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
