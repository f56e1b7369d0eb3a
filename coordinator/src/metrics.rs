//! Figures for Prometheus, in the text form of OpenMetrics 1.0.
//!
//! Each part of the house has its own instruments. What the tables know is read when somebody asks, but not more often
//! than every few seconds, so that watching costs little.

mod process;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::sync::Mutex;
use tokio::time::Instant;
use twinmesh_protocol::status::RunStatus;

use crate::http::AppState;
use crate::http::event::follower::Following;
use crate::store::figures::{Figures, figures};
use crate::tls::Tls;

/// How old the counts of tables may get.
const FRESH: Duration = Duration::from_secs(5);
/// How long the tables may take. A scrape that fails says nothing; one without them says that the database is away.
const PATIENCE: Duration = Duration::from_secs(4);
/// What every name begins with, but those of the process.
const PREFIX: &str = "twinmesh";

/// Counts of tables as last read; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<Option<(Instant, Figures)>>>);

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Status {
    status: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Pool {
    pool: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

/// `/metrics`, to be served at an address of its own.
pub(crate) fn router(state: AppState) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state((state, Counts::default()))
}

async fn scrape(State((state, counts)): State<(AppState, Counts)>) -> Response {
    match expose(&state, &counts).await {
        Ok(text) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(error) => {
            tracing::error!("cannot write the figures: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn expose(state: &AppState, counts: &Counts) -> Result<String, std::fmt::Error> {
    let mut all = Registry::default();
    process::register(&mut all);
    let registry = all.sub_registry_with_prefix(PREFIX);
    registry.register("build", "What runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    state.meter().register(registry);
    state.store().register(registry);
    let figures = count(state, counts).await;
    registry.register(
        "database_up",
        "Whether the database answered this time: 1 or 0",
        ConstGauge::new(i64::from(figures.is_some())),
    );
    if let Some(figures) = figures {
        register_figures(registry, &figures);
    }
    register_pools(registry, state);
    register_events(registry, state).await;
    if let Some(relay) = state.relay() {
        let info = relay.info();
        let circuits = i64::try_from(info.circuits).unwrap_or(i64::MAX);
        let reachable = i64::try_from(relay.reservations()).unwrap_or(i64::MAX);
        registry.register(
            "relay_reservations",
            "Nodes that can be reached through the relay",
            ConstGauge::new(reachable),
        );
        registry.register("relay_circuits", "Connections of nodes that are being relayed", ConstGauge::new(circuits));
        let opened = ConstCounter::new(info.circuits_total);
        registry.register("relay_circuits_opened", "Connections of nodes that were relayed", opened);
    }
    if let Some(until) = state.tls().map(Tls::valid_until) {
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use ends, in seconds since 1970",
            ConstGauge::new(until.seconds()),
        );
    }
    let mut text = String::new();
    text::encode(&mut text, &all)?;
    Ok(text)
}

/// What the tables say; nothing if they cannot be read in time.
async fn count(state: &AppState, counts: &Counts) -> Option<Figures> {
    let read = async {
        let mut last = counts.0.lock().await;
        if let Some((at, figures)) = &*last
            && at.elapsed() < FRESH
        {
            return Some(figures.clone());
        }
        let read = async {
            let mut tx = state.store().read().await?;
            figures(tx.conn()).await
        };
        match read.await {
            Ok(figures) => Some(last.insert((Instant::now(), figures)).1.clone()),
            Err(error) => {
                tracing::warn!(error = %error, "cannot count for who watches");
                None
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.ok().flatten()
}

fn register_figures(registry: &mut Registry, figures: &Figures) {
    let by_status = |counts: &[(String, i64)], known: &[&str]| {
        let family = Family::<Status, Gauge>::default();
        let zeros = known.iter().map(|status| ((*status).to_owned(), 0));
        for (status, count) in zeros.chain(counts.iter().cloned()) {
            family.get_or_create(&Status { status }).set(count);
        }
        family
    };
    let runs = by_status(&figures.runs, &RunStatus::ALL.map(RunStatus::as_str));
    registry.register("runs", "Runs in the database by status; those `pending` wait for their nodes", runs);
    let nodes = by_status(&figures.nodes, &["online", "offline"]);
    registry.register("nodes", "Registered nodes by status", nodes);
    let last = ConstGauge::new(figures.last_event.get());
    registry.register("event_sequence", "The last event's place in the log, as the database has it", last);
}

fn register_pools(registry: &mut Registry, state: &AppState) {
    let (open, idle) = (Family::<Pool, Gauge>::default(), Family::<Pool, Gauge>::default());
    for (pool, all, free) in state.store().connections() {
        open.get_or_create(&Pool { pool }).set(i64::from(all));
        idle.get_or_create(&Pool { pool }).set(i64::try_from(free).unwrap_or(i64::MAX));
    }
    registry.register("database_connections", "Connections to the database", open);
    registry.register("database_connections_idle", "Connections to the database that nobody uses", idle);
}

async fn register_events(registry: &mut Registry, state: &AppState) {
    let follow = state.follow();
    let Ok(hub) = follow.hub().await else { return };
    let head = hub.head();
    let Following { nodes, users, lag } = follow.followers().look(head);
    let streams = Family::<Kind, Gauge>::default();
    for (kind, count) in [("node", nodes), ("user", users)] {
        streams.get_or_create(&Kind { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("event_streams", "Event streams that are open here", streams);
    registry.register(
        "event_head",
        "The last event's place in the log, as this instance has read it",
        ConstGauge::new(head.get()),
    );
    registry.register("event_stream_lag", "How many events the stream farthest behind is behind", ConstGauge::new(lag));
    registry.register(
        "database_listener_up",
        "Whether this instance hears what others commit: 1 or 0",
        ConstGauge::new(i64::from(state.store().hears())),
    );
}
