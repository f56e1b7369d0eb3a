//! What is done now and then, by one coordinator for all on the same database: payloads that have reached their age
//! are removed from runs, and what no run needs is removed from where it is stored.
//!
//! Everything is done in small steps, each in a transaction of its own that looks again before it removes something.

use std::time::Duration;

use twinmesh_protocol::time::Time;

use crate::clock::Clock;
use crate::config::RetentionConfig;
use crate::objects::{Objects, ObjectsError};
use crate::store::object::{self, ObjectRow, Payload};
use crate::store::{Store, StoreError};

/// The name of the chore.
const CHORE: &str = "tidy";
/// Runs that are changed in one transaction. Others wait for so long.
const RUNS: i64 = 100;
/// Rows that are looked at in one transaction.
const ROWS: i64 = 500;
/// How long a segment that nobody needs stays: who is reading it goes on, and who is about to need it finds it.
const SEGMENT_REST: Duration = Duration::from_secs(3600);

/// How long an unfinished file of the object store stays. Writing one takes some seconds at most.
const UNFINISHED_REST: Duration = Duration::from_secs(3600);

/// The error of tidying up; what was done stays done.
#[derive(Debug, thiserror::Error)]
pub enum TidyError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object store failed.
    #[error(transparent)]
    Objects(#[from] ObjectsError),
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Inputs, results and logs that had reached their age.
    pub payloads: u64,
    /// Uploads that no run needs.
    pub objects: u64,
    /// Pieces of payloads that were removed from the store.
    pub segments: u64,
    /// Files that coordinators were writing when they were killed.
    pub unfinished: u64,
}

/// Who tidies up.
#[derive(Debug, Clone)]
pub struct Tidier {
    pub(crate) store: Store,
    pub(crate) objects: Objects,
    pub(crate) retention: RetentionConfig,
    pub(crate) clock: Clock,
}

impl Tidier {
    /// Tidies up whenever it is due, for ever.
    pub(crate) async fn keep_tidy(&self) {
        let every = self.objects.settings().tidy_every;
        loop {
            tokio::time::sleep(every).await;
            match self.tidy_if_due(every).await {
                Ok(Some(tidied)) if tidied != Tidied::default() => {
                    let Tidied { payloads, objects, segments, unfinished } = tidied;
                    tracing::info!(payloads, objects, segments, unfinished, "removed what is not needed any more");
                }
                Ok(_) => {}
                Err(error) => {
                    let error = anyhow::Error::new(error);
                    tracing::warn!(error = format!("{error:#}"), "cannot remove what is not needed any more");
                }
            }
        }
    }

    async fn tidy_if_due(&self, every: Duration) -> Result<Option<Tidied>, TidyError> {
        let now = self.clock.now();
        let mut tx = self.store.write().await?;
        let is_due = object::chore_take(&mut tx, CHORE, now.plus(every), now).await?;
        tx.commit().await?;
        if is_due { Ok(Some(self.tidy().await?)) } else { Ok(None) }
    }

    /// Tidies up.
    ///
    /// # Errors
    /// When the database or the object store fails.
    pub async fn tidy(&self) -> Result<Tidied, TidyError> {
        let payloads = self.clear_payloads().await?;
        let objects = self.remove_unused().await?;
        let segments = self.remove_segments().await?;
        let unfinished = self.objects.sweep(UNFINISHED_REST).await?;
        Ok(Tidied { payloads, objects, segments, unfinished })
    }

    async fn clear_payloads(&self) -> Result<u64, TidyError> {
        let retention = &self.retention;
        let mut cleared = 0;
        for (what, age) in [
            (Payload::Inputs, retention.inputs),
            (Payload::Results, retention.results),
            (Payload::Logs, retention.logs),
        ] {
            let Some(age) = age else { continue };
            loop {
                let now = self.clock.now();
                let mut tx = self.store.write().await?;
                let count = object::payloads_clear(&mut tx, what, before(now, age.0), RUNS, now).await?;
                tx.commit().await?;
                cleared += count;
                if count == 0 {
                    break;
                }
            }
        }
        Ok(cleared)
    }

    async fn remove_unused(&self) -> Result<u64, TidyError> {
        let mut removed = 0;
        let mut after = ObjectRow::START;
        loop {
            let limit = before(self.clock.now(), self.objects.settings().keep_unused);
            let mut tx = self.store.read().await?;
            let (unused, next) = object::unused_list(tx.conn(), after, limit, ROWS).await?;
            drop(tx);
            for row in unused {
                let mut tx = self.store.write().await?;
                removed += u64::from(object::unused_delete(&mut tx, row, limit, self.clock.now()).await?);
                tx.commit().await?;
            }
            match next {
                Some(next) => after = next,
                None => return Ok(removed),
            }
        }
    }

    async fn remove_segments(&self) -> Result<u64, TidyError> {
        let mut after = 0;
        loop {
            let limit = before(self.clock.now(), SEGMENT_REST);
            let mut tx = self.store.write().await?;
            let (_, next) = object::segments_doom(&mut tx, after, limit, ROWS).await?;
            tx.commit().await?;
            match next {
                Some(next) => after = next,
                None => break,
            }
        }
        let mut removed = 0;
        loop {
            let mut tx = self.store.read().await?;
            let doomed = object::doomed_list(tx.conn(), ROWS).await?;
            drop(tx);
            if doomed.is_empty() {
                return Ok(removed);
            }
            for segment in doomed {
                self.objects.delete(segment).await?;
                let mut tx = self.store.note().await?;
                object::doomed_delete(&mut tx, segment).await?;
                tx.commit().await?;
                removed += 1;
            }
        }
    }
}

/// The instant that lies so long before another.
fn before(now: Time, age: Duration) -> Time {
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    Time::from_micros(now.micros().saturating_sub(age))
}
