//! All SQL, a file per noun. One text that SQLite and PostgreSQL both take: `$1` placeholders, numbers, text.
//!
//! SQLite has one writer at a time, so a pool of one connection hands out write transactions in turn and a second
//! pool serves readers, who see the last commit and never wait for a writer.

pub(crate) mod collaboration;
pub(crate) mod event;
pub(crate) mod filter;
pub(crate) mod identity;
mod migration;
pub(crate) mod node;
pub(crate) mod organization;
pub(crate) mod peer;
pub(crate) mod port;
pub(crate) mod removal;
pub(crate) mod role;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod study;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod user;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::AnyPoolOptions;
use sqlx::{Any, AnyConnection, AnyPool, Transaction};
use tokio::sync::watch;
use twinmesh_protocol::time::Time;

use crate::config::Synchronous;

/// How long a writer of another process (a backup) is waited for.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a connection before it fails.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// The error of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused or failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// A value in the database does not read as what it must be.
    #[error("the database holds `{value}` where {expected} is due")]
    Corrupt {
        /// What was found.
        value: String,
        /// What was expected.
        expected: &'static str,
    },
    /// An update met another number of rows than it must.
    #[error("{affected} rows changed where {expected} was due")]
    Affected {
        /// How many changed.
        affected: u64,
        /// How many should have.
        expected: u64,
    },
    /// The database was made by a later release.
    #[error("the database has migration {found}, this program knows {known}: start a release at least as new")]
    FromTheFuture {
        /// The newest migration in the database.
        found: i64,
        /// The newest migration known.
        known: i64,
    },
    /// An engine that is not built in.
    #[error("cannot open a database at `{scheme}:`: only `sqlite:` is built in")]
    UnknownEngine {
        /// The URL's scheme.
        scheme: String,
    },
}

impl StoreError {
    /// Whether a unique constraint was hit, and so somebody else took the name meanwhile.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Where a store is.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    /// An SQLite file.
    File(PathBuf),
    /// A database URL.
    Url(String),
}

/// The database.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    writer: AnyPool,
    reader: AnyPool,
    /// Rings when events were committed.
    bell: Arc<watch::Sender<u64>>,
}

impl Store {
    /// Opens the database, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// When it cannot be opened or was made by a later release.
    pub(crate) async fn open(location: &Location, synchronous: Synchronous, readers: u32) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let url = match location {
            Location::File(path) => sqlite_url(path),
            Location::Url(url) => url.clone(),
        };
        if !url.starts_with("sqlite:") {
            let scheme = url.split(':').next().unwrap_or_default().to_owned();
            return Err(StoreError::UnknownEngine { scheme });
        }
        // In WAL mode a killed process loses nothing either way. FULL also syncs each commit, so that an acknowledged
        // write survives the loss of power; NORMAL leaves the last moments to the operating system.
        let synchronous = match synchronous {
            Synchronous::Full => "FULL",
            Synchronous::Normal => "NORMAL",
        };
        let settings = format!(
            "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; \
             PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;",
            BUSY_TIMEOUT.as_millis()
        );
        let writer = pool(1, settings.clone()).connect(&url).await?;
        migration::run(&writer).await?;
        let reader = pool(readers.max(1), format!("{settings} PRAGMA query_only = ON;")).connect(&url).await?;
        Ok(Self { writer, reader, bell: Arc::new(watch::channel(0).0) })
    }

    /// Begins a transaction that may write. There is one at a time: others wait their turn.
    pub(crate) async fn write(&self) -> Result<Tx> {
        let inner = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        Ok(Tx { inner, ring: false, bell: Arc::clone(&self.bell) })
    }

    /// Begins a transaction that reads: all its queries see the same state.
    pub(crate) async fn read(&self) -> Result<Tx> {
        let inner = self.reader.begin().await?;
        Ok(Tx { inner, ring: false, bell: Arc::clone(&self.bell) })
    }

    /// Changes whenever events were committed.
    pub(crate) fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    /// Whether the database answers.
    pub(crate) async fn is_well(&self) -> bool {
        let Ok(mut tx) = self.read().await else { return false };
        sqlx::query("SELECT 1").execute(tx.conn()).await.is_ok()
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// A transaction. Dropped without [`Tx::commit`], it leaves no trace.
#[derive(Debug)]
pub(crate) struct Tx {
    inner: Transaction<'static, Any>,
    ring: bool,
    bell: Arc<watch::Sender<u64>>,
}

impl Tx {
    /// What queries run on.
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }

    /// Wakes who follows the event log once this is committed.
    pub(crate) fn ring_on_commit(&mut self) {
        self.ring = true;
    }

    /// Makes everything durable.
    pub(crate) async fn commit(self) -> Result<()> {
        self.inner.commit().await?;
        if self.ring {
            self.bell.send_modify(|count| *count = count.wrapping_add(1));
        }
        Ok(())
    }
}

/// Fails unless exactly one row changed.
pub(crate) fn expect_one(affected: u64) -> Result<()> {
    match affected {
        1 => Ok(()),
        _ => Err(StoreError::Affected { affected, expected: 1 }),
    }
}

/// An instant as it stands in a row.
pub(crate) fn time(micros: Option<i64>) -> Option<Time> {
    micros.map(Time::from_micros)
}

fn pool(size: u32, settings: String) -> AnyPoolOptions {
    let settings: Arc<str> = settings.into();
    AnyPoolOptions::new()
        .max_connections(size)
        .min_connections(1)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            let settings = Arc::clone(&settings);
            Box::pin(async move {
                // The text is made of constants and numbers above.
                sqlx::raw_sql(sqlx::AssertSqlSafe(settings.to_string())).execute(connection).await?;
                Ok(())
            })
        })
}

/// A URL may not hold the path's own `%`, `?` and `#`.
fn sqlite_url(path: &Path) -> String {
    let path = path.to_string_lossy().replace('%', "%25").replace('?', "%3F").replace('#', "%23");
    format!("sqlite://{path}?mode=rwc")
}
