//! Mail to be sent.

use std::time::Duration;

use sqlx::{AnyConnection, AssertSqlSafe, Row as _};
use twinmesh_protocol::id::UserId;
use twinmesh_protocol::time::Time;

use super::bell::Bell;
use super::{Result, StoreError, Tx, expect_one};
use crate::authn::lockout::Lockout;

/// What a mail is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MailKind {
    /// A token that sets a new password.
    RecoverPassword,
    /// A token that sets up another authenticator.
    RecoverTwoFactor,
    /// The account is locked.
    FailedLogIns,
    /// Mail about the account goes to another address from now on.
    AddressChanged,
}

impl MailKind {
    pub(crate) const ALL: [Self; 4] =
        [Self::RecoverPassword, Self::RecoverTwoFactor, Self::FailedLogIns, Self::AddressChanged];

    /// As it stands in the outbox.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::RecoverPassword => "recover_password",
            Self::RecoverTwoFactor => "recover_two_factor",
            Self::FailedLogIns => "failed_log_ins",
            Self::AddressChanged => "address_changed",
        }
    }

    /// The kind with this word.
    pub(crate) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// A mail that is due.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) id: i64,
    pub(crate) kind: MailKind,
    pub(crate) made_at: Time,
    /// How often it was tried before.
    pub(crate) tries: u32,
    /// To whom, unless there is nobody.
    pub(crate) to: Option<Recipient>,
}

/// To whom a mail goes.
#[derive(Debug, Clone)]
pub(crate) struct Recipient {
    pub(crate) id: UserId,
    pub(crate) username: String,
    pub(crate) firstname: Option<String>,
    /// The address that the mail names, else the user's.
    pub(crate) email: Option<String>,
}

/// The column that holds when a user was last sent one of the kind; none where each is sent.
fn last_sent(kind: MailKind) -> Option<&'static str> {
    match kind {
        MailKind::RecoverPassword => Some("last_email_recover_password_sent"),
        MailKind::RecoverTwoFactor => Some("last_email_recover_two_factor_sent"),
        MailKind::FailedLogIns => Some("last_email_failed_login_sent"),
        MailKind::AddressChanged => None,
    }
}

/// Asks for a mail, unless the user was sent one of the kind within `every`. The work is the same if so, and without a
/// user.
pub(crate) async fn mail_request(
    tx: &mut Tx,
    kind: MailKind,
    user: Option<UserId>,
    every: Duration,
    now: Time,
) -> Result<()> {
    let mut to = user;
    if let Some(column) = last_sent(kind) {
        let sql = format!("UPDATE user_account SET {column} = $1 WHERE id = $2 AND COALESCE({column}, 0) <= $3");
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(now.micros())
            .bind(user.map_or(0, UserId::get))
            .bind(before(now, every))
            .execute(tx.conn())
            .await?;
        to = to.filter(|_| done.rows_affected() == 1);
    }
    mail_insert(tx, kind, to, None, now).await
}

/// Asks for a mail that tells a user, at the address they had, that it is another now.
pub(crate) async fn address_notice(tx: &mut Tx, user: UserId, had: &str, now: Time) -> Result<()> {
    mail_insert(tx, MailKind::AddressChanged, Some(user), Some(had), now).await
}

async fn mail_insert(tx: &mut Tx, kind: MailKind, to: Option<UserId>, address: Option<&str>, now: Time) -> Result<()> {
    sqlx::query("INSERT INTO outbox (kind, user_id, address, made_at, next_try_at) VALUES ($1, $2, $3, $4, $4)")
        .bind(kind.word())
        .bind(to.map(UserId::get))
        .bind(address)
        .bind(now.micros())
        .execute(tx.conn())
        .await?;
    tx.ring_on_commit(Bell::Mail);
    Ok(())
}

/// Users whose account is locked and who were not told so within `every`.
pub(crate) async fn locked_untold(
    conn: &mut AnyConnection,
    lockout: Lockout,
    every: Duration,
    now: Time,
) -> Result<Vec<UserId>> {
    let rows = sqlx::query(
        "SELECT id FROM user_account WHERE failed_login_attempts >= $1 AND last_login_attempt > $2 \
         AND COALESCE(last_email_failed_login_sent, 0) <= $3 ORDER BY id",
    )
    .bind(lockout.max_failed)
    .bind(before(now, lockout.locked_for))
    .bind(before(now, every))
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(UserId::new(row.try_get(0)?))).collect()
}

/// The next mail that is due.
pub(crate) async fn outbox_next(conn: &mut AnyConnection, now: Time) -> Result<Option<Letter>> {
    let row = sqlx::query(
        "SELECT outbox.id, outbox.kind, outbox.made_at, outbox.tries, user_account.id, user_account.username, \
         user_account.firstname, COALESCE(outbox.address, user_account.email) FROM outbox \
         LEFT JOIN user_account ON user_account.id = outbox.user_id \
         WHERE outbox.next_try_at <= $1 ORDER BY outbox.next_try_at, outbox.id LIMIT 1",
    )
    .bind(now.micros())
    .fetch_optional(conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let word: String = row.try_get(1)?;
    let kind = MailKind::read(&word).ok_or(StoreError::Corrupt { value: word, expected: "a kind of mail" })?;
    let to = match row.try_get::<Option<i64>, _>(4)? {
        Some(id) => Some(Recipient {
            id: UserId::new(id),
            username: row.try_get(5)?,
            firstname: row.try_get(6)?,
            email: row.try_get(7)?,
        }),
        None => None,
    };
    let tries = u32::try_from(row.try_get::<i64, _>(3)?).unwrap_or(u32::MAX);
    Ok(Some(Letter { id: row.try_get(0)?, kind, made_at: Time::from_micros(row.try_get(2)?), tries, to }))
}

/// Notes a try, and when the next is due should nothing be heard of this one.
pub(crate) async fn outbox_tried(tx: &mut Tx, id: i64, next_try_at: Time) -> Result<()> {
    let done = sqlx::query("UPDATE outbox SET tries = tries + 1, next_try_at = $1 WHERE id = $2")
        .bind(next_try_at.micros())
        .bind(id)
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// Puts the next try off; the mail may be gone with its user by now.
pub(crate) async fn outbox_postpone(tx: &mut Tx, id: i64, next_try_at: Time) -> Result<()> {
    sqlx::query("UPDATE outbox SET next_try_at = $1 WHERE id = $2")
        .bind(next_try_at.micros())
        .bind(id)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Forgets a mail that was sent, or never will be.
pub(crate) async fn outbox_remove(tx: &mut Tx, id: i64) -> Result<()> {
    sqlx::query("DELETE FROM outbox WHERE id = $1").bind(id).execute(tx.conn()).await?;
    Ok(())
}

fn before(now: Time, by: Duration) -> i64 {
    now.micros().saturating_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX))
}
