//! Roles and their rules.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{OrganizationId, RoleId, RuleId, UserId};

use super::filter::{self, Filter};
use super::page::PageRequest;
use super::{Result, Tx, expect_one};
use crate::authz::Permit;
use crate::authz::action::{CreateRole, DeleteRole, EditRole};
use crate::authz::grant::Granted;
use crate::authz::rule::RuleSet;

/// A role's row, with its rules.
#[derive(Debug, Clone)]
pub(crate) struct RoleRecord {
    pub(crate) id: RoleId,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) organization: Option<OrganizationId>,
    pub(crate) is_default: bool,
    pub(crate) rules: RuleSet,
}

const COLUMNS: &str = "role.id, role.name, role.description, role.organization_id, role.is_default_role";

pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "role.id"),
    ("name", "role.name"),
    ("description", "role.description"),
    ("organization_id", "role.organization_id"),
    ("is_default_role", "role.is_default_role"),
];

pub(crate) async fn role_fetch(conn: &mut AnyConnection, id: RoleId) -> Result<Option<RoleRecord>> {
    Ok(role_all(conn, &BTreeSet::from([id])).await?.pop())
}

/// Those of the roles that exist.
pub(crate) async fn role_all(conn: &mut AnyConnection, ids: &BTreeSet<RoleId>) -> Result<Vec<RoleRecord>> {
    let ids = ("role.id", ids.iter().map(|id| id.get()).collect());
    let rows = filter::all_in(conn, COLUMNS, "role", &Filter::default(), ids, "role.id").await?;
    complete(conn, rows).await
}

pub(crate) async fn role_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<RoleRecord>, i64)> {
    let (rows, total) = filter::page(conn, COLUMNS, "role", filter, request, SORTABLE, "role.id").await?;
    Ok((complete(conn, rows).await?, total))
}

async fn complete(conn: &mut AnyConnection, rows: Vec<AnyRow>) -> Result<Vec<RoleRecord>> {
    let mut roles = rows
        .iter()
        .map(|row| {
            Ok(RoleRecord {
                id: RoleId::new(row.try_get(0)?),
                name: row.try_get(1)?,
                description: row.try_get(2)?,
                organization: row.try_get::<Option<i64>, _>(3)?.map(OrganizationId::new),
                is_default: row.try_get::<i64, _>(4)? != 0,
                rules: RuleSet::EMPTY,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let ids = ("role_id", roles.iter().map(|role| role.id.get()).collect());
    let mut rules: BTreeMap<i64, RuleSet> = BTreeMap::new();
    for row in filter::all_in(conn, "role_id, rule_id", "role_rule", &Filter::default(), ids, "1, 2").await? {
        let set = rules.entry(row.try_get(0)?).or_default();
        *set = set.with(RuleId::new(row.try_get(1)?));
    }
    for role in &mut roles {
        role.rules = rules.remove(&role.id.get()).unwrap_or_default();
    }
    Ok(roles)
}

/// Whether another role of the organization has the name.
pub(crate) async fn role_name_taken(
    conn: &mut AnyConnection,
    name: &str,
    organization: OrganizationId,
    besides: Option<RoleId>,
) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM role WHERE name = $1 AND organization_id = $2 AND id <> $3")
        .bind(name)
        .bind(organization.get())
        .bind(besides.map_or(0, RoleId::get))
        .fetch_optional(conn)
        .await?;
    Ok(row.is_some())
}

pub(crate) async fn role_insert(
    tx: &mut Tx,
    permit: Permit<CreateRole>,
    name: &str,
    description: Option<&str>,
    rules: Granted,
) -> Result<RoleId> {
    let row = sqlx::query(
        "INSERT INTO role (name, description, organization_id, is_default_role) VALUES ($1, $2, $3, 0) RETURNING id",
    )
    .bind(name)
    .bind(description)
    .bind(permit.subject().get())
    .fetch_one(tx.conn())
    .await?;
    let id = RoleId::new(row.try_get(0)?);
    rules_replace(tx, id, rules).await?;
    Ok(id)
}

pub(crate) async fn role_update(
    tx: &mut Tx,
    permit: Permit<EditRole>,
    name: &str,
    description: Option<&str>,
    rules: Option<Granted>,
) -> Result<()> {
    let id = permit.subject();
    let done = sqlx::query("UPDATE role SET name = $1, description = $2 WHERE id = $3 AND is_default_role = 0")
        .bind(name)
        .bind(description)
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())?;
    match rules {
        Some(rules) => rules_replace(tx, id, rules).await,
        None => Ok(()),
    }
}

async fn rules_replace(tx: &mut Tx, id: RoleId, rules: Granted) -> Result<()> {
    sqlx::query("DELETE FROM role_rule WHERE role_id = $1").bind(id.get()).execute(tx.conn()).await?;
    for rule in rules.rules().ids() {
        sqlx::query("INSERT INTO role_rule (role_id, rule_id) VALUES ($1, $2)")
            .bind(id.get())
            .bind(rule.get())
            .execute(tx.conn())
            .await?;
    }
    Ok(())
}

/// How many users have the role.
pub(crate) async fn role_users(conn: &mut AnyConnection, id: RoleId) -> Result<i64> {
    let row = sqlx::query("SELECT COUNT(*) FROM user_role WHERE role_id = $1").bind(id.get()).fetch_one(conn).await?;
    Ok(row.try_get(0)?)
}

/// Removes a role, also from whoever has it. Taking its rules away must have been granted.
pub(crate) async fn role_delete(tx: &mut Tx, permit: Permit<DeleteRole>, _: Granted) -> Result<()> {
    let done = sqlx::query("DELETE FROM role WHERE id = $1 AND is_default_role = 0")
        .bind(permit.subject().get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// The rules that a user holds by themselves, besides those of roles.
pub(crate) async fn user_rules(conn: &mut AnyConnection, id: UserId) -> Result<RuleSet> {
    let rows = sqlx::query("SELECT rule_id FROM user_rule WHERE user_id = $1").bind(id.get()).fetch_all(conn).await?;
    rows.iter().map(|row| Ok(RuleId::new(row.try_get(0)?))).collect()
}
