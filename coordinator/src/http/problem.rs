//! Errors as they leave the house: problem documents (RFC 9457) that carry `msg`, in the contract's words.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use twinmesh_protocol::wire;

use crate::authn::password::HashError;
use crate::authn::token::TokenError;
use crate::authz::Denied;
use crate::authz::rule::Rule;
use crate::store::StoreError;

tokio::task_local! {
    /// The id of the request that the current task answers.
    pub(crate) static REQUEST_ID: String;
}

/// An error's answer.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    msg: String,
    detail: Option<String>,
    errors: Option<wire::FieldErrors>,
    /// When to try again, in seconds.
    retry_after: Option<u64>,
}

impl Problem {
    /// An answer with a status, a stable word and a sentence.
    pub(crate) fn new(status: StatusCode, code: &'static str, msg: impl Into<String>) -> Self {
        Self { status, code, msg: msg.into(), detail: None, errors: None, retry_after: None }
    }

    /// 400: the request makes no sense as things are.
    pub(crate) fn bad_request(code: &'static str, msg: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, msg)
    }

    /// 400: one field is wrong.
    pub(crate) fn field(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self::fields(BTreeMap::from([(field.into(), vec![text.into()])]))
    }

    /// 400: some fields are wrong.
    pub(crate) fn fields(errors: wire::FieldErrors) -> Self {
        Self { errors: Some(errors), ..Self::bad_request("invalid_body", "Request body is incorrect") }
    }

    /// 401: the contract's answer to whoever lacks a permission.
    pub(crate) fn permission() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "not_allowed", "You lack the permission to do that!")
    }

    /// 401 with a sentence of its own.
    pub(crate) fn unauthorized(code: &'static str, msg: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, msg)
    }

    /// 429: too many wrong passwords, keys, codes or tokens.
    pub(crate) fn too_many(wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let msg = format!("Too many attempts with wrong passwords, keys or codes! Try again in {seconds} seconds.");
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_attempts", msg).with_retry_after(wait)
    }

    /// 404: there is no such thing, or none that the caller may know of.
    pub(crate) fn not_found(msg: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", msg)
    }

    /// 500: our fault. Logs the cause, tells nothing of it.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes = Vec::new();
        let mut next = error.source();
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        let request_id = request_id().unwrap_or_default();
        tracing::error!(request.id = request_id, causes = causes.join(": "), "a request failed: {error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "An unexpected error occurred on the server!")
    }

    /// Adds what to try.
    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds when to try again.
    pub(crate) fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        self
    }

    /// Whether the fault is ours and not the caller's.
    pub(crate) fn is_ours(&self) -> bool {
        self.status.is_server_error()
    }

    /// The sentence it will carry.
    pub(crate) fn msg(&self) -> &str {
        &self.msg
    }
}

fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = wire::Problem {
            msg: self.msg,
            status: self.status.as_u16(),
            code: self.code.into(),
            title: self.status.canonical_reason().unwrap_or_default().into(),
            detail: self.detail,
            request_id: request_id(),
            errors: self.errors,
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        if error.is_conflict() {
            // Handlers look first and say what is taken; this is somebody else's request in between.
            return Self::bad_request("conflict", "Something with this name or these properties already exists");
        }
        Self::internal(&error)
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

impl From<HashError> for Problem {
    fn from(error: HashError) -> Self {
        Self::internal(&error)
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let (status, code) = match error {
            TokenError::Missing => (StatusCode::UNAUTHORIZED, "token_missing"),
            TokenError::Expired => (StatusCode::UNAUTHORIZED, "token_expired"),
            TokenError::Malformed => (StatusCode::UNPROCESSABLE_ENTITY, "token_malformed"),
            TokenError::Signature => (StatusCode::UNPROCESSABLE_ENTITY, "token_invalid"),
            TokenError::Refresh | TokenError::NotRefresh | TokenError::Introduction => {
                (StatusCode::UNPROCESSABLE_ENTITY, "token_kind")
            }
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Kind { .. } => Self { code: "wrong_token_kind", ..Self::permission() },
            Denied::Permission { .. } => Self::permission(),
            Denied::Grant { rule, elsewhere } => {
                let Rule { id, resource, operation, scope } = *rule;
                let msg = match elsewhere {
                    None => format!("You cannot give or take rule {id}, because you do not have it yourself!"),
                    Some(organization) => format!(
                        "You cannot give or take rule {id} ({resource}, {operation}, {scope}) at organization \
                         id={organization}, because your own rules do not reach as far there!"
                    ),
                };
                Self { code: "grant_exceeds_own", msg, ..Self::permission() }
            }
        }
    }
}

/// The answer to a path that leads nowhere.
pub(crate) async fn unknown_route() -> Problem {
    Problem { code: "unknown_route", ..Problem::not_found("There is nothing at this address") }
}

/// The answer to a verb that a path does not know; `message` is what stock servers say (contract A.1).
pub(crate) async fn wrong_verb() -> Response {
    const TEXT: &str = "The method is not allowed for the requested URL.";
    let body = json!({
        "message": TEXT, "msg": TEXT, "status": 405, "code": "wrong_verb", "title": "Method Not Allowed",
        "request_id": request_id(),
    });
    (StatusCode::METHOD_NOT_ALLOWED, Json(body)).into_response()
}
