//! Who asks: the one extractor of handlers.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, header};
use sqlx::AnyConnection;
use twinmesh_protocol::id::UserId;
use twinmesh_protocol::time::Time;

use super::AppState;
use super::problem::Problem;
use crate::authn::token::{Access, ClientType, Subject, TokenError};
use crate::authz::{self, Action, Actor, Permit, Reach, Target};
use crate::store::identity::Bearer;
use crate::store::{self, Tx};

/// Somebody who proved who they are, and the transaction in which they are answered: one that writes unless the
/// request is a GET.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) actor: Actor,
    pub(crate) tx: Tx,
    /// This request's instant.
    pub(crate) now: Time,
    pub(crate) state: AppState,
}

impl Caller {
    /// Asks, by name, whether the caller may do an action.
    pub(crate) fn permit<A: Action>(&self, subject: A::Subject, target: &Target) -> Result<Permit<A>, Problem> {
        Ok(authz::decide::<A>(&self.actor, subject, target)?)
    }

    /// How far the caller sees in lists of what action `A` shows one by one.
    pub(crate) fn reach<A: Action>(&self) -> Result<Reach, Problem> {
        Ok(authz::reach::<A>(&self.actor)?)
    }

    /// Makes everything durable. Without it nothing happened.
    pub(crate) async fn commit(self) -> Result<(), Problem> {
        Ok(self.tx.commit().await?)
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let visitor = Visitor::from_request_parts(parts, state).await?;
        if parts.method == Method::GET || parts.method == Method::HEAD {
            visitor.begin_read().await
        } else {
            visitor.begin_write().await
        }
    }
}

/// Somebody with a valid token, before anything was read: for handlers that wait or compute before they ask.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    access: Access,
    pub(crate) now: Time,
    pub(crate) state: AppState,
}

impl Visitor {
    /// Somebody whom a store was introduced to, or who asks for themselves.
    pub(crate) fn introduced(parts: &Parts, state: &AppState) -> Result<Self, Problem> {
        let now = state.now();
        let access = state.tokens().verify_introduction(bearer(parts)?, now)?;
        Ok(Self { access, now, state: state.clone() })
    }

    /// Who, if it is a user.
    pub(crate) fn user(&self) -> Option<UserId> {
        match self.access.subject {
            Subject::Entity(ClientType::User, id) => Some(UserId::new(id)),
            Subject::Entity(ClientType::Node | ClientType::Container, _) | Subject::Container(_) => None,
        }
    }

    /// The family of refresh tokens to which the caller's token belongs.
    pub(crate) fn family(&self) -> Option<&str> {
        self.access.family.as_deref()
    }

    /// Begins to read, with what the caller may do at this moment.
    pub(crate) async fn begin_read(&self) -> Result<Caller, Problem> {
        self.begin(self.state.store().read().await?).await
    }

    /// Begins to write, with what the caller may do at this moment.
    pub(crate) async fn begin_write(&self) -> Result<Caller, Problem> {
        self.begin(self.state.store().write().await?).await
    }

    async fn begin(&self, mut tx: Tx) -> Result<Caller, Problem> {
        let actor = self.actor(tx.conn()).await?;
        Ok(self.caller(actor, tx))
    }

    /// What they are and may do at this moment.
    pub(crate) async fn actor(&self, conn: &mut AnyConnection) -> Result<Actor, Problem> {
        match store::identity::bearer_fetch(conn, &self.access).await? {
            Bearer::Known(actor) => Ok(actor),
            Bearer::LoggedOut => Err(Problem::unauthorized("token_ended", "Token has been revoked")),
            Bearer::Gone => Err(Problem::unauthorized("token_owner_gone", "The owner of this token is gone")),
        }
    }

    /// Whether they are the same by the same proof.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.access == other.access
    }

    /// Them, in the transaction that told what they are.
    pub(crate) fn caller(&self, actor: Actor, tx: Tx) -> Caller {
        self.state.saw(&actor, self.now);
        Caller { actor, tx, now: self.now, state: self.state.clone() }
    }
}

impl FromRequestParts<AppState> for Visitor {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let now = state.now();
        let access = state.tokens().verify_access(bearer(parts)?, now)?;
        Ok(Self { access, now, state: state.clone() })
    }
}

/// The token of the `Authorization` header.
pub(crate) fn bearer(parts: &Parts) -> Result<&str, TokenError> {
    parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .ok_or(TokenError::Missing)
}
