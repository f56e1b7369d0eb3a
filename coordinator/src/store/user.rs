//! Users.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::{OrganizationId, UserId};
use twinmesh_protocol::time::Time;

use super::filter::{self, Filter};
use super::page::PageRequest;
use super::token::log_ins_end;
use super::{Result, Tx, expect_one, removal, time};
use crate::authn::lockout::Attempts;
use crate::authn::two_factor::{Enrolled, SharedSecret};
use crate::authz::Permit;
use crate::authz::action::{ChangePassword, CreateUser, DeleteUser, EditUser};
use crate::authz::grant::{Granted, GrantedRoles};
use crate::authz::rule::RULES;

/// A user's row, without what proves who they are.
#[derive(Debug, Clone)]
pub(crate) struct UserRecord {
    pub(crate) id: UserId,
    pub(crate) details: UserDetails,
    pub(crate) organization: OrganizationId,
    pub(crate) ip: Option<String>,
    pub(crate) last_seen: Option<Time>,
    pub(crate) status: Option<String>,
    pub(crate) last_email_failed_login_sent: Option<Time>,
    pub(crate) last_email_recover_password_sent: Option<Time>,
}

/// What a user goes by.
#[derive(Debug, Clone)]
pub(crate) struct UserDetails {
    pub(crate) username: String,
    pub(crate) firstname: Option<String>,
    pub(crate) lastname: Option<String>,
    pub(crate) email: Option<String>,
}

/// What a log-in needs.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) id: UserId,
    pub(crate) username: String,
    pub(crate) password_hash: String,
    pub(crate) attempts: Attempts,
    pub(crate) second_factor: Enrolled,
}

/// By what somebody says who they are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Login<'a> {
    Id(UserId),
    Username(&'a str),
    Email(&'a str),
}

/// What a user gets: roles, and rules besides.
#[derive(Debug, Clone)]
pub(crate) struct Rights {
    pub(crate) roles: GrantedRoles,
    /// The rules that the user holds by themselves.
    pub(crate) rules: Granted,
}

const COLUMNS: &str = "user_account.id, user_account.username, user_account.firstname, user_account.lastname, \
    user_account.email, user_account.organization_id, authenticatable.ip, authenticatable.last_seen, \
    authenticatable.status, user_account.last_email_failed_login_sent, \
    user_account.last_email_recover_password_sent";
const FROM: &str = "user_account JOIN authenticatable ON authenticatable.id = user_account.id";

pub(crate) const SORTABLE: &[(&str, &str)] = &[
    ("id", "user_account.id"),
    ("username", "user_account.username"),
    ("firstname", "user_account.firstname"),
    ("lastname", "user_account.lastname"),
    ("email", "user_account.email"),
    ("organization_id", "user_account.organization_id"),
    ("ip", "authenticatable.ip"),
    ("last_seen", "authenticatable.last_seen"),
    ("status", "authenticatable.status"),
];

fn read(row: &AnyRow) -> Result<UserRecord> {
    Ok(UserRecord {
        id: UserId::new(row.try_get(0)?),
        details: UserDetails {
            username: row.try_get(1)?,
            firstname: row.try_get(2)?,
            lastname: row.try_get(3)?,
            email: row.try_get(4)?,
        },
        organization: OrganizationId::new(row.try_get(5)?),
        ip: row.try_get(6)?,
        last_seen: time(row.try_get(7)?),
        status: row.try_get(8)?,
        last_email_failed_login_sent: time(row.try_get(9)?),
        last_email_recover_password_sent: time(row.try_get(10)?),
    })
}

pub(crate) async fn user_fetch(conn: &mut AnyConnection, id: UserId) -> Result<Option<UserRecord>> {
    let mut filter = Filter::default();
    filter.and_equal("user_account.id", Some(id.get()));
    let rows = filter::all(conn, COLUMNS, FROM, &filter, "user_account.id").await?;
    rows.first().map(read).transpose()
}

pub(crate) async fn user_page(
    conn: &mut AnyConnection,
    filter: &Filter,
    request: &PageRequest,
) -> Result<(Vec<UserRecord>, i64)> {
    let (rows, total) = filter::page(conn, COLUMNS, FROM, filter, request, SORTABLE, "user_account.id").await?;
    Ok((rows.iter().map(read).collect::<Result<_>>()?, total))
}

/// Which of `username` and `email` another user has.
pub(crate) async fn user_names_taken(
    conn: &mut AnyConnection,
    username: &str,
    email: Option<&str>,
    besides: Option<UserId>,
) -> Result<Option<&'static str>> {
    let besides = besides.map_or(0, UserId::get);
    let by_name = sqlx::query("SELECT id FROM user_account WHERE username = $1 AND id <> $2")
        .bind(username)
        .bind(besides)
        .fetch_optional(&mut *conn)
        .await?;
    if by_name.is_some() {
        return Ok(Some("username"));
    }
    let by_email = sqlx::query("SELECT id FROM user_account WHERE LOWER(email) = LOWER($1) AND id <> $2")
        .bind(email)
        .bind(besides)
        .fetch_optional(conn)
        .await?;
    Ok(by_email.map(|_| "email"))
}

pub(crate) async fn credentials_fetch(conn: &mut AnyConnection, login: Login<'_>) -> Result<Option<Credentials>> {
    let mut filter = Filter::default();
    match login {
        Login::Id(id) => filter.and_equal("id", Some(id.get())),
        Login::Username(name) => filter.and("username = ?", [name.into()]),
        Login::Email(email) => filter.and("LOWER(email) = LOWER(?)", [email.into()]),
    }
    let columns = "id, username, password_hash, failed_login_attempts, last_login_attempt, otp_secret, otp_last_step";
    let rows = filter::all(conn, columns, "user_account", &filter, "id").await?;
    rows.first().map(credentials).transpose()
}

fn credentials(row: &AnyRow) -> Result<Credentials> {
    Ok(Credentials {
        id: UserId::new(row.try_get(0)?),
        username: row.try_get(1)?,
        password_hash: row.try_get(2)?,
        attempts: Attempts { failed: row.try_get(3)?, last: time(row.try_get(4)?) },
        second_factor: Enrolled {
            secret: row.try_get::<Option<String>, _>(5)?.map(SharedSecret),
            last_step: row.try_get(6)?,
        },
    })
}

/// The costliest hash by bcrypt, while any account has one: `$2b$12$…`.
pub(crate) async fn costliest_bcrypt(conn: &mut AnyConnection) -> Result<Option<String>> {
    let sql = "SELECT password_hash FROM user_account WHERE substr(password_hash, 1, 2) = '$2' \
               ORDER BY substr(password_hash, 5, 2) DESC LIMIT 1";
    let row = sqlx::query(sql).fetch_optional(conn).await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// Puts a hash of the same password in an old one's place, unless that is gone by now.
pub(crate) async fn password_rehash(tx: &mut Tx, id: UserId, old: &str, new: &str) -> Result<()> {
    sqlx::query("UPDATE user_account SET password_hash = $1 WHERE id = $2 AND password_hash = $3")
        .bind(new)
        .bind(id.get())
        .bind(old)
        .execute(tx.conn())
        .await?;
    Ok(())
}

/// Gives a user another secret for the second factor, to be proved by a first code.
pub(crate) async fn second_factor_replace(tx: &mut Tx, id: UserId, secret: &SharedSecret) -> Result<()> {
    let done = sqlx::query("UPDATE user_account SET otp_secret = $1, otp_last_step = NULL WHERE id = $2")
        .bind(&secret.0)
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// Remembers the time step of a code that was accepted.
pub(crate) async fn second_factor_used(tx: &mut Tx, id: UserId, step: i64) -> Result<()> {
    let done = sqlx::query("UPDATE user_account SET otp_last_step = $1 WHERE id = $2")
        .bind(step)
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// Remembers a try to log in.
pub(crate) async fn attempts_put(tx: &mut Tx, id: UserId, attempts: Attempts) -> Result<()> {
    let done = sqlx::query("UPDATE user_account SET failed_login_attempts = $1, last_login_attempt = $2 WHERE id = $3")
        .bind(attempts.failed)
        .bind(attempts.last.map(Time::micros))
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// Does the work of [`attempts_put`] where there is nothing to remember.
pub(crate) async fn decoy_put(tx: &mut Tx, now: Time) -> Result<()> {
    let done = sqlx::query("UPDATE decoy SET touched_at = $1 WHERE id = $2")
        .bind(now.micros())
        .bind(1_i64)
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())
}

/// The names of a user's roles.
pub(crate) async fn role_names(conn: &mut AnyConnection, id: UserId) -> Result<Vec<String>> {
    let rows = sqlx::query(
        "SELECT role.name FROM role JOIN user_role ON user_role.role_id = role.id WHERE user_role.user_id = $1 \
         ORDER BY role.id",
    )
    .bind(id.get())
    .fetch_all(conn)
    .await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Whether any user has every rule, by roles or by themselves.
pub(crate) async fn any_root(conn: &mut AnyConnection) -> Result<bool> {
    let every = i64::try_from(RULES.len()).unwrap_or(i64::MAX);
    let row = sqlx::query(
        "SELECT held.user_id FROM (SELECT user_id, rule_id FROM user_rule \
         UNION SELECT user_role.user_id, role_rule.rule_id FROM user_role \
         JOIN role_rule ON role_rule.role_id = user_role.role_id) held \
         GROUP BY held.user_id HAVING COUNT(*) = $1 LIMIT 1",
    )
    .bind(every)
    .fetch_optional(conn)
    .await?;
    Ok(row.is_some())
}

pub(crate) async fn user_insert(
    tx: &mut Tx,
    permit: Permit<CreateUser>,
    details: &UserDetails,
    password_hash: &str,
    rights: &Rights,
) -> Result<UserId> {
    let row =
        sqlx::query("INSERT INTO authenticatable (kind) VALUES ('user') RETURNING id").fetch_one(tx.conn()).await?;
    let id = UserId::new(row.try_get(0)?);
    sqlx::query(
        "INSERT INTO user_account (id, username, password_hash, firstname, lastname, email, organization_id) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(id.get())
    .bind(&details.username)
    .bind(password_hash)
    .bind(details.firstname.as_deref())
    .bind(details.lastname.as_deref())
    .bind(details.email.as_deref())
    .bind(permit.subject().get())
    .execute(tx.conn())
    .await?;
    rights_replace(tx, id, rights).await?;
    Ok(id)
}

pub(crate) async fn user_update(
    tx: &mut Tx,
    permit: Permit<EditUser>,
    details: &UserDetails,
    rights: Option<&Rights>,
) -> Result<()> {
    let id = permit.subject();
    // What was mailed to another address opens nothing any more.
    sqlx::query(
        "DELETE FROM recovery_token WHERE user_id = $1 \
         AND user_id IN (SELECT id FROM user_account WHERE COALESCE(email, '') <> $2)",
    )
    .bind(id.get())
    .bind(details.email.as_deref().unwrap_or_default())
    .execute(tx.conn())
    .await?;
    let done =
        sqlx::query("UPDATE user_account SET username = $1, firstname = $2, lastname = $3, email = $4 WHERE id = $5")
            .bind(&details.username)
            .bind(details.firstname.as_deref())
            .bind(details.lastname.as_deref())
            .bind(details.email.as_deref())
            .bind(id.get())
            .execute(tx.conn())
            .await?;
    expect_one(done.rows_affected())?;
    match rights {
        Some(rights) => rights_replace(tx, id, rights).await,
        None => Ok(()),
    }
}

async fn rights_replace(tx: &mut Tx, id: UserId, rights: &Rights) -> Result<()> {
    sqlx::query("DELETE FROM user_role WHERE user_id = $1").bind(id.get()).execute(tx.conn()).await?;
    for role in rights.roles.roles() {
        sqlx::query("INSERT INTO user_role (user_id, role_id) VALUES ($1, $2)")
            .bind(id.get())
            .bind(role.get())
            .execute(tx.conn())
            .await?;
    }
    sqlx::query("DELETE FROM user_rule WHERE user_id = $1").bind(id.get()).execute(tx.conn()).await?;
    for rule in rights.rules.rules().ids() {
        sqlx::query("INSERT INTO user_rule (user_id, rule_id) VALUES ($1, $2)")
            .bind(id.get())
            .bind(rule.get())
            .execute(tx.conn())
            .await?;
    }
    Ok(())
}

/// Sets another password. Whoever logged in with the old one has to log in again; the family of refresh tokens that is
/// spared goes on.
pub(crate) async fn password_replace(
    tx: &mut Tx,
    permit: Permit<ChangePassword>,
    password_hash: &str,
    spared: Option<&str>,
    now: Time,
) -> Result<()> {
    let id = permit.subject();
    let done = sqlx::query("UPDATE user_account SET password_hash = $1, failed_login_attempts = 0 WHERE id = $2")
        .bind(password_hash)
        .bind(id.get())
        .execute(tx.conn())
        .await?;
    expect_one(done.rows_affected())?;
    sqlx::query("DELETE FROM recovery_token WHERE user_id = $1").bind(id.get()).execute(tx.conn()).await?;
    log_ins_end(tx, id.get(), spared, now).await
}

/// What would go with a user, in words; nothing when they stand alone.
pub(crate) async fn user_dependents(conn: &mut AnyConnection, id: UserId) -> Result<Vec<&'static str>> {
    removal::dependents(conn, id.get(), &[("tasks", "SELECT COUNT(*) FROM task WHERE init_user_id = $1")]).await
}

/// Removes a user with the tasks they made.
pub(crate) async fn user_delete(tx: &mut Tx, permit: Permit<DeleteUser>, now: Time) -> Result<()> {
    let id = permit.subject().get();
    removal::tasks(tx, "init_user_id = $1", id, now).await?;
    removal::users(tx, "id = $1", id).await
}
