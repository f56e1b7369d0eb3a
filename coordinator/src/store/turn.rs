//! Whose turn it is to write, and one commit for all who had theirs meanwhile.
//!
//! One connection writes. Whoever has the turn works on it within a savepoint, and passes the turn on instead of
//! committing; the [`keep`]er queues for a turn like everybody else, and commits for all who were before it. So what many
//! ask for at the same time costs one sync of the disk, and who is alone is committed at once. Nobody is told that
//! something is done before the commit they share; if it fails, it fails for all of them.
//!
//! Whoever has the turn sees what others did since the last commit. What they conclude from it must not leave the process
//! before that commit either: [`settled`] holds an answer back until then.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use sqlx::pool::PoolConnection;
use sqlx::{Any, AnyConnection, AnyPool};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::bell::{Bell, Bells};
use super::engine::{ACQUIRE_TIMEOUT, Engine};
use super::{Result, StoreError};

/// How many may share a commit. Each has a savepoint, and PostgreSQL keeps 64 in the memory that others look at.
const SHARE: usize = 60;
/// Where the transaction begins. When an engine gives up a transaction by itself, this savepoint is gone with it, and
/// so nothing that was begun afterwards can be committed in its place.
const BASE: &str = "base";
/// Where a turn begins, if others had theirs before it in the same transaction.
const MARK: &str = "mark";

/// The queue of those who want to write; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Line {
    shared: Arc<Shared>,
    /// Ends the keeper with the last clone.
    _keeper: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    pool: AnyPool,
    bells: Bells,
    desk: Arc<Mutex<Desk>>,
    /// Somebody left the desk, and there may be something to commit or to undo.
    left: Notify,
}

/// What only who has the turn touches.
#[derive(Debug, Default)]
struct Desk {
    connection: Option<PoolConnection<Any>>,
    stage: Stage,
    /// Whether the latest savepoint is known to be a mark.
    marked: bool,
    share: Option<Share>,
}

/// What has become of the last turn. Whoever has it may vanish at any point where it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// Nothing is half done.
    #[default]
    Clean,
    /// It was about to begin a transaction.
    Beginning,
    /// It was about to set its mark; nothing was done since.
    Marking,
    /// It worked, since this savepoint, and did not say that this shall last.
    Working(&'static str),
}

/// Who is committed together.
#[derive(Debug)]
struct Share {
    outcome: watch::Sender<Option<bool>>,
    /// How many wait for the commit.
    members: usize,
    rings: BTreeSet<Bell>,
}

impl Line {
    pub(super) fn new(engine: Engine, pool: AnyPool, bells: Bells) -> Self {
        let shared = Arc::new(Shared { engine, pool, bells, desk: Arc::default(), left: Notify::new() });
        let stop = CancellationToken::new();
        tokio::spawn(keep(Arc::clone(&shared), stop.clone()));
        Self { shared, _keeper: Arc::new(stop.drop_guard()) }
    }

    /// Waits for the turn.
    pub(super) async fn turn(&self) -> Result<Turn> {
        let wait = async {
            loop {
                let desk = Arc::clone(&self.shared.desk).lock_owned().await;
                if desk.share.as_ref().is_none_or(|share| share.members < SHARE) {
                    return desk;
                }
                // The keeper is in the queue.
                drop(desk);
                tokio::task::yield_now().await;
            }
        };
        let too_long = |_| StoreError::Database(sqlx::Error::PoolTimedOut);
        let desk = tokio::time::timeout(ACQUIRE_TIMEOUT, wait).await.map_err(too_long)?;
        let mut turn = Turn { desk, line: self.clone() };
        turn.enter().await?;
        Ok(turn)
    }

    /// Ends what is under way, and lets go of the database.
    pub(super) async fn close(&self) {
        let mut desk = self.shared.desk.lock().await;
        self.shared.settle(&mut desk).await;
        desk.connection = None;
        drop(desk);
        self.shared.pool.close().await;
    }
}

/// The turn to write. Dropped without [`Turn::commit`], it leaves no trace.
#[derive(Debug)]
pub(super) struct Turn {
    desk: OwnedMutexGuard<Desk>,
    line: Line,
}

impl Turn {
    /// Begins a transaction, or goes on with the one that others are in.
    async fn enter(&mut self) -> Result<()> {
        let shared = Arc::clone(&self.line.shared);
        let desk = &mut *self.desk;
        if desk.share.is_some() {
            let undo = desk.undo();
            let marked = async {
                if let Some(sql) = undo {
                    desk.execute(&sql).await?;
                }
                desk.stage = Stage::Marking;
                // What was done since the last mark lasts, and engines do more for each savepoint that is open.
                let release =
                    if mem::take(&mut desk.marked) { format!("RELEASE SAVEPOINT {MARK}; ") } else { String::new() };
                desk.execute(&format!("{release}SAVEPOINT {MARK}")).await?;
                desk.marked = true;
                Ok(())
            };
            match marked.await {
                Ok(()) => {
                    desk.stage = Stage::Working(MARK);
                    if let Some(share) = desk.share.as_ref().filter(|share| share.members > 0) {
                        let _ = SEEN.try_with(|seen| seen.borrow_mut().push(share.outcome.subscribe()));
                    }
                    return Ok(());
                }
                Err(error) => desk.fail(&error).await,
            }
        }
        desk.begin(&shared).await?;
        desk.stage = Stage::Working(BASE);
        Ok(())
    }

    pub(super) fn conn(&mut self) -> &mut AnyConnection {
        self.desk.connection.as_mut().expect("whoever has the turn has begun a transaction on it")
    }

    /// Passes the turn on, and returns once the work is durable.
    pub(super) async fn commit(mut self, rings: BTreeSet<Bell>) -> Result<()> {
        self.desk.stage = Stage::Clean;
        let Some(share) = &mut self.desk.share else { return Err(StoreError::NotCommitted) };
        share.members += 1;
        share.rings.extend(rings);
        let mut outcome = share.outcome.subscribe();
        drop(self);
        wait_for(&mut outcome).await
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.line.shared.left.notify_one();
    }
}

async fn wait_for(outcome: &mut watch::Receiver<Option<bool>>) -> Result<()> {
    match outcome.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false) | None) | Err(_) => Err(StoreError::NotCommitted),
    }
}

/// Commits for those who have left the desk, until `stop`.
async fn keep(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let ends = tokio::select! {
            () = shared.left.notified() => false,
            () = stop.cancelled() => true,
        };
        let mut desk = shared.desk.lock().await;
        shared.settle(&mut desk).await;
        if ends {
            return;
        }
    }
}

impl Shared {
    /// Commits what is to be committed, and undoes what is not.
    async fn settle(&self, desk: &mut Desk) {
        let undo = desk.undo();
        let Some(share) = &desk.share else { return };
        if share.members == 0 {
            desk.abandon().await;
            desk.share = None;
            return;
        }
        let rings: String = match self.engine {
            Engine::Sqlite => String::new(),
            Engine::Postgres => share.rings.iter().map(|bell| format!("{}; ", bell.notify_sql())).collect(),
        };
        let undo = undo.map(|sql| sql + "; ").unwrap_or_default();
        match desk.execute(&format!("{undo}RELEASE SAVEPOINT {BASE}; {rings}COMMIT")).await {
            Ok(()) => {
                desk.stage = Stage::Clean;
                let Some(share) = desk.share.take() else { return };
                for bell in share.rings {
                    self.bells.ring(bell);
                }
                share.outcome.send_replace(Some(true));
            }
            Err(error) => desk.fail(&error).await,
        }
    }
}

impl Desk {
    /// What takes back what the last turn left half done, within the transaction of a share.
    fn undo(&self) -> Option<String> {
        match self.stage {
            Stage::Clean | Stage::Beginning | Stage::Marking => None,
            Stage::Working(since) => Some(format!("ROLLBACK TO SAVEPOINT {since}")),
        }
    }

    /// Begins a transaction, on a new connection if the old one is lost.
    async fn begin(&mut self, shared: &Shared) -> Result<()> {
        if self.stage != Stage::Clean {
            self.abandon().await;
        }
        let sql = format!("{}; SAVEPOINT {BASE}", shared.engine.begin_write_sql());
        loop {
            let kept = self.connection.is_some();
            if !kept {
                self.connection = Some(shared.pool.acquire().await?);
            }
            self.stage = Stage::Beginning;
            match self.execute(&sql).await {
                Ok(()) => break,
                Err(error) => {
                    self.stage = Stage::Clean;
                    self.hang_up();
                    // One that rested may have been cut long ago.
                    if !kept {
                        return Err(error.into());
                    }
                }
            }
        }
        self.marked = false;
        self.share = Some(Share { outcome: watch::channel(None).0, members: 0, rings: BTreeSet::new() });
        Ok(())
    }

    /// Ends the transaction without a trace, or the connection if that cannot be had.
    async fn abandon(&mut self) {
        // Where none was begun there is none to end.
        if self.execute("ROLLBACK").await.is_err() && self.stage != Stage::Beginning {
            self.hang_up();
        }
        self.stage = Stage::Clean;
    }

    fn hang_up(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.close_on_drop();
        }
    }

    /// Tells all who share the transaction that it failed.
    async fn fail(&mut self, error: &sqlx::Error) {
        self.abandon().await;
        let Some(share) = self.share.take() else { return };
        tracing::error!(requests = share.members, "what was written could not be committed: {error}");
        share.outcome.send_replace(Some(false));
    }

    async fn execute(&mut self, sql: &str) -> Result<(), sqlx::Error> {
        let connection = self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        // Made of constants.
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut **connection).await.map(|_| ())
    }
}

tokio::task_local! {
    /// Commits to come, whose work was seen by what runs here.
    static SEEN: RefCell<Vec<watch::Receiver<Option<bool>>>>;
}

/// Does some work, and returns when everything is durable that it may have seen.
///
/// # Errors
/// When something that it may have seen came to nothing. What the work concluded is void then.
pub(crate) async fn settled<T>(work: impl Future<Output = T>) -> Result<T> {
    let (value, seen) = SEEN
        .scope(RefCell::default(), async {
            let value = work.await;
            (value, SEEN.with(|seen| mem::take(&mut *seen.borrow_mut())))
        })
        .await;
    for mut outcome in seen {
        wait_for(&mut outcome).await?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::Row as _;
    use twinmesh_protocol::time::Time;
    use twinmesh_protocol::wire::EventKind;

    use super::*;
    use crate::store::event::{NewEvent, event_insert};
    use crate::store::{Store, Tx, testing};

    /// Writes something that is known by its number.
    async fn write(store: &Store, number: i64) -> Tx {
        let mut tx = store.write().await.unwrap();
        let event = NewEvent::new(EventKind::TaskCreated, Time::from_micros(number));
        event_insert(&mut tx, event).await.unwrap();
        tx
    }

    async fn written(mut tx: Tx) -> Vec<i64> {
        let rows = sqlx::query("SELECT time FROM event ORDER BY sequence").fetch_all(tx.conn()).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn what_was_acknowledged_is_there_and_what_was_given_up_is_not_whoever_shares_the_commit() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        let mut tasks = Vec::new();
        for number in 0..400_i64 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                let mut tx = write(&store, number).await;
                match number % 4 {
                    0 => drop(tx),
                    1 => {
                        sqlx::query("INSERT INTO event (time) VALUES (1)").execute(tx.conn()).await.unwrap_err();
                        drop(tx);
                    }
                    _ => tx.commit().await.unwrap(),
                }
                number
            }));
        }
        let mut acknowledged = BTreeSet::new();
        let mut given_up = BTreeSet::new();
        let mut unknown = BTreeSet::new();
        for (number, task) in (0..400).zip(tasks) {
            if number % 7 == 0 {
                // At whatever point it is.
                task.abort();
            }
            match task.await {
                Ok(number) if number % 4 > 1 => acknowledged.insert(number),
                Ok(number) => given_up.insert(number),
                Err(_) if number % 4 > 1 => unknown.insert(number),
                Err(_) => given_up.insert(number),
            };
        }
        // Whoever comes next finds everything settled.
        write(&store, 400).await.commit().await.unwrap();
        acknowledged.insert(400);
        let written = written(store.read().await.unwrap()).await;
        let there: BTreeSet<i64> = written.iter().copied().collect();
        assert_eq!(there.len(), written.len(), "nothing is there twice");
        assert!(acknowledged.is_subset(&there), "lost: {:?}", acknowledged.difference(&there));
        assert!(given_up.is_disjoint(&there), "was given up: {:?}", given_up.intersection(&there));
        assert!(there.difference(&acknowledged).all(|number| unknown.contains(number)));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn nobody_tells_of_what_is_not_durable_yet() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        let mut tasks = Vec::new();
        for number in 0..200 {
            let store = store.clone();
            tasks.push(tokio::spawn(async move {
                if number % 2 == 0 {
                    return write(&store, number).await.commit().await.unwrap();
                }
                // Looks where it could write, and finds that there is nothing to do.
                let look = async { written(store.write().await.unwrap()).await };
                let seen = settled(look).await.unwrap();
                let durable = written(store.read().await.unwrap()).await;
                assert!(durable.starts_with(&seen), "told {seen:?} when there was {durable:?}");
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_commit_that_fails_fails_for_all_who_share_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        write(&store, 1).await.commit().await.unwrap();
        // It passes its turn on to one that takes the transaction away from under both.
        let mut first = Box::pin(write(&store, 2).await.commit());
        assert!(futures::poll!(&mut first).is_pending());
        let mut second = store.write().await.unwrap();
        sqlx::raw_sql("ROLLBACK").execute(second.conn()).await.unwrap();
        drop(second);
        assert!(matches!(first.await, Err(StoreError::NotCommitted)));
        // And life goes on.
        write(&store, 4).await.commit().await.unwrap();
        assert_eq!(written(store.read().await.unwrap()).await, [1, 4]);
    }
}
