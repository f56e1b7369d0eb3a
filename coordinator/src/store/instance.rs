//! The coordinators that are at work on this database, and which nodes are connected to each.

use std::fmt;

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{EventKind, RelayPlace};

use super::event::{NewEvent, NodePlace, event_insert};
use super::peer::json_read;
use super::{Result, Tx};

/// Which coordinator: the same after a restart on the same data directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InstanceId(String);

impl InstanceId {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Begins anew: nobody is connected to this instance yet.
pub(crate) async fn instance_enter(tx: &mut Tx, id: &InstanceId, relay: Option<&RelayPlace>) -> Result<()> {
    sqlx::query("DELETE FROM attendance WHERE instance_id = $1").bind(&id.0).execute(tx.conn()).await?;
    instance_put(tx, id, relay).await
}

/// Forgets every instance: whoever calls has the database alone.
pub(crate) async fn instances_clear(tx: &mut Tx) -> Result<()> {
    sqlx::query("DELETE FROM instance").execute(tx.conn()).await?;
    Ok(())
}

/// Says that the instance lives, and where its meeting point is.
pub(crate) async fn instance_put(tx: &mut Tx, id: &InstanceId, relay: Option<&RelayPlace>) -> Result<()> {
    sqlx::query(
        "INSERT INTO instance (id, beat, relay) VALUES ($1, 0, $2) \
         ON CONFLICT (id) DO UPDATE SET beat = instance.beat + 1, relay = excluded.relay",
    )
    .bind(&id.0)
    .bind(relay.map(|relay| serde_json::to_string(relay).expect("texts can be written as JSON")))
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// All instances, each with its beat.
pub(crate) async fn instance_list(conn: &mut AnyConnection) -> Result<Vec<(InstanceId, i64)>> {
    let rows = sqlx::query("SELECT id, beat FROM instance ORDER BY id").fetch_all(conn).await?;
    rows.iter().map(|row| Ok((InstanceId(row.try_get(0)?), row.try_get(1)?))).collect()
}

/// Where the meeting points of all instances are.
pub(crate) async fn relay_list(conn: &mut AnyConnection) -> Result<Vec<RelayPlace>> {
    let rows = sqlx::query("SELECT relay FROM instance WHERE relay IS NOT NULL ORDER BY id").fetch_all(conn).await?;
    rows.iter().map(|row| json_read(&row.try_get::<String, _>(0)?, "where a meeting point is")).collect()
}

/// Removes an instance if its beat still stands there; whether it did.
pub(crate) async fn instance_remove(tx: &mut Tx, id: &InstanceId, beat: i64) -> Result<bool> {
    let done = sqlx::query("DELETE FROM instance WHERE id = $1 AND beat = $2")
        .bind(&id.0)
        .bind(beat)
        .execute(tx.conn())
        .await?;
    Ok(done.rows_affected() > 0)
}

/// The nodes that are recorded as connected to an instance.
pub(crate) async fn attendance_list(conn: &mut AnyConnection, id: &InstanceId) -> Result<Vec<NodeId>> {
    let rows = sqlx::query("SELECT node_id FROM attendance WHERE instance_id = $1").bind(&id.0).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(NodeId::new(row.try_get(0)?))).collect()
}

/// Records that a node is connected to an instance or no longer is, with the event if it thereby came or left; whether
/// it did.
pub(crate) async fn attendance_put(
    tx: &mut Tx,
    id: &InstanceId,
    node: NodePlace,
    here: bool,
    now: Time,
) -> Result<bool> {
    if here {
        // Others take an instance for dead that was merely slow; it is not.
        sqlx::query("INSERT INTO instance (id, beat) VALUES ($1, 0) ON CONFLICT (id) DO NOTHING")
            .bind(&id.0)
            .execute(tx.conn())
            .await?;
        // The node may have been deleted meanwhile.
        sqlx::query(
            "INSERT INTO attendance (instance_id, node_id) SELECT $1, id FROM node WHERE id = $2 \
             ON CONFLICT (instance_id, node_id) DO NOTHING",
        )
        .bind(&id.0)
        .bind(node.id.get())
        .execute(tx.conn())
        .await?;
    } else {
        sqlx::query("DELETE FROM attendance WHERE instance_id = $1 AND node_id = $2")
            .bind(&id.0)
            .bind(node.id.get())
            .execute(tx.conn())
            .await?;
    }
    let row = sqlx::query("SELECT COUNT(*) FROM attendance WHERE node_id = $1")
        .bind(node.id.get())
        .fetch_one(tx.conn())
        .await?;
    let connections: i64 = row.try_get(0)?;
    status_put(tx, node, connections > 0, now).await
}

/// Takes nodes offline that are connected to no instance; which they were.
pub(crate) async fn absent_leave(tx: &mut Tx, now: Time) -> Result<Vec<NodeId>> {
    let rows = sqlx::query(
        "SELECT node.id, node.organization_id, node.collaboration_id FROM node \
         JOIN authenticatable ON authenticatable.id = node.id WHERE authenticatable.status = 'online' \
         AND NOT EXISTS (SELECT 1 FROM attendance WHERE attendance.node_id = node.id) ORDER BY node.id",
    )
    .fetch_all(tx.conn())
    .await?;
    let mut left = Vec::new();
    for row in rows {
        let node = NodePlace {
            id: NodeId::new(row.try_get(0)?),
            organization_id: OrganizationId::new(row.try_get(1)?),
            collaboration_id: CollaborationId::new(row.try_get(2)?),
        };
        status_put(tx, node, false, now).await?;
        left.push(node.id);
    }
    Ok(left)
}

/// Writes a node's status if it is another than before, with the event.
async fn status_put(tx: &mut Tx, node: NodePlace, online: bool, now: Time) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE authenticatable SET status = $1, last_seen = $2 \
         WHERE id = $3 AND kind = 'node' AND COALESCE(status, 'offline') <> $1",
    )
    .bind(if online { "online" } else { "offline" })
    .bind(now.micros())
    .bind(node.id.get())
    .execute(tx.conn())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    let event = NewEvent {
        collaboration_id: Some(node.collaboration_id),
        organization_id: Some(node.organization_id),
        node_id: Some(node.id),
        ..NewEvent::new(if online { EventKind::NodeOnline } else { EventKind::NodeOffline }, now)
    };
    event_insert(tx, event).await?;
    Ok(true)
}
