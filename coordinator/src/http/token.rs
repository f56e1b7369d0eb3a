//! `/token`: logging in and staying so (contract A.2). Tokens of containers are in [`super::container`].

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, request};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use twinmesh_protocol::id::{NodeId, OrganizationId, UserId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::TokenPair;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::AppState;
use super::body::Body;
use super::caller::{Caller, Visitor, bearer};
use super::log_in::{Proof, Wanted, prove};
use super::origin::{Stranger, TooManyGuesses};
use super::problem::Problem;
use crate::authn::secret;
use crate::authn::token::{ClientType, Subject, TokenError};
use crate::authn::two_factor::SharedSecret;
use crate::config::Secret;
use crate::limits::{Described, Measured, bounded, described};
use crate::store::token::{Redeemed, refresh_insert, refresh_redeem};
use crate::store::user::Login;
use crate::store::{self, Tx};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(log_in_user))
        .routes(routes!(log_in_node))
        .routes(routes!(refresh))
        .routes(routes!(validate_user))
        .routes(routes!(validate_node))
}

/// The body of `POST /token/user`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct UserLogIn {
    username: String,
    password: Secret,
    #[serde(default)]
    mfa_code: Option<Code>,
}

bounded!(UserLogIn as "UserLogIn" {
    username: LOGIN_NAME;
    password: PASSWORD;
    mfa_code: CODE;
});

/// The code of a second factor. It is taken as text or number, as whoever calls a stock client gave it.
#[derive(Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a code as text or number")]
enum Code {
    Text(String),
    Number(u64),
}

impl Code {
    /// The digits, if there are any.
    fn read(self) -> Option<String> {
        let text = match self {
            // Numbers lose the zeros they begin with.
            Self::Number(number) => format!("{number:06}"),
            Self::Text(text) => text,
        };
        let digits: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        (!digits.is_empty()).then_some(digits)
    }
}

impl Measured for Code {
    fn size(&self) -> Option<usize> {
        match self {
            Self::Text(text) => text.size(),
            Self::Number(number) => number.to_string().size(),
        }
    }
}

/// What sets up an authenticator (contract A.3).
#[derive(Serialize, ToSchema)]
#[schema(as = SecondFactorSetUp)]
pub(crate) struct SetUp {
    /// What to show as a QR code.
    qr_uri: String,
    /// The secret in it, for typing it in.
    otp_secret: String,
    /// What to do with it.
    msg: String,
}

/// What a log-in is answered with when the password is right.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it only describes the answers")]
enum LogIn {
    /// Who has shown everything that is needed.
    Tokens(TokenPair),
    /// Who has to set up the second factor, and then log in with a code.
    SetUp(SetUp),
    /// Who has to log in with a code.
    CodeDue(CodeDue),
}

/// The answer that asks for a code.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CodeDue {
    /// That one is due.
    msg: &'static str,
}

/// The answer that shows somebody how to set up the second factor.
pub(crate) fn set_up(state: &AppState, secret: &SharedSecret, username: &str) -> Result<SetUp, Problem> {
    let uri = state.second_factor().uri(secret, username).map_err(|error| Problem::internal(&error))?;
    let msg = "Two-factor authentication is obligatory on this server. Please visualize the QR code to set up \
               authentication, and log in with a code from your authenticator.";
    Ok(SetUp { qr_uri: uri, otp_secret: secret.0.clone(), msg: msg.into() })
}

/// Logs a user in. Whatever is wrong, the answer and the work are the same.
#[utoipa::path(
    post, path = "/token/user", tag = "token",
    request_body = UserLogIn,
    responses(
        (status = 200, body = LogIn),
        (status = 401, description = "Wrong password or code, no such user, or too many tries"),
        TooManyGuesses,
    ),
    security(()),
)]
#[tracing::instrument(name = "http.token.user", skip_all)]
async fn log_in_user(stranger: Stranger, Body(body): Body<UserLogIn>) -> Result<Response, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let code = body.mfa_code.and_then(Code::read);
    let guess = stranger.guess(Some(&body.username))?;
    let (login, wanted) = (Login::Username(&body.username), Wanted::LogIn { code: code.as_deref() });
    match prove(state, login, body.password.reveal(), wanted, now).await? {
        Proof::Refused | Proof::PasswordKnown { .. } => Err(failed_log_in()),
        Proof::WrongCode => {
            let text = "Your two-factor authentication code is incorrect!";
            Err(Problem::unauthorized("wrong_code", text))
        }
        // A success by its status: stock clients look for what is in it.
        Proof::CodeDue => {
            let msg = "Please include your two-factor authentication code";
            Ok(Json(CodeDue { msg }).into_response())
        }
        Proof::SetUp { secret, username } => Ok(Json(set_up(state, &secret, &username)?).into_response()),
        Proof::Right { id, mut tx } => {
            let answer = issue(state, &mut tx, ClientType::User, id.get(), None, now).await?;
            tx.commit().await?;
            guess.was_right();
            tracing::info!(user.id = %id, "user logged in");
            Ok(answer)
        }
    }
}

/// The answer to every log-in that fails.
pub(crate) fn failed_log_in() -> Problem {
    Problem::unauthorized("log_in_failed", "Failed to login")
}

/// The body of `POST /token/node`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NodeLogIn {
    api_key: Secret,
}

bounded!(NodeLogIn as "NodeLogIn" {
    api_key: API_KEY, told;
});
pub(crate) const LIMITS: &[Described] = &[described::<UserLogIn>(), described::<NodeLogIn>()];

/// Logs a node in.
#[utoipa::path(
    post, path = "/token/node", tag = "token",
    request_body = NodeLogIn,
    responses(
        (status = 200, body = TokenPair),
        (status = 401, description = "Not with these"),
        TooManyGuesses,
    ),
    security(()),
)]
#[tracing::instrument(name = "http.token.node", skip_all)]
async fn log_in_node(stranger: Stranger, Body(body): Body<NodeLogIn>) -> Result<Response, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let key = Uuid::parse_str(body.api_key.reveal()).map_err(|_| Problem::field("api_key", "Not a valid UUID."))?;
    let hash = secret::hash(&key.to_string());
    let guess = stranger.guess(None)?;
    let mut tx = state.store().write().await?;
    let Some(id) = store::node::node_by_api_key(tx.conn(), &hash).await? else {
        return Err(Problem::unauthorized("unknown_api_key", "Api key is not recognized!"));
    };
    let answer = issue(state, &mut tx, ClientType::Node, id.get(), None, now).await?;
    tx.commit().await?;
    guess.was_right();
    tracing::info!(node.id = %id, "node logged in");
    Ok(answer)
}

/// Turns a refresh token into a new pair. Each is good once; a later repeat ends everything that came of its log-in.
#[utoipa::path(
    post, path = "/token/refresh", tag = "token",
    responses((status = 200, body = TokenPair), TooManyGuesses),
    security(("refresh" = [])),
)]
#[tracing::instrument(name = "http.token.refresh", skip_all)]
async fn refresh(stranger: Stranger, parts: request::Parts) -> Result<Response, Problem> {
    let (state, now) = (&stranger.state, stranger.now);
    let guess = stranger.guess(None)?;
    let verified = state.tokens().verify_refresh(bearer(&parts)?, now);
    // What we signed was not guessed.
    if !matches!(verified, Err(TokenError::Signature | TokenError::Malformed)) {
        guess.was_right();
    }
    let (subject, token_id) = verified?;
    let Subject::Entity(kind, id) = subject else { return Err(used_refresh_token()) };
    let mut tx = state.store().write().await?;
    match refresh_redeem(&mut tx, &token_id, id, now).await? {
        Redeemed::Good { family } => {
            let gone = store::identity::actor_fetch(tx.conn(), &subject).await?.is_none();
            if gone {
                return Err(used_refresh_token());
            }
            let answer = issue(state, &mut tx, kind, id, Some(&family), now).await?;
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
    // Another instance's clock may be ahead of this one's, and its word on what was ended counts here.
    let now = store::token::valid_from(tx.conn(), id).await?.map_or(now, |from| now.max(from));
    let refresh_token = state.tokens().refresh(kind, id, roles.clone(), now);
    let family = refresh_insert(tx, &refresh_token, family, id, now).await?;
    let access_token = state.tokens().access(kind, id, roles, &family, now);
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
async fn validate_user(State(state): State<AppState>, parts: request::Parts) -> Result<Json<ValidUser>, Problem> {
    // A user's own, or one that was made for the store.
    let mut caller = Visitor::introduced(&parts, &state)?.begin_read().await?;
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
