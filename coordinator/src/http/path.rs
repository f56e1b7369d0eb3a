use std::str::FromStr;

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::problem::{Problem, unknown_route};

/// The two ids in a path. What is no id leads nowhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids<T, U>(pub(crate) T, pub(crate) U);

impl<S: Send + Sync, T: FromStr + Send, U: FromStr + Send> FromRequestParts<S> for Ids<T, U> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let texts: Result<Path<(String, String)>, PathRejection> = Path::from_request_parts(parts, state).await;
        let ids = texts.ok().and_then(|Path((first, second))| Some(Self(first.parse().ok()?, second.parse().ok()?)));
        match ids {
            Some(ids) => Ok(ids),
            None => Err(unknown_route().await),
        }
    }
}

/// The id in a path. What is no id leads nowhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id<T>(pub(crate) T);

impl<S: Send + Sync, T: FromStr + Send> FromRequestParts<S> for Id<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text: Result<Path<String>, PathRejection> = Path::from_request_parts(parts, state).await;
        match text.ok().and_then(|Path(text)| text.parse().ok()) {
            Some(id) => Ok(Self(id)),
            None => Err(unknown_route().await),
        }
    }
}
