//! `/recover`: getting in again after a password or an authenticator is lost (contract A.3). API keys of nodes are
//! renewed in [`super::node`].

use axum::Json;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::Body;
use super::log_in::{Proof, Wanted, prove};
use super::origin::{Stranger, TooManyGuesses};
use super::problem::Problem;
use super::token::{SetUp, failed_log_in, set_up};
use crate::authn::password::check_policy;
use crate::authn::secret::hash;
use crate::authn::token::{ClientType, Subject};
use crate::authn::two_factor::SharedSecret;
use crate::authz::action::ChangePassword;
use crate::authz::{self, Target};
use crate::config::Secret;
use crate::limits::{Described, bounded, described};
use crate::store;
use crate::store::outbox::MailKind;
use crate::store::outbox::mail_request;
use crate::store::recovery::{Purpose, recovery_redeem, recovery_user};
use crate::store::user::Login;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(password_lost))
        .routes(routes!(password_reset))
        .routes(routes!(second_factor_lost))
        .routes(routes!(second_factor_reset))
}

/// The body of `POST /recover/lost`: who somebody is, by either.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordLost {
    #[serde(default)]
    email: Option<String>,
    #[serde(default)]
    username: Option<String>,
}

bounded!(PasswordLost as "PasswordLost" {
    email: LOST_EMAIL;
    username: LOST_NAME;
});

/// Mails a token with which a new password can be set. The answer, and the work, are the same for whoever is asked for.
#[utoipa::path(
    post, path = "/recover/lost", tag = "recover",
    request_body = PasswordLost,
    responses((status = 200, body = Message), TooManyGuesses),
    security(()),
)]
#[tracing::instrument(name = "http.recover.password_lost", skip_all)]
async fn password_lost(stranger: Stranger, Body(body): Body<PasswordLost>) -> Result<Json<Message>, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let (login, name) = login(body.username.as_deref(), body.email.as_deref())?;
    // Whatever comes of it counts, because each may be a mail; but nobody's log-in is held up by it.
    stranger.guess(Some(&format!("recovery {name}")))?;
    let known = {
        let mut tx = state.store().read().await?;
        store::user::credentials_fetch(tx.conn(), login).await?
    };
    let mut tx = state.store().write().await?;
    if state.recovery().by_mail {
        let every = state.recovery().mail_every;
        mail_request(&mut tx, MailKind::RecoverPassword, known.map(|known| known.id), every, now).await?;
    } else {
        tracing::warn!("a user lost a password, and there is no `mail.server` to send a token by");
        store::user::decoy_put(&mut tx, now).await?;
    }
    tx.commit().await?;
    let msg = "If the username or email is in our database, you will soon receive an email.";
    Ok(Message::new(msg))
}

/// The body of `POST /recover/reset`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PasswordReset {
    reset_token: Secret,
    password: Secret,
}

bounded!(PasswordReset as "PasswordReset" {
    reset_token: RESET_TOKEN;
    password: NEW_PASSWORD, told;
});

/// Sets a new password for whoever has the token. Every log-in of the user ends.
#[utoipa::path(
    post, path = "/recover/reset", tag = "recover",
    request_body = PasswordReset,
    responses((status = 200, body = Message), TooManyGuesses),
    security(()),
)]
#[tracing::instrument(name = "http.recover.password_reset", skip_all)]
async fn password_reset(stranger: Stranger, Body(body): Body<PasswordReset>) -> Result<Json<Message>, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let token = token_hash(&body.reset_token);
    let password = body.password.reveal();
    check_policy(password).map_err(|why| Problem::bad_request("weak_password", why.to_string()))?;
    let guess = stranger.guess(None)?;
    {
        // Asked before the hash, so that nobody makes us work without a token.
        let mut tx = state.store().read().await?;
        recovery_user(tx.conn(), &token, Purpose::Password, now).await?.ok_or_else(invalid_token)?;
    }
    let password_hash = state.hasher().hash(password.to_owned()).await?;
    let mut tx = state.store().write().await?;
    let id = recovery_redeem(&mut tx, &token, Purpose::Password, now).await?.ok_or_else(invalid_token)?;
    // Who has the token acts as the user, who may change their own password.
    let subject = Subject::Entity(ClientType::User, id.get());
    let actor = store::identity::actor_fetch(tx.conn(), &subject).await?.ok_or_else(invalid_token)?;
    let permit = authz::decide::<ChangePassword>(&actor, id, &Target::anywhere().owned_by(Some(id)))?;
    store::user::password_replace(&mut tx, permit, &password_hash, None, state.now()).await?;
    tx.commit().await?;
    guess.was_right();
    tracing::info!(user.id = %id, "password reset by a mailed token");
    Ok(Message::new("The password has successfully been reset!"))
}

/// The body of `POST /recover/2fa/lost`. Stock clients send both names, one of them null.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecondFactorLost {
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    email: Option<String>,
    password: Secret,
}

bounded!(SecondFactorLost as "SecondFactorLost" {
    username: LOST_NAME;
    email: LOST_EMAIL;
    password: PASSWORD;
});

/// Mails a token with which the second factor can be set up anew, to whoever knows the password.
#[utoipa::path(
    post, path = "/recover/2fa/lost", tag = "recover",
    request_body = SecondFactorLost,
    responses(
        (status = 200, body = Message),
        (status = 401, description = "Wrong password, no such user, or too many tries"),
        TooManyGuesses,
    ),
    security(()),
)]
#[tracing::instrument(name = "http.recover.second_factor_lost", skip_all)]
async fn second_factor_lost(stranger: Stranger, Body(body): Body<SecondFactorLost>) -> Result<Json<Message>, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let (login, name) = login(body.username.as_deref(), body.email.as_deref())?;
    if !state.recovery().by_mail {
        let text = "This server sends no mail: ask an administrator to reset your two-factor authentication";
        return Err(Problem::bad_request("no_mail", text));
    }
    let guess = stranger.guess(Some(name))?;
    let id = match prove(state, login, body.password.reveal(), Wanted::PasswordOnly, now).await? {
        Proof::PasswordKnown { id } => id,
        Proof::Refused | Proof::WrongCode | Proof::CodeDue | Proof::SetUp { .. } | Proof::Right { .. } => {
            return Err(failed_log_in());
        }
    };
    guess.was_right();
    let mut tx = state.store().write().await?;
    mail_request(&mut tx, MailKind::RecoverTwoFactor, Some(id), state.recovery().mail_every, now).await?;
    tx.commit().await?;
    let msg = "You should have received an email that will allow you to reset your two-factor authentication";
    Ok(Message::new(msg))
}

/// The body of `POST /recover/2fa/reset`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SecondFactorReset {
    reset_token: Secret,
}

bounded!(SecondFactorReset as "SecondFactorReset" {
    reset_token: RESET_TOKEN;
});
pub(crate) const LIMITS: &[Described] = &[
    described::<PasswordLost>(),
    described::<PasswordReset>(),
    described::<SecondFactorLost>(),
    described::<SecondFactorReset>(),
];

/// Gives whoever has the token another secret for their authenticator.
#[utoipa::path(
    post, path = "/recover/2fa/reset", tag = "recover",
    request_body = SecondFactorReset,
    responses((status = 200, body = SetUp), TooManyGuesses),
    security(()),
)]
#[tracing::instrument(name = "http.recover.second_factor_reset", skip_all)]
async fn second_factor_reset(stranger: Stranger, Body(body): Body<SecondFactorReset>) -> Result<Json<SetUp>, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let token = token_hash(&body.reset_token);
    let guess = stranger.guess(None)?;
    let mut tx = state.store().write().await?;
    let id = recovery_redeem(&mut tx, &token, Purpose::TwoFactor, now).await?.ok_or_else(invalid_token)?;
    let known = store::user::credentials_fetch(tx.conn(), Login::Id(id)).await?.ok_or_else(invalid_token)?;
    let secret = SharedSecret::new();
    let answer = set_up(state, &secret, &known.username)?;
    store::user::second_factor_replace(&mut tx, id, &secret).await?;
    store::token::log_ins_end(&mut tx, id.get(), None, state.now()).await?;
    tx.commit().await?;
    guess.was_right();
    tracing::info!(user.id = %id, "second factor reset by a mailed token");
    Ok(Json(answer))
}

/// Who somebody says they are, and the name by which they say it.
fn login<'a>(username: Option<&'a str>, email: Option<&'a str>) -> Result<(Login<'a>, &'a str), Problem> {
    let given = |text: &&str| !text.is_empty();
    match (username.filter(given), email.filter(given)) {
        (Some(username), _) => Ok((Login::Username(username), username)),
        (None, Some(email)) => Ok((Login::Email(email), email)),
        (None, None) => Err(Problem::field("_schema", "Email or username is required.")),
    }
}

fn token_hash(token: &Secret) -> String {
    hash(token.reveal().trim())
}

fn invalid_token() -> Problem {
    Problem::bad_request("invalid_token", "Invalid recovery token!")
        .with_detail("a token is good once and for a limited time: ask for another")
}
