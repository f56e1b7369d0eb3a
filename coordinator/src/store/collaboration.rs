//! Collaborations and who takes part in them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::time::Time;

use super::filter::{self, Filter};
use super::node::node_at;
use super::page::PageRequest;
use super::run::{Gone, fail_node_runs};
use super::{Result, Tx, expect_one, removal};
use crate::authz::Permit;
use crate::authz::action::{CreateCollaboration, DeleteCollaboration, EditCollaboration, ReplaceMembers};

/// A collaboration's row.
#[derive(Debug, Clone)]
pub(crate) struct CollaborationRecord {
    pub(crate) id: CollaborationId,
    pub(crate) name: String,
    pub(crate) encrypted: bool,
}

const COLUMNS: &str = "collaboration.id, collaboration.name, collaboration.encrypted";

pub(crate) const SORTABLE: &[(&str, &str)] =
    &[("id", "collaboration.id"), ("name", "collaboration.name"), ("encrypted", "collaboration.encrypted")];

fn read(row: &AnyRow) -> Result<CollaborationRecord> {
    Ok(CollaborationRecord {
        id: CollaborationId::new(row.try_get(0)?),
        name: row.try_get(1)?,
        encrypted: row.try_get::<i64, _>(2)? != 0,
    })
}

pub(crate) async fn collaboration_fetch(
    conn: &mut AnyConnection,
    id: CollaborationId,
) -> Result<Option<CollaborationRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("collaboration.id", Some(id.get()));
    let rows = filter::all(conn, COLUMNS, "collaboration", &filter, "collaboration.id").await?;
    rows.first().map(read).transpose()
}

/// Whether another has the name.
pub(crate) async fn collaboration_name_taken(
    conn: &mut AnyConnection,
    name: &str,
    besides: Option<CollaborationId>,
) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM collaboration WHERE name = $1 AND id <> $2")
        .bind(name)
        .bind(besides.map_or(0, CollaborationId::get))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

pub(crate) async fn collaboration_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<CollaborationRecord>, i64)> {
    let (rows, total) =
        filter::page(conn, COLUMNS, "collaboration", filter, request, SORTABLE, "collaboration.id").await?;
    Ok((rows.iter().map(read).collect::<Result<_>>()?, total))
}

/// Who takes part in each of these collaborations.
pub(crate) async fn members(
    conn: &mut AnyConnection,
    ids: impl IntoIterator<Item = CollaborationId>,
) -> Result<BTreeMap<CollaborationId, BTreeSet<OrganizationId>>> {
    let mut filter = Filter::default();
    filter.and_in("collaboration_id", ids.into_iter().map(CollaborationId::get));
    let columns = "collaboration_id, organization_id";
    let rows = filter::all(conn, columns, "collaboration_organization", &filter, "1, 2").await?;
    let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for row in rows {
        found.entry(CollaborationId::new(row.try_get(0)?)).or_default().insert(OrganizationId::new(row.try_get(1)?));
    }
    Ok(found)
}

/// Who takes part in one collaboration.
pub(crate) async fn members_of(conn: &mut AnyConnection, id: CollaborationId) -> Result<BTreeSet<OrganizationId>> {
    Ok(members(conn, [id]).await?.remove(&id).unwrap_or_default())
}

pub(crate) async fn collaboration_insert(
    tx: &mut Tx,
    _: Permit<CreateCollaboration>,
    name: &str,
    encrypted: bool,
    organizations: &BTreeSet<OrganizationId>,
) -> Result<CollaborationId> {
    let row = sqlx::query("INSERT INTO collaboration (name, encrypted) VALUES ($1, $2) RETURNING id")
        .bind(name)
        .bind(i64::from(encrypted))
        .fetch_one(tx.conn())
        .await?;
    let id = CollaborationId::new(row.try_get(0)?);
    for organization in organizations {
        member_insert(tx, id, *organization).await?;
    }
    Ok(id)
}

pub(crate) async fn collaboration_update(
    tx: &mut Tx,
    permit: Permit<EditCollaboration>,
    name: &str,
    encrypted: bool,
) -> Result<()> {
    let done = sqlx::query("UPDATE collaboration SET name = $1, encrypted = $2 WHERE id = $3")
        .bind(name)
        .bind(i64::from(encrypted))
        .bind(permit.subject().get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// Makes these organizations the members, and no others. Who leaves also leaves the collaboration's studies, and what
/// its node has not finished ends as failed.
pub(crate) async fn members_replace(
    tx: &mut Tx,
    permit: Permit<ReplaceMembers>,
    organizations: &BTreeSet<OrganizationId>,
    now: Time,
) -> Result<()> {
    let id = permit.subject();
    let before = members_of(tx.conn(), id).await?;
    for organization in before.difference(organizations) {
        if let Some(node) = node_at(tx.conn(), *organization, id).await? {
            fail_node_runs(tx, node, Gone::Left, now).await?;
        }
        sqlx::query("DELETE FROM collaboration_organization WHERE collaboration_id = $1 AND organization_id = $2")
            .bind(id.get())
            .bind(organization.get())
            .execute(tx.conn())
            .await?;
        sqlx::query(
            "DELETE FROM study_organization WHERE organization_id = $2 \
             AND study_id IN (SELECT id FROM study WHERE collaboration_id = $1)",
        )
        .bind(id.get())
        .bind(organization.get())
        .execute(tx.conn())
        .await?;
    }
    for organization in organizations.difference(&before) {
        member_insert(tx, id, *organization).await?;
    }
    Ok(())
}

async fn member_insert(tx: &mut Tx, id: CollaborationId, organization: OrganizationId) -> Result<()> {
    sqlx::query("INSERT INTO collaboration_organization (collaboration_id, organization_id) VALUES ($1, $2)")
        .bind(id.get())
        .bind(organization.get())
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// What would go with a collaboration, in words; nothing when it stands alone.
pub(crate) async fn collaboration_dependents(
    conn: &mut AnyConnection,
    id: CollaborationId,
) -> Result<Vec<&'static str>> {
    removal::dependents(
        conn,
        id.get(),
        &[
            ("tasks", "SELECT COUNT(*) FROM task WHERE collaboration_id = $1"),
            ("nodes", "SELECT COUNT(*) FROM node WHERE collaboration_id = $1"),
            ("studies", "SELECT COUNT(*) FROM study WHERE collaboration_id = $1"),
        ],
    )
    .await
}

/// Removes a collaboration with all that depends on it.
pub(crate) async fn collaboration_delete(tx: &mut Tx, permit: Permit<DeleteCollaboration>, now: Time) -> Result<()> {
    let id = permit.subject().get();
    removal::tasks(tx, "collaboration_id = $1", id, now).await?;
    removal::nodes(tx, "collaboration_id = $1", id).await?;
    removal::algorithm_stores(tx, "collaboration_id = $1", id).await?;
    sqlx::query("DELETE FROM study WHERE collaboration_id = $1").bind(id).execute(tx.conn()).await?;
    let done = sqlx::query("DELETE FROM collaboration WHERE id = $1").bind(id).execute(tx.conn()).await?;
    expect_one(done.rows_affected())
}
