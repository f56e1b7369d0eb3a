//! What is counted and timed of requests.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;
use tokio::time::Instant;
use twinmesh_protocol::status::RunStatus;

use super::AppState;

/// From a list in memory to the longest that a question is held.
const REQUEST_BUCKETS: [f64; 14] =
    [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];
/// From an event on this machine to one that waited for its reader.
const DELIVERY_BUCKETS: [f64; 12] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
/// From a node that is there to one that comes back tomorrow.
const START_BUCKETS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0, 86_400.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    /// As it is declared, `/api/task/{id}`: never what somebody asked for.
    route: String,
    /// `2xx`; `none` for a caller who left before the answer.
    status: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LogIn {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    status: &'static str,
}

/// The instruments of the interface; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    requests: Family<Answered, Counter>,
    durations: Family<Route, Histogram>,
    in_flight: Gauge,
    held: Gauge,
    refused: Counter,
    log_ins: Family<LogIn, Counter>,
    locked: Counter,
    tasks: Counter,
    starts: Histogram,
    ended: Family<Ended, Counter>,
    deliveries: Histogram,
}

impl Meter {
    pub(crate) fn new() -> Self {
        let meter = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            in_flight: Gauge::default(),
            held: Gauge::default(),
            refused: Counter::default(),
            log_ins: Family::default(),
            locked: Counter::default(),
            tasks: Counter::default(),
            starts: Histogram::new(START_BUCKETS),
            ended: Family::default(),
            deliveries: Histogram::new(DELIVERY_BUCKETS),
        };
        // Counts that begin at zero show the first of their kind as a rise.
        for kind in ["user", "node"] {
            for outcome in ["ok", "failed"] {
                drop(meter.log_ins.get_or_create(&LogIn { kind, outcome }));
            }
        }
        meter
    }

    /// A question is held from now on, until the guard is dropped.
    pub(crate) fn held(&self) -> Counted {
        Counted::new(&self.held)
    }

    /// Counts connections of addresses that have too many.
    pub(crate) fn refused(&self) -> &Counter {
        &self.refused
    }

    /// An account takes no more tries for a while.
    pub(crate) fn locked(&self) {
        self.locked.inc();
    }

    /// A task was made.
    pub(crate) fn task_created(&self) {
        self.tasks.inc();
    }

    /// A run went from one status to another, so long after it was assigned.
    pub(crate) fn run_moved(&self, before: RunStatus, after: RunStatus, since_assigned: Duration) {
        if before == RunStatus::Pending && after != RunStatus::Pending {
            self.starts.observe(since_assigned.as_secs_f64());
        }
        if after.is_finished() && !before.is_finished() {
            self.ended.get_or_create(&Ended { status: after.as_str() }).inc();
        }
    }

    /// A node was told of an event, so long after the request that made it came in.
    pub(crate) fn delivered(&self, after: Duration) {
        self.deliveries.observe(after.as_secs_f64());
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests answered, by method, route and class of status",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "How long requests took until their answer began; held questions for a status are held on purpose",
            Unit::Seconds,
            self.durations.clone(),
        );
        registry.register("http_requests_in_flight", "Requests being answered", self.in_flight.clone());
        registry.register(
            "connections_refused",
            "Connections closed at once because their address has too many",
            self.refused.clone(),
        );
        registry.register("held_requests", "Questions for a task's status that are held open", self.held.clone());
        registry.register("log_ins", "Tries to log in, by kind and outcome", self.log_ins.clone());
        registry.register(
            "accounts_locked",
            "Accounts that were locked after too many wrong secrets",
            self.locked.clone(),
        );
        registry.register("tasks_created", "Tasks made at this instance", self.tasks.clone());
        registry.register_with_unit(
            "run_start",
            "How long runs were pending: from their task's request to the node's first word of them",
            Unit::Seconds,
            self.starts.clone(),
        );
        registry.register("runs_finished", "Runs whose end was reported to this instance", self.ended.clone());
        registry.register_with_unit(
            "event_delivery",
            "How long events took from the request that made them to the stream of a node connected here",
            Unit::Seconds,
            self.deliveries.clone(),
        );
    }
}

/// Something that counts while it is there.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A request that is being answered.
struct Flight {
    meter: Meter,
    _counted: Counted,
    method: &'static str,
    route: String,
    began: Instant,
    status: &'static str,
}

impl Drop for Flight {
    fn drop(&mut self) {
        let (method, route) = (self.method, std::mem::take(&mut self.route));
        let took = self.began.elapsed().as_secs_f64();
        self.meter.durations.get_or_create(&Route { method, route: route.clone() }).observe(took);
        if let Some((kind, outcome)) = log_in(method, &route, self.status) {
            self.meter.log_ins.get_or_create(&LogIn { kind, outcome }).inc();
        }
        self.meter.requests.get_or_create(&Answered { method, route, status: self.status }).inc();
    }
}

/// Counts a request, and times it until its answer begins.
pub(crate) async fn meter(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let meter = state.meter().clone();
    let mut flight = Flight {
        _counted: Counted::new(&meter.in_flight),
        meter,
        method: method(request.method()),
        route,
        began: Instant::now(),
        status: "none",
    };
    let response = next.run(request).await;
    flight.status = class(response.status());
    response
}

/// Who logged in by this request, and whether it went well. What makes no sense or fails here is no try.
fn log_in(method: &str, route: &str, status: &str) -> Option<(&'static str, &'static str)> {
    let (_, kind) = route.rsplit_once("/token/").filter(|_| method == "POST")?;
    let kind = ["user", "node"].into_iter().find(|known| *known == kind)?;
    let outcome = match status {
        "2xx" => "ok",
        "4xx" => "failed",
        _ => return None,
    };
    Some((kind, outcome))
}

/// Strangers may send any word for a method.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}
