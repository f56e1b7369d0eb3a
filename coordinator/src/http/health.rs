//! Whether this coordinator can do its work, for monitors and load balancers.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::Instant;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use crate::doctor::{NO_SPACE, free_space};

/// How old an answer may get: however often somebody asks, the database is tried once in this time.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take. A writer's turn comes far sooner even under load.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready))
}

/// The contract's answer (A.7.9), and our additions to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
struct Health {
    /// Whether the database answers, takes writes and commits them, all in time.
    database: bool,
    /// Whether this instance hears what others on the same database commit.
    events: bool,
    /// Whether the data directory has room for more.
    disk: bool,
    /// Whether the overlay's meeting point is at work, if this instance is to be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    relay: Option<bool>,
    /// Whether requests should be sent here.
    ready: bool,
    version: &'static str,
}

/// How the database was when it was last tried.
#[derive(Debug, Default)]
pub(crate) struct Pulse(Mutex<Option<(Instant, bool)>>);

impl Pulse {
    /// Tries the database, unless somebody did a moment ago.
    async fn database(&self, state: &AppState) -> bool {
        let mut last = self.0.lock().await;
        if let Some((at, well)) = *last
            && at.elapsed() < FRESH
        {
            return well;
        }
        let tried = tokio::time::timeout(PATIENCE, state.store().try_all(state.now())).await;
        let well = match tried {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::error!("the database is not well: {error:#}");
                false
            }
            Err(_) => {
                tracing::error!("the database does not answer within {} s", PATIENCE.as_secs());
                false
            }
        };
        *last = Some((Instant::now(), well));
        well
    }
}

async fn look(state: &AppState) -> Health {
    let database = state.pulse().database(state).await;
    let events = state.store().hears();
    let relay = state.relay().map(crate::relay::Relay::is_running);
    Health {
        database,
        events,
        // A volume that cannot be asked is left to whoever tries to write there.
        disk: free_space(state.data_dir()).map_or(true, |free| free >= NO_SPACE),
        relay,
        ready: database && events && !state.shutdown().is_cancelled(),
        version: env!("CARGO_PKG_VERSION"),
    }
}

/// Whether all is well. The answer is always 200: the body tells.
#[utoipa::path(get, path = "/health", tag = "meta", responses((status = 200, body = Health)), security(()))]
async fn health(State(state): State<AppState>) -> Json<Health> {
    Json(look(&state).await)
}

/// Whether requests should be sent here: 503 if not.
#[utoipa::path(
    get, path = "/health/ready", tag = "meta",
    responses((status = 200, body = Health), (status = 503, body = Health)),
    security(()),
)]
async fn ready(State(state): State<AppState>) -> Response {
    let health = look(&state).await;
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}
