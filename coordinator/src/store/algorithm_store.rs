//! Links to algorithm stores.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId};

use super::filter::{self, Filter};
use super::page::PageRequest;
use super::{Result, Tx, expect_one, removal};
use crate::authz::Permit;
use crate::authz::action::{EditAlgorithmStore, LinkAlgorithmStore, UnlinkAlgorithmStore};

/// A link to a store.
#[derive(Debug, Clone)]
pub(crate) struct AlgorithmStoreRecord {
    pub(crate) id: AlgorithmStoreId,
    pub(crate) name: String,
    /// With the path of its API, without a slash at the end.
    pub(crate) url: String,
    /// The collaboration it is linked to; all when `None`.
    pub(crate) collaboration: Option<CollaborationId>,
    /// Under which address it knows this coordinator.
    pub(crate) server_url: Option<String>,
    /// Whether somebody insisted on an address of this machine.
    pub(crate) forced: bool,
}

/// A link to be made.
#[derive(Debug, Clone)]
pub(crate) struct NewLink<'a> {
    pub(crate) name: &'a str,
    pub(crate) url: &'a str,
    pub(crate) server_url: Option<&'a str>,
    pub(crate) forced: bool,
}

const COLUMNS: &str = "algorithm_store.id, algorithm_store.name, algorithm_store.url, \
                       algorithm_store.collaboration_id, algorithm_store.server_url, algorithm_store.forced";

pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "algorithm_store.id"),
    ("name", "algorithm_store.name"),
    ("url", "algorithm_store.url"),
    ("collaboration_id", "algorithm_store.collaboration_id"),
];

fn read(row: &AnyRow) -> Result<AlgorithmStoreRecord> {
    Ok(AlgorithmStoreRecord {
        id: AlgorithmStoreId::new(row.try_get(0)?),
        name: row.try_get(1)?,
        url: row.try_get(2)?,
        collaboration: row.try_get::<Option<i64>, _>(3)?.map(CollaborationId::new),
        server_url: row.try_get(4)?,
        forced: row.try_get::<i64, _>(5)? != 0,
    })
}

pub(crate) async fn algorithm_store_fetch(
    conn: &mut AnyConnection,
    id: AlgorithmStoreId,
) -> Result<Option<AlgorithmStoreRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("algorithm_store.id", Some(id.get()));
    Ok(all(conn, &filter).await?.pop())
}

/// Every link to the store at an address.
pub(crate) async fn algorithm_stores_at(conn: &mut AnyConnection, url: &str) -> Result<Vec<AlgorithmStoreRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("algorithm_store.url", Some(url));
    all(conn, &filter).await
}

pub(crate) async fn algorithm_store_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<AlgorithmStoreRecord>, i64)> {
    let (rows, total) =
        filter::page(conn, COLUMNS, "algorithm_store", filter, request, SORTABLE, "algorithm_store.id").await?;
    Ok((rows.iter().map(read).collect::<Result<_>>()?, total))
}

async fn all(conn: &mut AnyConnection, filter: &Filter) -> Result<Vec<AlgorithmStoreRecord>> {
    let rows = filter::all(conn, COLUMNS, "algorithm_store", filter, "algorithm_store.id").await?;
    rows.iter().map(read).collect()
}

/// Links a store. A link to all collaborations takes the place of those to single ones, also in tasks.
pub(crate) async fn algorithm_store_insert(
    tx: &mut Tx,
    permit: Permit<LinkAlgorithmStore>,
    new: &NewLink<'_>,
) -> Result<AlgorithmStoreId> {
    let collaboration = permit.subject();
    let id = link_insert(tx, collaboration, new).await?;
    if collaboration.is_none() {
        absorb(tx, id, new.url).await?;
    }
    Ok(id)
}

/// Writes a link's row.
pub(super) async fn link_insert(
    tx: &mut Tx,
    collaboration: Option<CollaborationId>,
    new: &NewLink<'_>,
) -> Result<AlgorithmStoreId> {
    let row = sqlx::query(
        "INSERT INTO algorithm_store (name, url, collaboration_id, server_url, forced) VALUES ($1, $2, $3, $4, $5) \
         RETURNING id",
    )
    .bind(new.name)
    .bind(new.url)
    .bind(collaboration.map(CollaborationId::get))
    .bind(new.server_url)
    .bind(i64::from(new.forced))
    .fetch_one(tx.conn())
    .await?;
    Ok(AlgorithmStoreId::new(row.try_get(0)?))
}

/// Changes name and collaboration; the address stays, for another store may be at another.
pub(crate) async fn algorithm_store_update(
    tx: &mut Tx,
    permit: Permit<EditAlgorithmStore>,
    name: &str,
    url: &str,
    collaboration: Option<CollaborationId>,
) -> Result<()> {
    let id = permit.subject();
    let done = sqlx::query("UPDATE algorithm_store SET name = $1, collaboration_id = $2 WHERE id = $3")
        .bind(name)
        .bind(collaboration.map(CollaborationId::get))
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())?;
    if collaboration.is_none() {
        absorb(tx, id, url).await?;
    }
    Ok(())
}

/// Replaces every other link to the same store by this one.
async fn absorb(tx: &mut Tx, id: AlgorithmStoreId, url: &str) -> Result<()> {
    sqlx::query(
        "UPDATE task SET algorithm_store_id = $1 WHERE algorithm_store_id IN \
         (SELECT id FROM algorithm_store WHERE url = $2 AND id <> $1)",
    )
    .bind(id.get())
    .bind(url)
    .execute(tx.conn())
    .await?;
    sqlx::query("DELETE FROM algorithm_store WHERE url = $1 AND id <> $2")
        .bind(url)
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Removes a link; tasks that it vouched for keep their image and lose the link.
pub(crate) async fn algorithm_store_delete(tx: &mut Tx, permit: Permit<UnlinkAlgorithmStore>) -> Result<()> {
    expect_one(removal::algorithm_stores(tx, "id = $1", permit.subject().get()).await?)
}
