//! All SQL, a file per noun. One text that SQLite and PostgreSQL both take: `$1` placeholders, numbers, text.
//!
//! There is one writer at a time, whatever the engine: a write transaction sees the last commit and nothing changes
//! under it. A second pool serves readers, who never wait for a writer. [`engine`] – what differs between the two.
//! [`bell`] – waking whoever waits for a commit.

mod backup;
pub(crate) mod bell;
pub(crate) mod collaboration;
mod engine;
pub(crate) mod event;
pub(crate) mod examine;
pub(crate) mod filter;
pub(crate) mod identity;
pub(crate) mod instance;
mod migration;
pub(crate) mod node;
pub(crate) mod object;
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

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Transaction};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use twinmesh_protocol::time::Time;

pub use self::backup::BackupError;
pub(crate) use self::backup::back_up;
use self::bell::{Bell, Bells};
use self::engine::Engine;
use crate::config::Synchronous;

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
    #[error("cannot open a database at `{scheme}:`: use `postgres://…`, or none for SQLite in the data directory")]
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
    engine: Engine,
    writer: AnyPool,
    reader: AnyPool,
    bells: Bells,
    /// Hears what other processes ring, for as long as somebody has the store.
    ears: Arc<Option<DropGuard>>,
}

impl Store {
    /// Opens the database, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// When it cannot be opened or was made by a later release.
    pub(crate) async fn open(location: &Location, synchronous: Synchronous, readers: u32) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let url = engine::url(location);
        let engine = Engine::of(&url)?;
        let writer = match engine.writers(&url, synchronous).await {
            // A server may be on its way up, so it was waited for; what is wrong says one more try.
            Err(StoreError::Database(sqlx::Error::PoolTimedOut)) => {
                try_out(&url).await?;
                engine.writers(&url, synchronous).await?
            }
            writer => writer?,
        };
        migration::run(engine, &writer).await?;
        let reader = engine.readers(&url, synchronous, readers).await?;
        let bells = Bells::new();
        let ears = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => {
                let stop = CancellationToken::new();
                tokio::spawn(bell::listen(url, bells.clone(), stop.clone()));
                Some(stop.drop_guard())
            }
        };
        Ok(Self { engine, writer, reader, bells, ears: Arc::new(ears) })
    }

    /// Whether other coordinators may be at work on the same database.
    pub(crate) fn is_shared(&self) -> bool {
        self.engine == Engine::Postgres
    }

    /// Begins a transaction that may write. There is one at a time: others wait their turn.
    pub(crate) async fn write(&self) -> Result<Tx> {
        Ok(self.tx(self.engine.begin_write(&self.writer).await?))
    }

    /// Begins a transaction that writes one row whatever is read, and no event.
    pub(crate) async fn note(&self) -> Result<Tx> {
        Ok(self.tx(self.engine.begin_note(&self.writer).await?))
    }

    /// Begins a transaction that reads: all its queries see the same state.
    pub(crate) async fn read(&self) -> Result<Tx> {
        Ok(self.tx(self.engine.begin_read(&self.reader).await?))
    }

    fn tx(&self, inner: Transaction<'static, Any>) -> Tx {
        Tx { inner, engine: self.engine, rings: BTreeSet::new(), bells: self.bells.clone() }
    }

    /// Changes whenever a commit rings the bell, in whichever process.
    pub(crate) fn bell(&self, bell: Bell) -> watch::Receiver<u64> {
        self.bells.hear(bell)
    }

    /// Whether the database answers.
    pub(crate) async fn is_well(&self) -> bool {
        let Ok(mut tx) = self.read().await else { return false };
        sqlx::query("SELECT 1").execute(tx.conn()).await.is_ok()
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        if let Some(ears) = &*self.ears {
            ears.token().cancel();
        }
        self.reader.close().await;
        self.writer.close().await;
    }
}

/// Whether a database answers at the URL; changes nothing there.
pub(crate) async fn try_out(url: &str) -> Result<()> {
    sqlx::any::install_default_drivers();
    Engine::of(url)?;
    let mut connection = AnyConnection::connect(url).await?;
    connection.ping().await?;
    Ok(connection.close().await?)
}

/// A transaction. Dropped without [`Tx::commit`], it leaves no trace.
#[derive(Debug)]
pub(crate) struct Tx {
    inner: Transaction<'static, Any>,
    engine: Engine,
    rings: BTreeSet<Bell>,
    bells: Bells,
}

impl Tx {
    /// What queries run on.
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }

    /// Wakes whoever waits for this, once it is committed.
    pub(crate) fn ring_on_commit(&mut self, bell: Bell) {
        self.rings.insert(bell);
    }

    /// Makes everything durable.
    pub(crate) async fn commit(mut self) -> Result<()> {
        if self.engine == Engine::Postgres {
            for bell in &self.rings {
                sqlx::raw_sql(bell.notify_sql()).execute(&mut *self.inner).await?;
            }
        }
        self.inner.commit().await?;
        for bell in self.rings {
            self.bells.ring(bell);
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

/// Databases for tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use super::{Location, Store};
    use crate::config::Synchronous;

    /// A new database: in the directory, or in a schema of its own on the server that `TWINMESH_TEST_POSTGRES` names.
    pub(crate) async fn store(directory: &Path) -> Store {
        let location = match std::env::var("TWINMESH_TEST_POSTGRES") {
            Ok(server) => Location::Url(new_schema(&server).await),
            Err(_) => Location::File(directory.join("coordinator.sqlite")),
        };
        Store::open(&location, Synchronous::Normal, 2).await.unwrap()
    }

    async fn new_schema(server: &str) -> String {
        use sqlx::Connection as _;
        let schema = format!("test_{}", uuid::Uuid::new_v4().simple());
        let mut connection = sqlx::PgConnection::connect(server).await.unwrap();
        let sql = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        let separator = if server.contains('?') { '&' } else { '?' };
        format!("{server}{separator}options[search_path]={schema}")
    }
}
