//! Questions to the coordinator that outlast its absence.

use std::time::Duration;

use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use serde_json::{Value, json};
use tokio::time::Instant;
use twinmesh_client::{
    Api, ApiError,
    api::{NO_BODY, Query},
};
use twinmesh_protocol::status::RunStatus;

use super::{Failure, Gateway, PATIENCE, answer};

/// The first and the longest pause between attempts.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// An answer that came sooner was not held by the coordinator, so the next question waits a little.
const HELD: Duration = Duration::from_millis(250);

impl Gateway {
    pub(super) async fn forward_unauthenticated(&self, path: &str) -> Result<Response, Failure> {
        let api = self.services.api.clone();
        Ok(answer(StatusCode::OK, &self.forward(&api, Method::GET, path).await?))
    }

    /// Asks the coordinator; its errors are passed on as they are, its absence is waited for.
    pub(super) async fn forward(&self, api: &Api, method: Method, target: &str) -> Result<Value, Failure> {
        let query = Query::new();
        patiently(|| api.request(method.clone(), target, &query, NO_BODY)).await
    }

    /// Holds the question for a task's status until it has finished.
    pub(super) async fn task_status(&self, api: &Api, target: &str) -> Result<Response, Failure> {
        loop {
            let asked = Instant::now();
            let body = self.forward(api, Method::GET, target).await?;
            let status: Option<RunStatus> =
                body.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
            match status {
                Some(status) if !status.is_finished() => {}
                Some(_) | None => return Ok(answer(StatusCode::OK, &body)),
            }
            tokio::time::sleep(HELD.saturating_sub(asked.elapsed())).await;
        }
    }
}

/// Repeats a request as long as the coordinator cannot be reached.
pub(super) async fn patiently<T, F, Fut>(mut request: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ApiError>>,
{
    let deadline = Instant::now() + PATIENCE;
    let mut pause = PAUSE.0;
    loop {
        let error = match request().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if !error.is_transient() || Instant::now() + pause > deadline {
            return Err(failure(&error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// The coordinator's error as the run sees it: the same status, always JSON.
pub(super) fn failure(error: &ApiError) -> Failure {
    if let ApiError::Refused(refusal) = error {
        let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let mut body = json!({"msg": refusal.msg, "status": refusal.status, "code": refusal.code});
        if let Some(detail) = &refusal.detail {
            body["detail"] = json!(detail);
        }
        if !refusal.errors.is_empty() {
            body["errors"] = json!(refusal.errors);
        }
        return Failure { status, body };
    }
    let status = if error.is_transient() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_GATEWAY };
    Failure::new(status, error.to_string())
}
