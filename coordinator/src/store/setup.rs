//! What every database holds from the start.

use data_encoding::HEXLOWER;
use sqlx::Row as _;
use twinmesh_protocol::id::{OrganizationId, UserId};

use super::{Result, Store, StoreError, Tx};
use crate::authz::role::{ROLES, ROOT};

/// Writes the built-in roles as this release knows them.
pub(crate) async fn built_in_roles(store: &Store) -> Result<()> {
    let mut tx = store.write().await?;
    for role in &ROLES {
        sqlx::query(
            "INSERT INTO role (id, name, description, organization_id, is_default_role) VALUES ($1, $2, $3, NULL, 1) \
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, description = excluded.description",
        )
        .bind(role.id.get())
        .bind(role.name)
        .bind(role.description)
        .execute(tx.conn())
        .await?;
        sqlx::query("DELETE FROM role_rule WHERE role_id = $1").bind(role.id.get()).execute(tx.conn()).await?;
        for rule in role.rules().ids() {
            sqlx::query("INSERT INTO role_rule (role_id, rule_id) VALUES ($1, $2)")
                .bind(role.id.get())
                .bind(rule.get())
                .execute(tx.conn())
                .await?;
        }
    }
    tx.commit().await
}

/// The secret that signs tokens, as all instances on this database have it; `new` if there is none yet.
pub(crate) async fn token_secret(store: &Store, new: &[u8]) -> Result<Vec<u8>> {
    let mut tx = store.write().await?;
    sqlx::query("INSERT INTO secret (name, value) VALUES ('token', $1) ON CONFLICT (name) DO NOTHING")
        .bind(HEXLOWER.encode(new))
        .execute(tx.conn())
        .await?;
    let value: String =
        sqlx::query("SELECT value FROM secret WHERE name = 'token'").fetch_one(tx.conn()).await?.try_get(0)?;
    tx.commit().await?;
    match HEXLOWER.decode(value.as_bytes()) {
        Ok(secret) if secret.len() >= new.len() => Ok(secret),
        // What it is stays out of logs.
        Ok(_) | Err(_) => Err(StoreError::Corrupt { value: "[redacted]".into(), expected: "the secret of tokens" }),
    }
}

/// Whether there is no user yet.
pub(crate) async fn is_new(tx: &mut Tx) -> Result<bool> {
    let users: i64 = sqlx::query("SELECT COUNT(*) FROM user_account").fetch_one(tx.conn()).await?.try_get(0)?;
    Ok(users == 0)
}

/// The mail address that the first user has until somebody gives them theirs (contract A.3). It is nobody's.
pub(crate) const NOBODYS_ADDRESS: &str = "root@domain.ext";

/// Makes the organization and the user `root` (contract A.3).
pub(crate) async fn root_insert(tx: &mut Tx, password_hash: &str) -> Result<UserId> {
    let organization: i64 = sqlx::query("INSERT INTO organization (name) VALUES ('root') RETURNING id")
        .fetch_one(tx.conn())
        .await?
        .try_get(0)?;
    let organization = OrganizationId::new(organization);
    let id: i64 = sqlx::query("INSERT INTO authenticatable (kind) VALUES ('user') RETURNING id")
        .fetch_one(tx.conn())
        .await?
        .try_get(0)?;
    sqlx::query(
        "INSERT INTO user_account (id, username, password_hash, firstname, lastname, email, organization_id) \
         VALUES ($1, 'root', $2, 'super', 'user', $3, $4)",
    )
    .bind(id)
    .bind(password_hash)
    .bind(NOBODYS_ADDRESS)
    .bind(organization.get())
    .execute(tx.conn())
    .await?;
    sqlx::query("INSERT INTO user_role (user_id, role_id) VALUES ($1, $2)")
        .bind(id)
        .bind(ROOT.get())
        .execute(tx.conn())
        .await?;
    Ok(UserId::new(id))
}
