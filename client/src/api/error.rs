use std::fmt;

use serde::Deserialize;
use twinmesh_protocol::id::ObjectId;
use twinmesh_protocol::wire::{FieldErrors, Problem};

/// Why a request to the coordinator did not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The base address is not one.
    #[error("`{text}` is no coordinator address: use one like https://coordinator.example.org/api")]
    Address {
        /// What was given.
        text: String,
    },
    /// The HTTP client cannot be set up.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] reqwest::Error),
    /// No connection: the request was not sent.
    #[error("cannot reach the coordinator at {url}")]
    Unreachable {
        /// The coordinator's base address.
        url: String,
        /// What the network said.
        source: reqwest::Error,
    },
    /// The connection broke, or nothing came for too long, before the answer was complete. The request may have been
    /// carried out.
    #[error("the coordinator at {url} did not complete its answer: {reason}")]
    Interrupted {
        /// The coordinator's base address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The coordinator answered with an error.
    #[error("{}", refusal_text(.0))]
    Refused(Box<Refusal>),
    /// The answer is an error without a problem document: a proxy, or another kind of server.
    #[error("the server at {url} answered {status} without a problem document (`{excerpt}`): is this a coordinator?")]
    NotJson {
        /// The coordinator's base address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// How the answer begins.
        excerpt: String,
    },
    /// The answer is no such resource as the contract describes.
    #[error("the answer to {request} cannot be read: is the coordinator of another version?")]
    Unexpected {
        /// Verb and path.
        request: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A payload is larger than what is taken.
    #[error("payload {id} is larger than the {limit} bytes that are taken here")]
    PayloadTooLarge {
        /// The payload.
        id: ObjectId,
        /// How much is taken.
        limit: u64,
    },
    /// No log-in, or one that has ended.
    #[error("not logged in at {url}")]
    NotLoggedIn {
        /// The coordinator's base address.
        url: String,
    },
    /// The log-in wants a second factor.
    #[error("the log-in needs a two-factor code: {msg}")]
    SecondFactor {
        /// The coordinator's words.
        msg: String,
    },
    /// The log-in wants a second factor, which has to be set up first. Its `Debug` shows no secret.
    #[error("two-factor authentication has to be set up")]
    SecondFactorSetUp(SecondFactorSetUp),
}

/// What sets up an authenticator.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct SecondFactorSetUp {
    /// What to show as a QR code.
    pub qr_uri: String,
    /// The secret in it, for typing it in.
    pub otp_secret: String,
}

impl fmt::Debug for SecondFactorSetUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecondFactorSetUp([redacted])")
    }
}

/// An error as the coordinator tells it (RFC 9457 with the contract's `msg`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Verb and path of the request.
    pub request: String,
    /// The HTTP status.
    pub status: u16,
    /// The kind of problem, as a stable word; may be empty.
    pub code: String,
    /// What happened, in a sentence for people.
    pub msg: String,
    /// What to try.
    pub detail: Option<String>,
    /// What is wrong with which field.
    pub errors: FieldErrors,
    /// Finds the request in the coordinator's log.
    pub request_id: Option<String>,
}

impl Refusal {
    pub(super) fn new(request: String, status: u16, problem: Problem) -> Self {
        let msg = if problem.msg.is_empty() { problem.title } else { problem.msg };
        Self {
            request,
            status,
            code: problem.code,
            msg,
            detail: problem.detail,
            errors: problem.errors.unwrap_or_default(),
            request_id: problem.request_id,
        }
    }
}

fn refusal_text(refusal: &Refusal) -> String {
    let mut text = if refusal.msg.is_empty() {
        format!("the coordinator answered {} to {}", refusal.status, refusal.request)
    } else {
        refusal.msg.trim_end_matches('.').to_owned()
    };
    for (field, problems) in &refusal.errors {
        let problems = problems.join(" ");
        text.push_str(&if field == "_schema" { format!("; {problems}") } else { format!("; `{field}`: {problems}") });
    }
    text
}

impl ApiError {
    /// The HTTP status of the answer, if there was one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status),
            Self::NotJson { status, .. } => Some(*status),
            Self::NotLoggedIn { .. } => Some(401),
            Self::Address { .. }
            | Self::Setup(_)
            | Self::Unreachable { .. }
            | Self::Interrupted { .. }
            | Self::Unexpected { .. }
            | Self::PayloadTooLarge { .. }
            | Self::SecondFactor { .. }
            | Self::SecondFactorSetUp(_) => None,
        }
    }

    /// Whether the resource does not exist, or may not be known to.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.status == 404)
    }

    /// Whether the same request may well succeed a little later: the network or a proxy failed, not the coordinator.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Refused(refusal) => matches!(refusal.status, 408 | 429 | 502..=504),
            Self::NotJson { status, .. } => matches!(status, 429 | 502..=504),
            Self::Address { .. }
            | Self::Setup(_)
            | Self::Unexpected { .. }
            | Self::PayloadTooLarge { .. }
            | Self::NotLoggedIn { .. }
            | Self::SecondFactor { .. }
            | Self::SecondFactorSetUp(_) => false,
        }
    }

    /// What to try, where there is something to say.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable { .. } => Some(
                "check the address, that the coordinator runs (its `/api/health` answers), and proxies or firewalls \
                 in between"
                    .into(),
            ),
            Self::Interrupted { .. } => Some("try again; nothing is lost if the coordinator was restarting".into()),
            Self::Refused(refusal) => {
                let mut hints: Vec<String> = refusal.detail.iter().cloned().collect();
                if let Some(id) = &refusal.request_id {
                    hints.push(format!("the coordinator's log knows this request as {id}"));
                }
                (!hints.is_empty()).then(|| hints.join("; "))
            }
            Self::NotJson { .. } => Some("the address usually ends in /api".into()),
            Self::NotLoggedIn { .. } => Some("log in with `twinmesh login`".into()),
            Self::Address { .. }
            | Self::Setup(_)
            | Self::Unexpected { .. }
            | Self::PayloadTooLarge { .. }
            | Self::SecondFactor { .. }
            | Self::SecondFactorSetUp(_) => None,
        }
    }
}
