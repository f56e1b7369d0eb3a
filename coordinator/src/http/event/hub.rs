//! Wakes who follows the event log, after the commit and in the order of the commits.
//!
//! One task reads what was committed, keeps the latest of it in memory and wakes the others. Who follows holds a
//! cursor and asks for what comes after it: from memory when it keeps up, from the table when it is behind. So nothing
//! is sent before it is durable, nothing is skipped, and a slow reader costs no memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use twinmesh_protocol::id::{EventSequence, JobId};
use twinmesh_protocol::wire::{Event, EventKind};

use crate::store::bell::Bell;
use crate::store::event::{JobParties, event_last, event_list, job_parties};
use crate::store::{Result, Store};

/// Events kept in memory: some minutes of a busy federation, at about 150 bytes each.
const KEPT: usize = 4096;
/// Events read from the table at once.
const PAGE: i64 = 512;
/// Jobs whose parties are remembered. A federation has far fewer alive at a time.
const JOBS: usize = 4096;
/// How long to wait before reading again when the database failed.
const RETRY: Duration = Duration::from_millis(200);

/// A handle on the log; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    recent: RwLock<Recent>,
    kept: usize,
    head: watch::Sender<EventSequence>,
    parties: Mutex<Parties>,
}

/// Who takes part in which job, as last read. Of more than [`JOBS`] those that nobody asked for the longest are forgotten:
/// whoever reads the log from its beginning needs old jobs as others need new ones.
#[derive(Debug, Default)]
struct Parties {
    jobs: BTreeMap<JobId, (u64, Arc<JobParties>)>,
    /// The jobs by when they were last asked for.
    used: BTreeMap<u64, JobId>,
    /// Counts who asks.
    asked: u64,
    /// Grows whenever a job may have grown: what was read before that is not remembered.
    epoch: u64,
}

impl Parties {
    fn get(&mut self, job: JobId) -> Option<Arc<JobParties>> {
        let (used, parties) = self.jobs.get_mut(&job)?;
        // Most who ask are told of the same event.
        if *used != self.asked {
            self.used.remove(used);
            self.asked += 1;
            *used = self.asked;
            self.used.insert(self.asked, job);
        }
        Some(Arc::clone(parties))
    }

    fn insert(&mut self, job: JobId, parties: Arc<JobParties>, most: usize) {
        self.remove(job);
        self.asked += 1;
        self.jobs.insert(job, (self.asked, parties));
        self.used.insert(self.asked, job);
        while self.jobs.len() > most {
            let Some((_, oldest)) = self.used.pop_first() else { return };
            self.jobs.remove(&oldest);
        }
    }

    fn remove(&mut self, job: JobId) {
        if let Some((used, _)) = self.jobs.remove(&job) {
            self.used.remove(&used);
        }
    }
}

/// The latest events: all after `floor`.
#[derive(Debug)]
struct Recent {
    floor: EventSequence,
    events: VecDeque<Arc<Event>>,
}

impl Hub {
    /// Begins at the end of the log, and follows it until `stop`.
    pub(crate) async fn start(store: Store, stop: CancellationToken) -> Result<Self> {
        Self::start_keeping(KEPT, store, stop).await
    }

    async fn start_keeping(kept: usize, store: Store, stop: CancellationToken) -> Result<Self> {
        let mut bell = store.bell(Bell::Event);
        bell.mark_unchanged();
        let mut tx = store.read().await?;
        let last = event_last(tx.conn()).await?;
        drop(tx);
        let inner = Arc::new(Inner {
            store,
            recent: RwLock::new(Recent { floor: last, events: VecDeque::new() }),
            kept,
            head: watch::channel(last).0,
            parties: Mutex::default(),
        });
        let hub = Self { inner };
        let feeder = hub.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = feeder.feed(bell) => {}
            }
        });
        Ok(hub)
    }

    /// The place of the last event that may be sent.
    pub(crate) fn head(&self) -> EventSequence {
        *self.inner.head.borrow()
    }

    /// The place of the last event that is committed, whether it may be sent yet or not.
    pub(crate) async fn end(&self) -> Result<EventSequence> {
        let mut tx = self.inner.store.read().await?;
        event_last(tx.conn()).await
    }

    /// Changes when there are further events.
    pub(crate) fn watch(&self) -> watch::Receiver<EventSequence> {
        self.inner.head.subscribe()
    }

    /// The next events after a place, in order; none when it is the last.
    pub(crate) async fn after(&self, cursor: EventSequence) -> Result<Vec<Arc<Event>>> {
        if cursor >= self.head() {
            return Ok(Vec::new());
        }
        if let Some(events) = self.recent_after(cursor) {
            return Ok(events);
        }
        let mut tx = self.inner.store.read().await?;
        let events = event_list(tx.conn(), cursor, PAGE).await?;
        Ok(events.into_iter().map(Arc::new).collect())
    }

    /// Waits until an event after the cursor fits, and moves the cursor past it.
    ///
    /// When the log cannot be read it returns at once, after a pause: whoever waits looks again anyway.
    pub(crate) async fn wait_for(&self, cursor: &mut EventSequence, fits: impl Fn(&Event) -> bool) {
        let mut head = self.watch();
        loop {
            head.mark_unchanged();
            match self.after(*cursor).await {
                Ok(events) if events.is_empty() => {
                    if head.changed().await.is_err() {
                        // The log is followed for as long as the hub lives.
                        return std::future::pending().await;
                    }
                }
                Ok(events) => {
                    for event in events {
                        *cursor = event.sequence;
                        if fits(&event) {
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(error = %error, "cannot read the event log");
                    return tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Who takes part in a job, as far as the log goes.
    pub(crate) async fn parties(&self, job: JobId) -> Result<Arc<JobParties>> {
        let epoch = {
            let mut known = self.lock_parties();
            if let Some(parties) = known.get(job) {
                return Ok(parties);
            }
            known.epoch
        };
        let mut tx = self.inner.store.read().await?;
        let parties = Arc::new(job_parties(tx.conn(), job).await?);
        drop(tx);
        let mut known = self.lock_parties();
        if known.epoch == epoch {
            known.insert(job, Arc::clone(&parties), JOBS);
        }
        Ok(parties)
    }

    async fn feed(&self, mut bell: watch::Receiver<u64>) {
        while bell.changed().await.is_ok() {
            while let Some(more) = self.feed_page().await {
                if !more {
                    break;
                }
            }
        }
    }

    /// Takes in what was committed; says whether there may be more, or nothing if the database failed for good.
    async fn feed_page(&self) -> Option<bool> {
        let head = self.head();
        let events = loop {
            let page = async {
                let mut tx = self.inner.store.read().await?;
                event_list(tx.conn(), head, PAGE).await
            };
            match page.await {
                Ok(events) => break events,
                Err(error) => {
                    tracing::error!(error = %error, "cannot read the event log; nodes and clients learn nothing until it works");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let last = events.last()?.sequence;
        let more = events.len() as i64 == PAGE;
        self.learn(&events);
        {
            let mut recent = self.inner.recent.write().unwrap_or_else(PoisonError::into_inner);
            recent.events.extend(events.into_iter().map(Arc::new));
            while recent.events.len() > self.inner.kept {
                if let Some(event) = recent.events.pop_front() {
                    recent.floor = event.sequence;
                }
            }
        }
        self.inner.head.send_replace(last);
        Some(more)
    }

    /// Forgets the parties of jobs that grow, before anybody sees the event of it.
    fn learn(&self, events: &[Event]) {
        let mut known = self.lock_parties();
        for event in events {
            let grows = matches!(event.kind, EventKind::TaskCreated | EventKind::RunAssigned);
            if let (true, Some(job)) = (grows, event.job_id) {
                known.remove(job);
                known.epoch += 1;
            }
        }
    }

    fn recent_after(&self, cursor: EventSequence) -> Option<Vec<Arc<Event>>> {
        let recent = self.inner.recent.read().unwrap_or_else(PoisonError::into_inner);
        if cursor < recent.floor {
            return None;
        }
        let start = recent.events.partition_point(|event| event.sequence <= cursor);
        Some(recent.events.iter().skip(start).take(PAGE as usize).cloned().collect())
    }

    fn lock_parties(&self) -> std::sync::MutexGuard<'_, Parties> {
        self.inner.parties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use twinmesh_protocol::time::Time;

    use super::*;
    use crate::store::event::{NewEvent, event_insert_all};
    use crate::store::testing;

    /// A transaction of so many events, which is committed or not.
    async fn write(store: &Store, events: usize, commit: bool) -> i64 {
        let mut tx = store.write().await.unwrap();
        let events = vec![NewEvent::new(EventKind::TaskCreated, Time::from_micros(1)); events];
        event_insert_all(&mut tx, &events).await.unwrap();
        let last = event_last(tx.conn()).await.unwrap().get();
        if commit {
            tx.commit().await.unwrap();
        }
        last
    }

    /// Everything after a place, as a stream that is cut off after each page and begun anew would tell it.
    async fn read(hub: &Hub, mut cursor: EventSequence) -> Vec<i64> {
        let mut all = Vec::new();
        loop {
            let page = hub.after(cursor).await.unwrap();
            let Some(last) = page.last() else { return all };
            cursor = last.sequence;
            all.extend(page.iter().map(|event| event.sequence.get()));
        }
    }

    async fn reach(hub: &Hub, sequence: i64) {
        let mut head = hub.watch();
        let there = head.wait_for(|head| head.get() >= sequence);
        tokio::time::timeout(Duration::from_secs(20), there).await.unwrap().unwrap();
    }

    async fn replay(before: usize, writes: Vec<(usize, bool)>, kept: usize) {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path()).await;
        write(&store, before, true).await;
        let hub = Hub::start_keeping(kept, store.clone(), CancellationToken::new()).await.unwrap();
        let mut last = hub.head().get();
        for (events, commit) in writes {
            let written = write(&store, events, commit).await;
            if commit && events > 0 {
                last = written;
            }
            // Nothing is told that was not committed.
            assert!(hub.head().get() <= last);
        }
        reach(&hub, last).await;
        assert_eq!(hub.head().get(), last);
        let mut tx = store.read().await.unwrap();
        let table = event_list(tx.conn(), EventSequence::new(0), 1000).await.unwrap();
        let table: Vec<i64> = table.iter().map(|event| event.sequence.get()).collect();
        for cursor in 0..=last {
            let expected: Vec<i64> = table.iter().copied().filter(|sequence| *sequence > cursor).collect();
            assert_eq!(read(&hub, EventSequence::new(cursor)).await, expected, "after {cursor}");
        }
    }

    #[test]
    fn the_jobs_that_are_asked_for_stay_known_however_old_they_are() {
        let mut parties = Parties::default();
        let job = JobId::new;
        for number in [7, 8, 9] {
            parties.insert(job(number), Arc::default(), 3);
        }
        assert!(parties.get(job(7)).is_some());
        parties.insert(job(1), Arc::default(), 3);
        assert!(parties.get(job(1)).is_some() && parties.get(job(7)).is_some() && parties.get(job(9)).is_some());
        assert!(parties.get(job(8)).is_none());
        parties.insert(job(9), Arc::default(), 3);
        parties.remove(job(7));
        parties.insert(job(2), Arc::default(), 3);
        parties.insert(job(3), Arc::default(), 3);
        let known: Vec<JobId> = parties.jobs.keys().copied().collect();
        assert_eq!(known, [2, 3, 9].map(job));
        assert_eq!(parties.used.len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn whoever_begins_anywhere_is_told_exactly_what_was_committed_after(
            before in 0_usize..5,
            writes in proptest::collection::vec((0_usize..5, proptest::bool::weighted(0.8)), 0..12),
            kept in 0_usize..8,
        ) {
            tokio::runtime::Runtime::new().unwrap().block_on(replay(before, writes, kept));
        }
    }
}
