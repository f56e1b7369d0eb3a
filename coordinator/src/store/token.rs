//! Refresh tokens: good for one use each.

use sqlx::Row as _;
use twinmesh_protocol::time::Time;

use super::{Result, Tx};
use crate::authn::secret::hash;
use crate::authn::token::RefreshToken;

/// What became of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// It was good, and is now used; its successor belongs to the same family.
    Good {
        /// The log-in it goes back to.
        family: String,
    },
    /// It was used before: somebody has a copy. Its family has ended.
    Reused,
    /// It is not known, or its family has ended.
    Unknown,
}

/// Remembers a token; without a family it begins one.
pub(crate) async fn refresh_insert(
    tx: &mut Tx,
    token: &RefreshToken,
    family: Option<&str>,
    owner: i64,
    now: Time,
) -> Result<()> {
    // Tokens that ended by age need not be told from unknown ones.
    sqlx::query("DELETE FROM refresh_token WHERE expires_at < $1").bind(now.micros()).execute(tx.conn()).await?;
    let token_hash = hash(&token.id);
    sqlx::query(
        "INSERT INTO refresh_token (token_hash, family, owner_id, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&token_hash)
    .bind(family.unwrap_or(&token_hash))
    .bind(owner)
    .bind(now.micros())
    .bind(token.expires_at.micros())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Uses a token up. When it was used before, its whole family ends, to be committed by the caller.
pub(crate) async fn refresh_redeem(tx: &mut Tx, id: &str, owner: i64, now: Time) -> Result<Redeemed> {
    let row = sqlx::query("SELECT family, used_at FROM refresh_token WHERE token_hash = $1 AND owner_id = $2")
        .bind(hash(id))
        .bind(owner)
        .fetch_optional(tx.conn())
        .await?;
    let Some(row) = row else { return Ok(Redeemed::Unknown) };
    let family: String = row.try_get(0)?;
    if row.try_get::<Option<i64>, _>(1)?.is_some() {
        sqlx::query("DELETE FROM refresh_token WHERE family = $1").bind(&family).execute(tx.conn()).await?;
        return Ok(Redeemed::Reused);
    }
    sqlx::query("UPDATE refresh_token SET used_at = $1 WHERE token_hash = $2")
        .bind(now.micros())
        .bind(hash(id))
        .execute(tx.conn())
        .await?;
    Ok(Redeemed::Good { family })
}
