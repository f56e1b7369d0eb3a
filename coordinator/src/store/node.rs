//! Nodes.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId};
use twinmesh_protocol::time::Time;

use super::filter::{self, Filter};
use super::page::PageRequest;
use super::run::{Gone, fail_node_runs};
use super::token::log_ins_end;
use super::{Result, Tx, expect_one, removal, time};
use crate::authz::Permit;
use crate::authz::action::{CreateNode, DeleteNode, EditNode, PublishDetails, RenewApiKey};

/// A node's row.
#[derive(Debug, Clone)]
pub(crate) struct NodeRecord {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) organization: OrganizationId,
    pub(crate) collaboration: CollaborationId,
    pub(crate) ip: Option<String>,
    pub(crate) last_seen: Option<Time>,
    pub(crate) status: Option<String>,
    /// Keys and values; keys may repeat.
    pub(crate) config: Vec<(String, String)>,
}

const COLUMNS: &str = "node.id, node.name, node.organization_id, node.collaboration_id, authenticatable.ip, \
    authenticatable.last_seen, authenticatable.status";
const FROM: &str = "node JOIN authenticatable ON authenticatable.id = node.id";

pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "node.id"),
    ("name", "node.name"),
    ("organization_id", "node.organization_id"),
    ("collaboration_id", "node.collaboration_id"),
    ("ip", "authenticatable.ip"),
    ("last_seen", "authenticatable.last_seen"),
    ("status", "authenticatable.status"),
];

pub(crate) async fn node_fetch(conn: &mut AnyConnection, id: NodeId) -> Result<Option<NodeRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("node.id", Some(id.get()));
    Ok(node_all(conn, &filter).await?.pop())
}

pub(crate) async fn node_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<NodeRecord>, i64)> {
    let (rows, total) = filter::page(conn, COLUMNS, FROM, filter, request, SORTABLE, "node.id").await?;
    Ok((complete(conn, rows).await?, total))
}

pub(crate) async fn node_all(conn: &mut AnyConnection, filter: &Filter) -> Result<Vec<NodeRecord>> {
    let rows = filter::all(conn, COLUMNS, FROM, filter, "node.id").await?;
    complete(conn, rows).await
}

async fn complete(conn: &mut AnyConnection, rows: Vec<AnyRow>) -> Result<Vec<NodeRecord>> {
    let mut nodes = rows
        .iter()
        .map(|row| {
            Ok(NodeRecord {
                id: NodeId::new(row.try_get(0)?),
                name: row.try_get(1)?,
                organization: OrganizationId::new(row.try_get(2)?),
                collaboration: CollaborationId::new(row.try_get(3)?),
                ip: row.try_get(4)?,
                last_seen: time(row.try_get(5)?),
                status: row.try_get(6)?,
                config: Vec::new(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let ids = ("node_id", nodes.iter().map(|node| node.id.get()).collect());
    let rows = filter::all_in(conn, "node_id, key, value", "node_config", &Filter::default(), ids, "id").await?;
    let mut configs: BTreeMap<i64, Vec<(String, String)>> = BTreeMap::new();
    for row in rows {
        configs.entry(row.try_get(0)?).or_default().push((row.try_get(1)?, row.try_get(2)?));
    }
    for node in &mut nodes {
        node.config = configs.remove(&node.id.get()).unwrap_or_default();
    }
    Ok(nodes)
}

/// Whether another has the name.
pub(crate) async fn node_name_taken(conn: &mut AnyConnection, name: &str, besides: Option<NodeId>) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM node WHERE name = $1 AND id <> $2")
        .bind(name)
        .bind(besides.map_or(0, NodeId::get))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

/// The node of an organization in a collaboration: there is at most one.
pub(crate) async fn node_at(
    conn: &mut AnyConnection,
    organization: OrganizationId,
    collaboration: CollaborationId,
) -> Result<Option<NodeId>> {
    let row = sqlx::query("SELECT id FROM node WHERE organization_id = $1 AND collaboration_id = $2")
        .bind(organization.get())
        .bind(collaboration.get())
        .fetch_optional(conn)
        .await?;
    row.map(|row| Ok(NodeId::new(row.try_get(0)?))).transpose()
}

/// The node whose API key has this hash.
pub(crate) async fn node_by_api_key(conn: &mut AnyConnection, hash: &str) -> Result<Option<NodeId>> {
    let row = sqlx::query("SELECT id FROM node WHERE api_key_hash = $1").bind(hash).fetch_optional(conn).await?;
    row.map(|row| Ok(NodeId::new(row.try_get(0)?))).transpose()
}

/// The columns of a database as the first node of a collaboration tells them; stock servers take one node's word for
/// all.
pub(crate) async fn column_list(
    conn: &mut AnyConnection,
    collaboration: CollaborationId,
    label: &str,
) -> Result<Vec<String>> {
    let rows = sqlx::query(
        "SELECT value FROM node_config WHERE key = $2 AND node_id = \
         (SELECT MIN(node.id) FROM node JOIN node_config ON node_config.node_id = node.id \
         WHERE node.collaboration_id = $1 AND node_config.key = $2) ORDER BY id",
    )
    .bind(collaboration.get())
    .bind(format!("columns_{label}"))
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// An API key to be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewApiKey<'a> {
    pub(crate) hash: &'a str,
    /// Whether it is handed to a member who may replace the organization's public key.
    pub(crate) in_own_hands: bool,
}

impl<'a> NewApiKey<'a> {
    /// One that an operator is given.
    pub(crate) fn of_operator(hash: &'a str) -> Self {
        Self { hash, in_own_hands: false }
    }

    fn member_hash(self) -> Option<&'a str> {
        self.in_own_hands.then_some(self.hash)
    }
}

pub(crate) async fn node_insert(
    tx: &mut Tx,
    permit: Permit<CreateNode>,
    name: &str,
    api_key: NewApiKey<'_>,
) -> Result<NodeId> {
    let (collaboration, organization) = permit.subject();
    let row =
        sqlx::query("INSERT INTO authenticatable (kind) VALUES ('node') RETURNING id").fetch_one(tx.conn()).await?;
    let id = NodeId::new(row.try_get(0)?);
    sqlx::query(
        "INSERT INTO node (id, name, api_key_hash, member_key_hash, organization_id, collaboration_id) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id.get())
    .bind(name)
    .bind(api_key.hash)
    .bind(api_key.member_hash())
    .bind(organization.get())
    .bind(collaboration.get())
    .execute(tx.conn())
    .await?;
    Ok(id)
}

pub(crate) async fn node_update(tx: &mut Tx, permit: Permit<EditNode>, name: &str, ip: Option<&str>) -> Result<()> {
    let id = permit.subject().get();
    let done = sqlx::query("UPDATE node SET name = $1 WHERE id = $2").bind(name).bind(id).execute(tx.conn()).await?;
    expect_one(done.rows_affected())?;
    sqlx::query("UPDATE authenticatable SET ip = $1 WHERE id = $2").bind(ip).bind(id).execute(tx.conn()).await?;
    Ok(())
}

/// Replaces what a node told of itself.
pub(crate) async fn node_config_replace(
    tx: &mut Tx,
    permit: Permit<PublishDetails>,
    rows: &[(String, String)],
) -> Result<()> {
    let id = permit.subject().get();
    sqlx::query("DELETE FROM node_config WHERE node_id = $1").bind(id).execute(tx.conn()).await?;
    for (key, value) in rows {
        sqlx::query("INSERT INTO node_config (node_id, key, value) VALUES ($1, $2, $3)")
            .bind(id)
            .bind(key.as_str())
            .bind(value.as_str())
            .execute(tx.conn())
            .await?;
    }
    Ok(())
}

/// Gives a node another key; the old one, and every token had with it, stops working. Those of algorithms end with their
/// runs.
pub(crate) async fn api_key_replace(
    tx: &mut Tx,
    permit: Permit<RenewApiKey>,
    api_key: NewApiKey<'_>,
    now: Time,
) -> Result<()> {
    let id = permit.subject().get();
    let done = sqlx::query("UPDATE node SET api_key_hash = $1, member_key_hash = $2 WHERE id = $3")
        .bind(api_key.hash)
        .bind(api_key.member_hash())
        .bind(id)
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())?;
    log_ins_end(tx, id, None, now).await
}

/// Removes a node; what it has not finished ends as failed.
pub(crate) async fn node_delete(tx: &mut Tx, permit: Permit<DeleteNode>, now: Time) -> Result<()> {
    let id = permit.subject();
    fail_node_runs(tx, id, Gone::Deleted, now).await?;
    removal::nodes(tx, "id = $1", id.get()).await
}
