//! Organizations.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::EventKind;

use super::event::{NewEvent, event_insert};
use super::filter::{self, Filter};
use super::page::PageRequest;
use super::{Result, Tx, expect_one, removal};
use crate::authz::Permit;
use crate::authz::action::{CreateOrganization, DeleteOrganization, EditOrganization, ReplacePublicKey};

/// An organization's row.
#[derive(Debug, Clone)]
pub(crate) struct OrganizationRecord {
    pub(crate) id: OrganizationId,
    pub(crate) details: OrganizationDetails,
    /// Base64 of the PEM text.
    pub(crate) public_key: Option<String>,
}

/// What an organization says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct OrganizationDetails {
    pub(crate) name: String,
    pub(crate) domain: Option<String>,
    pub(crate) address1: Option<String>,
    pub(crate) address2: Option<String>,
    pub(crate) zipcode: Option<String>,
    pub(crate) country: Option<String>,
}

const COLUMNS: &str = "organization.id, organization.name, organization.domain, organization.address1, \
    organization.address2, organization.zipcode, organization.country, organization.public_key";

pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "organization.id"),
    ("name", "organization.name"),
    ("domain", "organization.domain"),
    ("address1", "organization.address1"),
    ("address2", "organization.address2"),
    ("zipcode", "organization.zipcode"),
    ("country", "organization.country"),
];

fn read(row: &AnyRow) -> Result<OrganizationRecord> {
    Ok(OrganizationRecord {
        id: OrganizationId::new(row.try_get(0)?),
        details: OrganizationDetails {
            name: row.try_get(1)?,
            domain: row.try_get(2)?,
            address1: row.try_get(3)?,
            address2: row.try_get(4)?,
            zipcode: row.try_get(5)?,
            country: row.try_get(6)?,
        },
        public_key: row.try_get(7)?,
    })
}

pub(crate) async fn organization_fetch(
    conn: &mut AnyConnection,
    id: OrganizationId,
) -> Result<Option<OrganizationRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("organization.id", Some(id.get()));
    Ok(organization_all(conn, &filter).await?.pop())
}

/// Whether somebody else has the name.
pub(crate) async fn organization_name_taken(
    conn: &mut AnyConnection,
    name: &str,
    besides: Option<OrganizationId>,
) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM organization WHERE name = $1 AND id <> $2")
        .bind(name)
        .bind(besides.map_or(0, OrganizationId::get))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

pub(crate) async fn organization_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<OrganizationRecord>, i64)> {
    let (rows, total) =
        filter::page(conn, COLUMNS, "organization", filter, request, SORTABLE, "organization.id").await?;
    Ok((rows.iter().map(read).collect::<Result<_>>()?, total))
}

pub(crate) async fn organization_all(conn: &mut AnyConnection, filter: &Filter) -> Result<Vec<OrganizationRecord>> {
    let rows = filter::all(conn, COLUMNS, "organization", filter, "organization.id").await?;
    rows.iter().map(read).collect()
}

/// Those of these organizations that the filter leaves.
pub(crate) async fn organization_list(
    conn: &mut AnyConnection,
    filter: &Filter,
    ids: impl IntoIterator<Item = OrganizationId>,
) -> Result<Vec<OrganizationRecord>> {
    let ids = ("organization.id", ids.into_iter().map(OrganizationId::get).collect());
    let rows = filter::all_in(conn, COLUMNS, "organization", filter, ids, "organization.id").await?;
    rows.iter().map(read).collect()
}

/// Which of these organizations do not exist.
pub(crate) async fn organizations_missing(
    conn: &mut AnyConnection,
    ids: &BTreeSet<OrganizationId>,
) -> Result<BTreeSet<OrganizationId>> {
    let found = organization_list(conn, &Filter::default(), ids.iter().copied()).await?;
    let known: BTreeSet<_> = found.into_iter().map(|found| found.id).collect();
    Ok(ids.difference(&known).copied().collect())
}

pub(crate) async fn organization_insert(
    tx: &mut Tx,
    _: Permit<CreateOrganization>,
    new: &OrganizationDetails,
    key: Option<NewKey<'_>>,
) -> Result<OrganizationId> {
    row_insert(tx, new, key).await
}

/// A key to be kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewKey<'a> {
    /// Base64 of the PEM text.
    pub(crate) public_key: &'a str,
    /// Who brings it: `user:3`, `node:4` or `operator`.
    pub(crate) by: &'a str,
    pub(crate) now: Time,
}

/// Writes an organization's row.
pub(super) async fn row_insert(
    tx: &mut Tx,
    new: &OrganizationDetails,
    key: Option<NewKey<'_>>,
) -> Result<OrganizationId> {
    let row = sqlx::query(
        "INSERT INTO organization (name, domain, address1, address2, zipcode, country, public_key) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
    )
    .bind(&new.name)
    .bind(new.domain.as_deref())
    .bind(new.address1.as_deref())
    .bind(new.address2.as_deref())
    .bind(new.zipcode.as_deref())
    .bind(new.country.as_deref())
    .bind(key.map(|key| key.public_key))
    .fetch_one(tx.conn())
    .await?;
    let id = OrganizationId::new(row.try_get(0)?);
    if let Some(key) = key {
        key_insert(tx, id, key).await?;
    }
    Ok(id)
}

/// Adds a key to the history; the one before it is replaced.
async fn key_insert(tx: &mut Tx, id: OrganizationId, key: NewKey<'_>) -> Result<()> {
    sqlx::query("UPDATE organization_key SET replaced_at = $1 WHERE organization_id = $2 AND replaced_at IS NULL")
        .bind(key.now.micros())
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    sqlx::query("INSERT INTO organization_key (organization_id, public_key, set_at, set_by) VALUES ($1, $2, $3, $4)")
        .bind(id.get())
        .bind(key.public_key)
        .bind(key.now.micros())
        .bind(key.by)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// A key of the history.
#[derive(Debug, Clone)]
pub(crate) struct KeyHistoryRecord {
    /// Base64 of the PEM text.
    pub(crate) public_key: String,
    pub(crate) set_at: Option<Time>,
    /// `user:3`, `node:4` or `operator`.
    pub(crate) set_by: Option<String>,
    pub(crate) replaced_at: Option<Time>,
}

pub(crate) const KEYS_SORTABLE: &[(&str, &str)] = &[("set_at", "set_at"), ("replaced_at", "replaced_at")];

/// The keys an organization has had, newest first.
pub(crate) async fn organization_key_page(
    conn: &mut AnyConnection,
    id: OrganizationId,
    request: &PageRequest,
) -> Result<(Vec<KeyHistoryRecord>, i64)> {
    let mut filter = Filter::default();
    filter.and_equal("organization_id", Some(id.get()));
    let columns = "public_key, set_at, set_by, replaced_at";
    let (rows, total) =
        filter::page(conn, columns, "organization_key", &filter, request, KEYS_SORTABLE, "id DESC").await?;
    let read = |row: &AnyRow| {
        Ok(KeyHistoryRecord {
            public_key: row.try_get(0)?,
            set_at: super::time(row.try_get(1)?),
            set_by: row.try_get(2)?,
            replaced_at: super::time(row.try_get(3)?),
        })
    };
    Ok((rows.iter().map(read).collect::<Result<_>>()?, total))
}

pub(crate) async fn organization_update(
    tx: &mut Tx,
    permit: Permit<EditOrganization>,
    new: &OrganizationDetails,
) -> Result<()> {
    let done = sqlx::query(
        "UPDATE organization SET name = $1, domain = $2, address1 = $3, address2 = $4, zipcode = $5, country = $6 \
         WHERE id = $7",
    )
    .bind(&new.name)
    .bind(new.domain.as_deref())
    .bind(new.address1.as_deref())
    .bind(new.address2.as_deref())
    .bind(new.zipcode.as_deref())
    .bind(new.country.as_deref())
    .bind(permit.subject().get())
    .execute(tx.conn())
    .await?;
    expect_one(done.rows_affected())
}

/// Replaces the key and tells every collaboration of the organization.
pub(crate) async fn public_key_replace(tx: &mut Tx, permit: Permit<ReplacePublicKey>, key: NewKey<'_>) -> Result<()> {
    let id = permit.subject();
    let done = sqlx::query("UPDATE organization SET public_key = $1 WHERE id = $2")
        .bind(key.public_key)
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())?;
    key_insert(tx, id, key).await?;
    for collaboration in super::identity::collaborations_of(tx.conn(), id).await? {
        let event = NewEvent {
            collaboration_id: Some(collaboration),
            organization_id: Some(id),
            ..NewEvent::new(EventKind::KeyChanged, key.now)
        };
        event_insert(tx, event).await?;
    }
    Ok(())
}

/// What would go with an organization, in words; nothing when it stands alone.
pub(crate) async fn organization_dependents(conn: &mut AnyConnection, id: OrganizationId) -> Result<Vec<&'static str>> {
    removal::dependents(
        conn,
        id.get(),
        &[
            ("runs", "SELECT COUNT(*) FROM run WHERE organization_id = $1"),
            ("tasks", "SELECT COUNT(*) FROM task WHERE init_org_id = $1"),
            ("nodes", "SELECT COUNT(*) FROM node WHERE organization_id = $1"),
            ("users", "SELECT COUNT(*) FROM user_account WHERE organization_id = $1"),
            ("roles", "SELECT COUNT(*) FROM role WHERE organization_id = $1"),
        ],
    )
    .await
}

/// Removes an organization with all that depends on it.
pub(crate) async fn organization_delete(tx: &mut Tx, permit: Permit<DeleteOrganization>, now: Time) -> Result<()> {
    let id = permit.subject().get();
    removal::tasks(
        tx,
        "init_org_id = $1 OR init_user_id IN (SELECT id FROM user_account WHERE organization_id = $1)",
        id,
        now,
    )
    .await?;
    removal::runs(tx, id, now).await?;
    removal::nodes(tx, "organization_id = $1", id).await?;
    removal::users(tx, "organization_id = $1", id).await?;
    sqlx::query("DELETE FROM role WHERE organization_id = $1").bind(id).execute(tx.conn()).await?;
    let done = sqlx::query("DELETE FROM organization WHERE id = $1").bind(id).execute(tx.conn()).await?;
    expect_one(done.rows_affected())
}
