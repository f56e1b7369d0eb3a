//! What somebody at the machine asks of accounts: by name, and without the rules of requests.

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, StudyId, UserId};
use twinmesh_protocol::time::Time;

use super::token::log_ins_end;
use super::{Result, Tx, expect_one, time};
use crate::authn::lockout::Attempts;

/// A user, as an operator sees them.
#[derive(Debug, Clone)]
pub(crate) struct AccountRecord {
    pub(crate) id: UserId,
    pub(crate) username: String,
    pub(crate) email: Option<String>,
    pub(crate) organization: String,
    pub(crate) attempts: Attempts,
    pub(crate) has_second_factor: bool,
    pub(crate) last_seen: Option<Time>,
}

/// Every user by name.
pub(crate) async fn account_list(conn: &mut AnyConnection) -> Result<Vec<AccountRecord>> {
    let rows = sqlx::query(
        "SELECT user_account.id, user_account.username, user_account.email, organization.name, \
         user_account.failed_login_attempts, user_account.last_login_attempt, user_account.otp_secret, \
         authenticatable.last_seen FROM user_account \
         JOIN organization ON organization.id = user_account.organization_id \
         JOIN authenticatable ON authenticatable.id = user_account.id ORDER BY user_account.username",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(AccountRecord {
                id: UserId::new(row.try_get(0)?),
                username: row.try_get(1)?,
                email: row.try_get(2)?,
                organization: row.try_get(3)?,
                attempts: Attempts { failed: row.try_get(4)?, last: time(row.try_get(5)?) },
                has_second_factor: row.try_get::<Option<String>, _>(6)?.is_some(),
                last_seen: time(row.try_get(7)?),
            })
        })
        .collect()
}

/// A node, as an operator sees it.
#[derive(Debug, Clone)]
pub(crate) struct NodeAccountRecord {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) organization: String,
    pub(crate) collaboration: String,
    pub(crate) status: Option<String>,
    pub(crate) last_seen: Option<Time>,
}

/// Every node by name.
pub(crate) async fn node_account_list(conn: &mut AnyConnection) -> Result<Vec<NodeAccountRecord>> {
    let rows = sqlx::query(
        "SELECT node.id, node.name, organization.name, collaboration.name, authenticatable.status, \
         authenticatable.last_seen FROM node JOIN organization ON organization.id = node.organization_id \
         JOIN collaboration ON collaboration.id = node.collaboration_id \
         JOIN authenticatable ON authenticatable.id = node.id ORDER BY node.name",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(NodeAccountRecord {
                id: NodeId::new(row.try_get(0)?),
                name: row.try_get(1)?,
                organization: row.try_get(2)?,
                collaboration: row.try_get(3)?,
                status: row.try_get(4)?,
                last_seen: time(row.try_get(5)?),
            })
        })
        .collect()
}

async fn id_by_name(conn: &mut AnyConnection, sql: &'static str, name: &str) -> Result<Option<i64>> {
    let row = sqlx::query(sql).bind(name).fetch_optional(conn).await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

pub(crate) async fn user_by_name(conn: &mut AnyConnection, name: &str) -> Result<Option<UserId>> {
    let sql = "SELECT id FROM user_account WHERE username = $1";
    Ok(id_by_name(conn, sql, name).await?.map(UserId::new))
}

pub(crate) async fn node_by_name(conn: &mut AnyConnection, name: &str) -> Result<Option<NodeId>> {
    Ok(id_by_name(conn, "SELECT id FROM node WHERE name = $1", name).await?.map(NodeId::new))
}

pub(crate) async fn organization_by_name(conn: &mut AnyConnection, name: &str) -> Result<Option<OrganizationId>> {
    Ok(id_by_name(conn, "SELECT id FROM organization WHERE name = $1", name).await?.map(OrganizationId::new))
}

pub(crate) async fn collaboration_by_name(conn: &mut AnyConnection, name: &str) -> Result<Option<CollaborationId>> {
    Ok(id_by_name(conn, "SELECT id FROM collaboration WHERE name = $1", name).await?.map(CollaborationId::new))
}

pub(crate) async fn study_by_name(conn: &mut AnyConnection, name: &str) -> Result<Option<StudyId>> {
    Ok(id_by_name(conn, "SELECT id FROM study WHERE name = $1", name).await?.map(StudyId::new))
}

/// The role of an organization, or the built-in one, with this name.
pub(crate) async fn role_by_name(
    conn: &mut AnyConnection,
    name: &str,
    organization: OrganizationId,
) -> Result<Option<RoleId>> {
    let row = sqlx::query(
        "SELECT id FROM role WHERE (organization_id = $2 AND name = $1) \
         OR (is_default_role = 1 AND LOWER(name) = LOWER($1)) ORDER BY id LIMIT 1",
    )
    .bind(name)
    .bind(organization.get())
    .fetch_optional(conn)
    .await?;
    row.map(|row| Ok(RoleId::new(row.try_get(0)?))).transpose()
}

/// Lets a locked user try again.
pub(crate) async fn user_unlock(tx: &mut Tx, id: UserId) -> Result<()> {
    let done =
        sqlx::query("UPDATE user_account SET failed_login_attempts = 0, last_login_attempt = NULL WHERE id = $1")
            .bind(id.get())
            .execute(tx.conn())
            .await?;
    expect_one(done.rows_affected())
}

/// Forgets a user's second factor: every log-in ends, and the next sets up another.
pub(crate) async fn second_factor_forget(tx: &mut Tx, id: UserId, now: Time) -> Result<()> {
    let done = sqlx::query("UPDATE user_account SET otp_secret = NULL, otp_last_step = NULL WHERE id = $1")
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())?;
    log_ins_end(tx, id.get(), None, now).await
}
