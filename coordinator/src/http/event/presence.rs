//! Who is there: a node is online while it follows the log at any instance, and for a moment after.
//!
//! Each instance writes down which nodes are connected to it, and that it lives. One that stops to do so is taken for
//! dead by the others after its lease, and its nodes that did not move to another are offline. Leases are measured by
//! who watches, with its own clock: clocks of several machines are never compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use twinmesh_protocol::id::NodeId;
use twinmesh_protocol::wire::RelayPlace;

use crate::authn::secret::Sealed;
use crate::clock::Clock;
use crate::relay::Relay;
use crate::store::event::NodePlace;
use crate::store::instance::{
    InstanceId, absent_leave, attendance_list, attendance_put, instance_enter, instance_list, instance_put,
    instance_remove, instances_clear,
};
use crate::store::{Result, Store};

/// Signs of life within one lease.
const BEATS: u32 = 4;

/// Which coordinator this is among those on the same database.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    /// By which it knows the words of other instances from those of anybody else at the database.
    pub(crate) words: Sealed,
    /// How long an instance may be silent before the others take its nodes offline.
    pub(crate) lease: Duration,
    /// Its meeting point, of which all others tell.
    pub(crate) relay: Option<Arc<Relay>>,
}

impl Instance {
    /// Where its meeting point is at this moment.
    fn place(&self) -> Option<RelayPlace> {
        self.relay.as_ref().map(|relay| relay.place())
    }
}

/// Keeps the books of who is there; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Presence {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    clock: Clock,
    /// How long a node may be away before it counts as gone: long enough to come back after a lost connection.
    grace: Duration,
    instance: Instance,
    nodes: Mutex<BTreeMap<NodeId, Attendance>>,
    /// One writer at a time, so that what is written last is what is so.
    writing: AsyncMutex<()>,
}

/// How often a node is here.
#[derive(Debug, Default)]
struct Attendance {
    /// Streams it holds open.
    streams: usize,
    /// Departures that are waited out.
    leaving: usize,
    /// Where it belongs, if the table says that it is here.
    recorded: Option<NodePlace>,
}

impl Presence {
    /// Begins with nobody here: whoever was connected to this instance before is no more.
    pub(crate) async fn start(
        store: Store,
        clock: Clock,
        grace: Duration,
        instance: Instance,
        stop: CancellationToken,
    ) -> Result<Self> {
        let shared = store.is_shared();
        let nodes = Mutex::default();
        let writing = AsyncMutex::new(());
        let presence = Self { inner: Arc::new(Inner { store, clock, grace, instance, nodes, writing }) };
        let now = presence.inner.clock.now();
        let mut tx = presence.inner.store.write().await?;
        if !shared {
            instances_clear(&mut tx).await?;
        }
        instance_enter(&mut tx, &presence.inner.instance.id, presence.inner.instance.place().as_ref()).await?;
        let left = absent_leave(&mut tx, now).await?;
        tx.commit().await?;
        report_left(&left);
        if shared {
            let keeper = presence.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = keeper.keep() => {}
                }
            });
        }
        Ok(presence)
    }

    /// Shows that this instance lives, and watches the others.
    async fn keep(&self) {
        let period = self.inner.instance.lease / BEATS;
        let mut watched = Watched::new(period);
        let mut tick = tokio::time::interval(period.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Err(error) = self.beat(&mut watched).await {
                tracing::warn!(error = %error, "cannot tell other coordinators that this one lives");
            }
        }
    }

    async fn beat(&self, watched: &mut Watched) -> Result<()> {
        let inner = &*self.inner;
        let mut tx = inner.store.note().await?;
        instance_put(&mut tx, &inner.instance.id, inner.instance.place().as_ref()).await?;
        tx.commit().await?;
        self.restore().await?;

        let mut tx = inner.store.read().await?;
        let instances = instance_list(tx.conn()).await?;
        drop(tx);
        for (id, beat) in watched.silent(instances, Instant::now(), inner.instance.lease) {
            if id == inner.instance.id {
                continue;
            }
            let now = inner.clock.now();
            let mut tx = inner.store.write().await?;
            if !instance_remove(&mut tx, &id, beat).await? {
                continue;
            }
            let left = absent_leave(&mut tx, now).await?;
            tx.commit().await?;
            tracing::warn!(instance.id = %id, "a coordinator on the same database is gone");
            report_left(&left);
        }
        Ok(())
    }

    /// Writes down again who is here, should others have taken this instance for dead.
    async fn restore(&self) -> Result<()> {
        let inner = &*self.inner;
        let lost: Vec<NodePlace> = {
            let _turn = inner.writing.lock().await;
            let mut tx = inner.store.read().await?;
            let written = attendance_list(tx.conn(), &inner.instance.id).await?;
            drop(tx);
            let mut nodes = inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
            let lost = nodes.iter_mut().filter(|(id, _)| !written.contains(id));
            lost.filter_map(|(_, entry)| entry.recorded.take()).collect()
        };
        for node in lost {
            self.settle(node).await?;
        }
        Ok(())
    }

    /// Notes that a node follows the log, for as long as the guard lives.
    pub(crate) async fn enter(&self, node: NodePlace) -> Result<Attending> {
        self.attendance(node.id, |entry| entry.streams += 1);
        let attending = Attending { presence: self.clone(), node };
        self.settle(node).await?;
        Ok(attending)
    }

    /// Writes down whether the node is here, if that is not what is written.
    async fn settle(&self, node: NodePlace) -> Result<()> {
        let _turn = self.inner.writing.lock().await;
        let here = self.attendance(node.id, |entry| {
            let here = entry.streams > 0 || entry.leaving > 0;
            (here != entry.recorded.is_some()).then_some(here)
        });
        if let Some(here) = here {
            self.write(node, here).await?;
            self.attendance(node.id, |entry| entry.recorded = here.then_some(node));
        }
        let mut nodes = self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(&node.id).is_some_and(|entry| entry.streams == 0 && entry.leaving == 0 && entry.recorded.is_none())
        {
            nodes.remove(&node.id);
        }
        Ok(())
    }

    async fn write(&self, node: NodePlace, here: bool) -> Result<()> {
        let now = self.inner.clock.now();
        let mut tx = self.inner.store.write().await?;
        let changed = attendance_put(&mut tx, &self.inner.instance.id, node, here, now).await?;
        tx.commit().await?;
        if changed {
            tracing::info!(node.id = %node.id, online = here, "node {}", if here { "came" } else { "left" });
        }
        Ok(())
    }

    fn attendance<T>(&self, node: NodeId, change: impl FnOnce(&mut Attendance) -> T) -> T {
        let mut nodes = self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        change(nodes.entry(node).or_default())
    }
}

fn report_left(nodes: &[NodeId]) {
    for node in nodes {
        tracing::info!(node.id = %node, online = false, "node left");
    }
}

/// Since when the beats of instances stand still, as seen from here.
#[derive(Debug)]
struct Watched {
    period: Duration,
    /// The last look.
    looked: Option<Instant>,
    beats: BTreeMap<InstanceId, (i64, Instant)>,
}

impl Watched {
    fn new(period: Duration) -> Self {
        Self { period, looked: None, beats: BTreeMap::new() }
    }

    /// Which instances have been silent for longer than `lease`, and at which beat.
    fn silent(&mut self, instances: Vec<(InstanceId, i64)>, now: Instant, lease: Duration) -> Vec<(InstanceId, i64)> {
        // Whoever could not look for a while knows nothing of that time: perhaps nobody could write either.
        if self.looked.is_none_or(|looked| now.duration_since(looked) > self.period * 2) {
            self.beats.clear();
        }
        self.looked = Some(now);
        let mut before = std::mem::take(&mut self.beats);
        let mut silent = Vec::new();
        for (id, beat) in instances {
            let since = before.remove(&id).filter(|(last, _)| *last == beat).map_or(now, |(_, since)| since);
            if now.duration_since(since) > lease {
                silent.push((id.clone(), beat));
            }
            self.beats.insert(id, (beat, since));
        }
        silent
    }
}

/// A node that follows the log.
#[derive(Debug)]
pub(crate) struct Attending {
    presence: Presence,
    node: NodePlace,
}

impl Drop for Attending {
    fn drop(&mut self) {
        let (presence, node) = (self.presence.clone(), self.node);
        presence.attendance(node.id, |entry| {
            entry.streams -= 1;
            entry.leaving += 1;
        });
        // Outside a runtime everything ends, and the next start finds everybody gone.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            tokio::time::sleep(presence.inner.grace).await;
            presence.attendance(node.id, |entry| entry.leaving -= 1);
            if let Err(error) = presence.settle(node).await {
                tracing::error!(node.id = %node.id, error = %error, "cannot record that the node left");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(8);
    const PERIOD: Duration = Duration::from_secs(2);

    /// Looks at each of these (second, beat) and tells at which the instance was found silent.
    fn watch(looks: &[(u64, i64)]) -> Vec<u64> {
        let start = Instant::now();
        let mut watched = Watched::new(PERIOD);
        let silent_at = |(second, beat): &(u64, i64)| {
            let instances = vec![(InstanceId::new("a"), *beat)];
            let silent = watched.silent(instances, start + Duration::from_secs(*second), LEASE);
            (!silent.is_empty()).then_some(*second)
        };
        looks.iter().filter_map(silent_at).collect()
    }

    #[test]
    fn an_instance_whose_beat_stands_still_longer_than_its_lease_is_silent() {
        assert_eq!(watch(&[(0, 1), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2), (12, 2)]), [12]);
    }

    #[test]
    fn an_instance_that_beats_slowly_lives() {
        assert!(watch(&[(0, 1), (3, 1), (6, 1), (8, 2), (11, 2), (14, 2), (16, 3), (19, 3)]).is_empty());
    }

    #[test]
    fn whoever_could_not_look_judges_nobody() {
        assert_eq!(watch(&[(0, 1), (60, 1), (63, 1), (66, 1), (69, 1)]), [69]);
    }
}
