//! Tokens that were mailed to whoever lost a password or an authenticator.

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::UserId;
use twinmesh_protocol::time::Time;

use super::{Result, Tx};

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Setting a new password.
    Password,
    /// Setting up another authenticator.
    TwoFactor,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::TwoFactor => "two_factor",
        }
    }
}

/// Remembers a token; one that the user was sent before for the same purpose is good no longer.
pub(crate) async fn recovery_put(
    tx: &mut Tx,
    user: UserId,
    purpose: Purpose,
    token_hash: &str,
    expires_at: Time,
    now: Time,
) -> Result<()> {
    sqlx::query("DELETE FROM recovery_token WHERE expires_at <= $1").bind(now.micros()).execute(tx.conn()).await?;
    sqlx::query(
        "INSERT INTO recovery_token (token_hash, purpose, user_id, expires_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (user_id, purpose) DO UPDATE SET token_hash = excluded.token_hash, \
         expires_at = excluded.expires_at",
    )
    .bind(token_hash)
    .bind(purpose.word())
    .bind(user.get())
    .bind(expires_at.micros())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Whose token it is, if it is good.
pub(crate) async fn recovery_user(
    conn: &mut AnyConnection,
    token_hash: &str,
    purpose: Purpose,
    now: Time,
) -> Result<Option<UserId>> {
    let sql = "SELECT user_id FROM recovery_token WHERE token_hash = $1 AND purpose = $2 AND expires_at > $3";
    let row = sqlx::query(sql).bind(token_hash).bind(purpose.word()).bind(now.micros()).fetch_optional(conn).await?;
    row.map(|row| Ok(UserId::new(row.try_get(0)?))).transpose()
}

/// Uses a token up. Whose it is, if it is good.
pub(crate) async fn recovery_redeem(
    tx: &mut Tx,
    token_hash: &str,
    purpose: Purpose,
    now: Time,
) -> Result<Option<UserId>> {
    let user = recovery_user(tx.conn(), token_hash, purpose, now).await?;
    if user.is_some() {
        sqlx::query("DELETE FROM recovery_token WHERE token_hash = $1").bind(token_hash).execute(tx.conn()).await?;
    }
    Ok(user)
}
