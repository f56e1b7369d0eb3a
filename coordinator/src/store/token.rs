//! Refresh tokens: good for one use each, and what ends them.

use std::time::Duration;

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::time::Time;

use super::{Result, Tx, expect_one};
use crate::authn::secret::hash;
use crate::authn::token::RefreshToken;

/// How long after its use a token is taken again, for a further pair of the same family.
///
/// Stock clients refresh after every answer that tells of an error, several threads of theirs at once and with the same
/// token; and an answer may be lost with the connection, or the coordinator, that it came by. Such repeats come within
/// the time that clients wait for an answer.
const GRACE: Duration = Duration::from_secs(30);

/// What became of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// It is good, or was used a moment ago; its successor belongs to the same family.
    Good {
        /// The log-in it goes back to.
        family: String,
    },
    /// It was used long before: somebody has a copy. Its family has ended.
    Reused,
    /// It is not known, or its family has ended.
    Unknown,
}

/// Remembers a token; without a family it begins one. The family is returned.
pub(crate) async fn refresh_insert(
    tx: &mut Tx,
    token: &RefreshToken,
    family: Option<&str>,
    owner: i64,
    now: Time,
) -> Result<String> {
    // Tokens that ended by age need not be told from unknown ones.
    sqlx::query("DELETE FROM refresh_token WHERE expires_at < $1").bind(now.micros()).execute(tx.conn()).await?;
    let token_hash = hash(&token.id);
    let family = family.unwrap_or(&token_hash);
    sqlx::query(
        "INSERT INTO refresh_token (token_hash, family, owner_id, issued_at, expires_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&token_hash)
    .bind(family)
    .bind(owner)
    .bind(now.micros())
    .bind(token.expires_at.micros())
    .execute(tx.conn())
    .await?;
    Ok(family.to_owned())
}

/// Uses a token up. When it was used longer ago than [`GRACE`], its whole family ends, to be committed by the caller.
pub(crate) async fn refresh_redeem(tx: &mut Tx, id: &str, owner: i64, now: Time) -> Result<Redeemed> {
    let row = sqlx::query("SELECT family, used_at FROM refresh_token WHERE token_hash = $1 AND owner_id = $2")
        .bind(hash(id))
        .bind(owner)
        .fetch_optional(tx.conn())
        .await?;
    let Some(row) = row else { return Ok(Redeemed::Unknown) };
    let family: String = row.try_get(0)?;
    if let Some(used_at) = row.try_get::<Option<i64>, _>(1)?.map(Time::from_micros) {
        if now.since(used_at) <= GRACE {
            return Ok(Redeemed::Good { family });
        }
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

/// Since when tokens of a user or node are good, if log-ins were ended.
pub(crate) async fn valid_from(conn: &mut AnyConnection, owner: i64) -> Result<Option<Time>> {
    let row = sqlx::query("SELECT tokens_valid_from FROM authenticatable WHERE id = $1")
        .bind(owner)
        .fetch_optional(conn)
        .await?;
    Ok(match row {
        Some(row) => super::time(row.try_get(0)?),
        None => None,
    })
}

/// Ends every log-in of a user or node, but for the family that is spared: their access tokens are good no more, and none
/// is renewed.
pub(crate) async fn log_ins_end(tx: &mut Tx, owner: i64, spared: Option<&str>, now: Time) -> Result<()> {
    sqlx::query("DELETE FROM refresh_token WHERE owner_id = $1 AND family <> $2")
        .bind(owner)
        .bind(spared.unwrap_or_default())
        .execute(tx.conn())
        .await?;
    let done =
        sqlx::query("UPDATE authenticatable SET tokens_valid_from = $1, tokens_spared_family = $2 WHERE id = $3")
            .bind(now.micros())
            .bind(spared)
            .bind(owner)
            .execute(tx.conn())
            .await?;
    expect_one(done.rows_affected())
}
