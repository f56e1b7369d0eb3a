//! Who is there: a node is online while it follows the log, and for a moment after.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use twinmesh_protocol::id::NodeId;
use twinmesh_protocol::wire::EventKind;

use crate::clock::Clock;
use crate::store::event::{NewEvent, NodePlace, event_insert, node_status_put, online_nodes};
use crate::store::{Result, Store};

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
    /// What the table says.
    online: bool,
}

impl Presence {
    /// Begins with everybody gone: nobody follows the log yet.
    pub(crate) async fn start(store: Store, clock: Clock, grace: Duration) -> Result<Self> {
        let presence = Self {
            inner: Arc::new(Inner { store, clock, grace, nodes: Mutex::default(), writing: AsyncMutex::new(()) }),
        };
        let mut tx = presence.inner.store.read().await?;
        let left_behind = online_nodes(tx.conn()).await?;
        drop(tx);
        for node in left_behind {
            presence.write(node, false).await?;
        }
        Ok(presence)
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
            (here != entry.online).then_some(here)
        });
        if let Some(here) = here {
            self.write(node, here).await?;
            self.attendance(node.id, |entry| entry.online = here);
        }
        let mut nodes = self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.get(&node.id).is_some_and(|entry| entry.streams == 0 && entry.leaving == 0 && !entry.online) {
            nodes.remove(&node.id);
        }
        Ok(())
    }

    async fn write(&self, node: NodePlace, online: bool) -> Result<()> {
        let now = self.inner.clock.now();
        let mut tx = self.inner.store.write().await?;
        if !node_status_put(&mut tx, node.id, online, now).await? {
            // The node was deleted meanwhile.
            return Ok(());
        }
        let kind = if online { EventKind::NodeOnline } else { EventKind::NodeOffline };
        let event = NewEvent {
            collaboration_id: Some(node.collaboration_id),
            organization_id: Some(node.organization_id),
            node_id: Some(node.id),
            ..NewEvent::new(kind, now)
        };
        event_insert(&mut tx, event).await?;
        tx.commit().await?;
        tracing::info!(node.id = %node.id, online, "node {}", if online { "came" } else { "left" });
        Ok(())
    }

    fn attendance<T>(&self, node: NodeId, change: impl FnOnce(&mut Attendance) -> T) -> T {
        let mut nodes = self.inner.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        change(nodes.entry(node).or_default())
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
