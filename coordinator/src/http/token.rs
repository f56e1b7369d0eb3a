//! `/token`: logging in and staying so (contract A.2). Tokens of containers are in [`super::container`].

use axum::Json;
use axum::http::{HeaderName, HeaderValue, request};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinmesh_protocol::id::{NodeId, OrganizationId, UserId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::TokenPair;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::AppState;
use super::body::{Body, check_length};
use super::caller::{Caller, bearer};
use super::problem::Problem;
use crate::authn::secret;
use crate::authn::token::{ClientType, Subject};
use crate::config::Secret;
use crate::store::token::{Redeemed, refresh_insert, refresh_redeem};
use crate::store::{self, Tx};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(log_in_user))
        .routes(routes!(log_in_node))
        .routes(routes!(refresh))
        .routes(routes!(validate_user))
        .routes(routes!(validate_node))
}

/// The body of `POST /token/user`. A code is taken as text or number.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserLogIn {
    username: String,
    password: Secret,
    #[serde(default, rename = "mfa_code")]
    _mfa_code: Option<Value>,
}

/// Logs a user in. Whatever is wrong, the answer and the work are the same.
#[utoipa::path(
    post, path = "/token/user", tag = "token",
    request_body = UserLogIn,
    responses((status = 200, body = TokenPair), (status = 401, description = "Not with these")),
    security(()),
)]
#[tracing::instrument(name = "http.token.user", skip_all)]
async fn log_in_user(
    axum::extract::State(state): axum::extract::State<AppState>,
    Body(body): Body<UserLogIn>,
) -> Result<Response, Problem> {
    let now = state.now();
    check_length("username", &body.username, 1, 128)?;
    check_length("password", body.password.reveal(), 1, 128)?;
    let known = {
        let mut tx = state.store().read().await?;
        store::user::credentials_by_name(tx.conn(), &body.username).await?
    };
    let hash = known.as_ref().map(|known| known.password_hash.clone());
    let right = state.hasher().verify(body.password.reveal().to_owned(), hash).await?;
    // An account that is not there is tried like one that is.
    let id = known.map_or(UserId::new(0), |known| known.id);
    if !count_attempt(&state, id, right, now).await? {
        tracing::info!(user.id = %id, "a log-in failed");
        return Err(failed_log_in());
    }
    let mut tx = state.store().write().await?;
    let answer = issue(&state, &mut tx, ClientType::User, id.get(), None, now).await?;
    tx.commit().await?;
    tracing::info!(user.id = %id, "user logged in");
    Ok(answer)
}

fn failed_log_in() -> Problem {
    Problem::unauthorized("log_in_failed", "Failed to login")
}

/// Counts a try with a password; whether it lets the user in. A locked account lets nobody in. Every try costs one
/// durable write, so that its time tells nothing.
pub(crate) async fn count_attempt(state: &AppState, id: UserId, right: bool, now: Time) -> Result<bool, Problem> {
    let mut tx = state.store().write().await?;
    // Read again: others may have tried meanwhile.
    let known = store::user::credentials_fetch(tx.conn(), id).await?;
    let after = known.and_then(|known| known.attempts.after(right, now));
    match after {
        Some(after) => store::user::attempts_put(&mut tx, id, after).await?,
        None => store::user::decoy_put(&mut tx, now).await?,
    }
    tx.commit().await?;
    if after.is_some_and(|after| after.is_locked(now)) {
        tracing::warn!(user.id = %id, "user locked after too many wrong passwords");
    }
    Ok(right && after.is_some())
}

/// The body of `POST /token/node`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NodeLogIn {
    api_key: Secret,
}

/// Logs a node in.
#[utoipa::path(
    post, path = "/token/node", tag = "token",
    request_body = NodeLogIn,
    responses((status = 200, body = TokenPair), (status = 401, description = "Not with these")),
    security(()),
)]
#[tracing::instrument(name = "http.token.node", skip_all)]
async fn log_in_node(
    axum::extract::State(state): axum::extract::State<AppState>,
    Body(body): Body<NodeLogIn>,
) -> Result<Response, Problem> {
    let now = state.now();
    let key = Uuid::parse_str(body.api_key.reveal()).map_err(|_| Problem::field("api_key", "Not a valid UUID."))?;
    let hash = secret::hash(&key.to_string());
    let mut tx = state.store().write().await?;
    let Some(id) = store::node::node_by_api_key(tx.conn(), &hash).await? else {
        return Err(Problem::unauthorized("unknown_api_key", "Api key is not recognized!"));
    };
    let answer = issue(&state, &mut tx, ClientType::Node, id.get(), None, now).await?;
    tx.commit().await?;
    tracing::info!(node.id = %id, "node logged in");
    Ok(answer)
}

/// Turns a refresh token into a new pair. Each is good once; a second use ends everything that came of its log-in.
#[utoipa::path(
    post, path = "/token/refresh", tag = "token",
    responses((status = 200, body = TokenPair)),
    security(("refresh" = [])),
)]
#[tracing::instrument(name = "http.token.refresh", skip_all)]
async fn refresh(
    axum::extract::State(state): axum::extract::State<AppState>,
    parts: request::Parts,
) -> Result<Response, Problem> {
    let now = state.now();
    let (subject, token_id) = state.tokens().verify_refresh(bearer(&parts)?, now)?;
    let Subject::Entity(kind, id) = subject else { return Err(used_refresh_token()) };
    let mut tx = state.store().write().await?;
    match refresh_redeem(&mut tx, &token_id, id, now).await? {
        Redeemed::Good { family } => {
            let gone = store::identity::actor_fetch(tx.conn(), &subject).await?.is_none();
            if gone {
                return Err(used_refresh_token());
            }
            let answer = issue(&state, &mut tx, kind, id, Some(&family), now).await?;
            tx.commit().await?;
            Ok(answer)
        }
        Redeemed::Reused => {
            tx.commit().await?;
            tracing::warn!(owner.id = id, "a refresh token was used twice; its log-in has ended");
            Err(used_refresh_token())
        }
        Redeemed::Unknown => Err(used_refresh_token()),
    }
}

fn used_refresh_token() -> Problem {
    Problem::unauthorized("token_used", "Token has been revoked")
}

/// Makes a pair of tokens and the answer that carries them.
async fn issue(
    state: &AppState,
    tx: &mut Tx,
    kind: ClientType,
    id: i64,
    family: Option<&str>,
    now: Time,
) -> Result<Response, Problem> {
    let roles = match kind {
        ClientType::User => store::user::role_names(tx.conn(), UserId::new(id)).await?,
        ClientType::Node | ClientType::Container => Vec::new(),
    };
    let access_token = state.tokens().access(kind, id, roles.clone(), now);
    let refresh_token = state.tokens().refresh(kind, id, roles, now);
    refresh_insert(tx, &refresh_token, family, id, now).await?;
    let own = |wanted, noun: &str| (kind == wanted).then(|| state.path(&format!("/{noun}/{id}")));
    let header = HeaderValue::from_str(&access_token).ok();
    let pair = TokenPair {
        access_token,
        refresh_token: refresh_token.text,
        refresh_url: state.path("/token/refresh"),
        user_url: own(ClientType::User, "user"),
        node_url: own(ClientType::Node, "node"),
    };
    let mut response = Json(pair).into_response();
    if let Some(value) = header {
        response.headers_mut().insert(HeaderName::from_static("jwt-token"), value);
    }
    Ok(response)
}

const TOKEN_IS_VALID: &str = "Token is valid";

/// Whose token it is.
#[derive(Debug, Serialize, ToSchema)]
struct ValidUser {
    /// That it is valid.
    msg: &'static str,
    /// Who.
    user_id: UserId,
    /// The log-in name.
    username: String,
    /// Mail address.
    email: Option<String>,
    /// The user's organization.
    organization_id: OrganizationId,
}

/// Tells an algorithm store whose token it was shown.
#[utoipa::path(
    post, path = "/token/user/validate", tag = "token",
    responses((status = 200, body = ValidUser)),
    security(("user" = [])),
)]
async fn validate_user(mut caller: Caller) -> Result<Json<ValidUser>, Problem> {
    let Some(id) = caller.actor.user() else { return Err(Problem::permission()) };
    let record = store::user::user_fetch(caller.tx.conn(), id).await?.ok_or_else(Problem::permission)?;
    Ok(Json(ValidUser {
        msg: TOKEN_IS_VALID,
        user_id: id,
        username: record.details.username,
        email: record.details.email,
        organization_id: record.organization,
    }))
}

/// Whose token it is.
#[derive(Debug, Serialize, ToSchema)]
struct ValidNode {
    /// That it is valid.
    msg: &'static str,
    /// Which.
    node_id: NodeId,
    /// Its name.
    name: String,
    /// Its organization.
    organization_id: OrganizationId,
}

/// Tells an algorithm store whose token it was shown.
#[utoipa::path(
    post, path = "/token/node/validate", tag = "token",
    responses((status = 200, body = ValidNode)),
    security(("node" = [])),
)]
async fn validate_node(mut caller: Caller) -> Result<Json<ValidNode>, Problem> {
    let id: NodeId = caller.actor.node().ok_or_else(Problem::permission)?;
    let record = store::node::node_fetch(caller.tx.conn(), id).await?.ok_or_else(Problem::permission)?;
    Ok(Json(ValidNode { msg: TOKEN_IS_VALID, node_id: id, name: record.name, organization_id: record.organization }))
}
