//! All SQL, a file per noun. One text that SQLite and PostgreSQL both take: `$1` placeholders, numbers, text.
//!
//! There is one writer at a time, whatever the engine: who writes sees what was written before, and nothing changes under
//! it. [`turn`] – whose turn it is, and commits that many share. A pool of connections serves readers, who see the last
//! commit and never wait for a writer. [`engine`] – what differs between the two. [`bell`] – waking whoever waits for a
//! commit.

pub(crate) mod algorithm_store;
mod backup;
pub(crate) mod bell;
pub(crate) mod collaboration;
mod engine;
pub(crate) mod event;
pub(crate) mod examine;
pub(crate) mod figures;
pub(crate) mod filter;
pub(crate) mod identity;
pub(crate) mod instance;
mod meter;
mod migration;
pub(crate) mod node;
pub(crate) mod object;
pub(crate) mod opening;
pub(crate) mod operator;
pub(crate) mod organization;
pub(crate) mod outbox;
pub(crate) mod page;
pub(crate) mod peer;
pub(crate) mod port;
pub(crate) mod recovery;
pub(crate) mod removal;
pub(crate) mod role;
mod rows;
pub(crate) mod run;
pub(crate) mod setup;
pub(crate) mod study;
pub(crate) mod task;
pub(crate) mod token;
mod turn;
pub(crate) mod user;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use prometheus_client::registry::Registry;
use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Transaction};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;

pub use self::backup::BackupError;
pub(crate) use self::backup::back_up;
use self::bell::{Bell, Bells};
use self::engine::Engine;
use self::meter::{Kind, Meter, Timing};
pub(crate) use self::turn::settled;
use self::turn::{Line, Turn};
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
    /// What was written is not there: the transaction that it shared with others failed, for the reason in the log.
    #[error("the database did not take what was written")]
    NotCommitted,
    /// An update met another number of rows than it must.
    #[error("{affected} rows changed where {expected} was due")]
    Affected {
        /// How many changed.
        affected: u64,
        /// How many should have.
        expected: u64,
    },
    /// The database was made by a later release.
    #[error(
        "the database has migration {found}, this program knows them up to {known}: start the release that last used it, \
         or a later one"
    )]
    FromTheFuture {
        /// The newest migration in the database that is not known.
        found: i64,
        /// The newest migration known.
        known: i64,
    },
    /// The database was made by other statements than this program has under the same number.
    #[error(
        "migration {version} was applied to the database with another text than this program has: start the release \
         that made the database, or restore a backup that this one made"
    )]
    AlteredMigration {
        /// Which.
        version: i64,
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
    line: Line,
    /// For notes, which need no turn where the engine lets them.
    writer: AnyPool,
    reader: AnyPool,
    bells: Bells,
    /// Hears what other processes ring, for as long as somebody has the store.
    ears: Arc<Option<DropGuard>>,
    meter: Meter,
}

impl Store {
    /// Opens the database, makes it if there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// When it cannot be opened, or was made by a later release or by altered migrations.
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
        migration::run(engine, &writer, migration::MIGRATIONS).await?;
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
        let line = Line::new(engine, writer.clone(), bells.clone());
        Ok(Self { engine, line, writer, reader, bells, ears: Arc::new(ears), meter: Meter::new() })
    }

    /// Whether other coordinators may be at work on the same database.
    pub(crate) fn is_shared(&self) -> bool {
        self.engine == Engine::Postgres
    }

    /// Begins a transaction that may write. There is one at a time: others wait their turn.
    pub(crate) async fn write(&self) -> Result<Tx> {
        self.tx(Kind::WRITE, async { Ok(Inner::Turn(self.line.turn().await?)) }).await
    }

    /// Begins a transaction that writes one row whatever is read, and no event.
    pub(crate) async fn note(&self) -> Result<Tx> {
        match self.engine {
            Engine::Sqlite => self.write().await,
            Engine::Postgres => {
                self.tx(Kind::NOTE, async { Ok(Inner::Own(self.engine.begin_note(&self.writer).await?)) }).await
            }
        }
    }

    /// Begins a transaction that reads: all its queries see the same state.
    pub(crate) async fn read(&self) -> Result<Tx> {
        self.tx(Kind::READ, async { Ok(Inner::Own(self.engine.begin_read(&self.reader).await?)) }).await
    }

    async fn tx(&self, kind: Kind, begin: impl Future<Output = Result<Inner>>) -> Result<Tx> {
        let asked = Instant::now();
        let inner = begin.await?;
        Ok(Tx { inner, rings: BTreeSet::new(), _timing: self.meter.began(kind, asked.elapsed()) })
    }

    /// Changes whenever a commit rings the bell, in whichever process.
    pub(crate) fn bell(&self, bell: Bell) -> watch::Receiver<u64> {
        self.bells.hear(bell)
    }

    /// Whether other processes' commits are heard of at this moment. Alone on a database there are none.
    pub(crate) fn hears(&self) -> bool {
        !self.is_shared() || self.bells.are_heard()
    }

    /// Tells every process on the database something that stands in no table; none where this is the only one.
    pub(crate) async fn tell(&self, words: &str) -> Result<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let mut tx = self.read().await?;
        // What the function itself answers is of a type that the driver does not know.
        sqlx::query("SELECT pg_notify($1, $2) IS NULL").bind(bell::WORDS).bind(words).execute(tx.conn()).await?;
        tx.commit().await
    }

    /// What processes tell each other, from now on.
    pub(crate) fn words(&self) -> broadcast::Receiver<Arc<str>> {
        self.bells.words()
    }

    /// Reads, writes and commits, as every request needs it: whoever asks bounds how long it may take.
    pub(crate) async fn try_all(&self, now: Time) -> Result<()> {
        let mut tx = self.read().await?;
        sqlx::query("SELECT 1").execute(tx.conn()).await?;
        drop(tx);
        let mut tx = self.note().await?;
        user::decoy_put(&mut tx, now).await?;
        tx.commit().await
    }

    /// How many connections each pool has, and how many of them nobody uses.
    pub(crate) fn connections(&self) -> [(&'static str, u32, usize); 2] {
        [("writers", &self.writer), ("readers", &self.reader)].map(|(name, pool)| (name, pool.size(), pool.num_idle()))
    }

    /// Adds this store's instruments.
    pub(crate) fn register(&self, registry: &mut Registry) {
        self.meter.register(registry);
    }

    /// Closes all connections.
    pub(crate) async fn close(&self) {
        if let Some(ears) = &*self.ears {
            ears.token().cancel();
        }
        self.reader.close().await;
        self.line.close().await;
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
    inner: Inner,
    rings: BTreeSet<Bell>,
    _timing: Timing,
}

#[derive(Debug)]
enum Inner {
    /// A reader's, or a note's.
    Own(Transaction<'static, Any>),
    /// A writer's.
    Turn(Turn),
}

impl Tx {
    /// What queries run on.
    pub(crate) fn conn(&mut self) -> &mut AnyConnection {
        match &mut self.inner {
            Inner::Own(transaction) => transaction,
            Inner::Turn(turn) => turn.conn(),
        }
    }

    /// Wakes whoever waits for this, once it is committed.
    pub(crate) fn ring_on_commit(&mut self, bell: Bell) {
        self.rings.insert(bell);
    }

    /// Makes everything durable.
    pub(crate) async fn commit(self) -> Result<()> {
        match self.inner {
            Inner::Own(transaction) => {
                debug_assert!(self.rings.is_empty(), "a note rings no bell");
                Ok(transaction.commit().await?)
            }
            Inner::Turn(turn) => turn.commit(self.rings).await,
        }
    }
}

/// Fails unless exactly one row changed.
pub(crate) fn expect_one(affected: u64) -> Result<()> {
    expect(affected, 1)
}

/// Fails unless exactly so many rows changed.
fn expect(affected: u64, expected: usize) -> Result<()> {
    let expected = expected as u64;
    if affected == expected { Ok(()) } else { Err(StoreError::Affected { affected, expected }) }
}

/// An instant as it stands in a row.
pub(crate) fn time(micros: Option<i64>) -> Option<Time> {
    micros.map(Time::from_micros)
}

/// Reads a status word.
pub(crate) fn read_status(word: &str) -> Result<RunStatus> {
    word.parse().map_err(|_| StoreError::Corrupt { value: word.into(), expected: "a run status" })
}

/// Reads a port's number.
fn port_number(number: i64) -> Result<u16> {
    u16::try_from(number).map_err(|_| StoreError::Corrupt { value: number.to_string(), expected: "a port" })
}

/// Databases for tests of this crate.
#[cfg(test)]
pub(crate) mod testing {
    use std::path::Path;

    use super::{Location, Store};
    use crate::config::Synchronous;

    /// A new database: in the directory, or in a schema of its own on the server that `TWINMESH_TEST_POSTGRES` names.
    pub(crate) async fn store(directory: &Path) -> Store {
        Store::open(&location(directory).await, Synchronous::Normal, 2).await.unwrap()
    }

    /// Where such a database is to be made.
    pub(crate) async fn location(directory: &Path) -> Location {
        match std::env::var("TWINMESH_TEST_POSTGRES") {
            Ok(server) => Location::Url(new_schema(&server).await),
            Err(_) => Location::File(directory.join("coordinator.sqlite")),
        }
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
