//! The interface: the v4 contract under the API path, and our additions to it.
//!
//! * [`caller`] – who asks, and the transaction they are answered in. [`origin`] – where from, and how often they may
//!   guess. [`log_in`] – how they prove who they are. [`params`], [`body`] – what they ask.
//!   [`intake`] – how bodies come in.
//! * [`page`] – lists. [`problem`] – errors. [`answer`] – other answers. [`link`] – paths to related objects.
//! * [`openapi`] – the description of it all, made from what stands at each handler; [`docs`] – as a page.
//! * a file per noun.

pub(crate) mod address;
pub(crate) mod algorithm_store;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod collaboration;
pub(crate) mod column;
pub(crate) mod container;
pub(crate) mod docs;
pub(crate) mod event;
pub(crate) mod health;
pub(crate) mod intake;
pub(crate) mod kill;
pub(crate) mod link;
pub(crate) mod log_in;
pub(crate) mod meta;
pub(crate) mod meter;
pub(crate) mod node;
pub(crate) mod object;
pub(crate) mod openapi;
pub(crate) mod operation;
pub(crate) mod organization;
pub(crate) mod origin;
pub(crate) mod page;
pub(crate) mod params;
pub(crate) mod path;
pub(crate) mod peer;
pub(crate) mod port;
pub(crate) mod problem;
pub(crate) mod recover;
pub(crate) mod result;
pub(crate) mod role;
pub(crate) mod rule;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod state;
pub(crate) mod study;
pub(crate) mod task;
pub(crate) mod token;
pub(crate) mod user;

use std::any::Any;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Router};
use tokio::time::Instant;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument as _;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use openapi::Document;
use problem::{Problem, REQUEST_ID};
pub(crate) use state::AppState;

use crate::limits::{self, Described};
use crate::store;

/// How long what stands in bodies may be.
const LIMITS: &[&[Described]] = &[
    limits::WIRE,
    algorithm_store::LIMITS,
    body::LIMITS,
    collaboration::LIMITS,
    node::LIMITS,
    recover::LIMITS,
    role::LIMITS,
    study::LIMITS,
    token::LIMITS,
    user::LIMITS,
];

/// The interface as a service.
pub(crate) fn router(state: AppState) -> Router {
    let api = OpenApiRouter::new()
        .merge(address::routes())
        .merge(algorithm_store::routes())
        .merge(column::routes())
        .merge(container::routes())
        .merge(event::routes())
        .merge(health::routes())
        .merge(kill::routes())
        .merge(peer::routes())
        .merge(port::routes())
        .merge(result::routes())
        .merge(run::routes())
        .merge(task::routes())
        .merge(collaboration::routes())
        .merge(meta::routes())
        .merge(node::routes())
        .merge(object::routes())
        .merge(openapi::routes())
        .merge(organization::routes())
        .merge(recover::routes())
        .merge(role::routes())
        .merge(rule::routes())
        .merge(study::routes())
        .merge(token::routes())
        .merge(user::routes());
    let (routes, declared) = OpenApiRouter::with_openapi(openapi::base())
        .merge(meta::root_routes())
        .nest(state.api_path(), api)
        .split_for_parts();
    routes
        .fallback(problem::unknown_route)
        .method_not_allowed_fallback(problem::wrong_verb)
        // The limit is ours, in `intake`.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(settled))
        .layer(middleware::from_fn_with_state(state.clone(), intake::whole_body))
        .layer(Extension(Arc::new(Document::new(&declared, LIMITS))))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(cors))
        .layer(middleware::from_fn_with_state(state.clone(), guarded))
        .layer(middleware::from_fn_with_state(state.clone(), meter::meter))
        .layer(middleware::from_fn(named))
        .with_state(state)
}

/// Where each request is logged, to be turned on by itself.
const ACCESS: &str = "twinmesh_coordinator::access";

/// Lets an answer go once everything is durable that it may tell of: writers see each other's work before it is.
async fn settled(request: Request, next: Next) -> Response {
    match store::settled(next.run(request)).await {
        Ok(response) => response,
        Err(error) => Problem::from(error).into_response(),
    }
}

/// Gives the request a name, under which it stands in the log and in answers that tell of errors.
async fn named(request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = Uuid::now_v7().to_string();
    // The path without its query, which may hold names.
    let span =
        tracing::info_span!("http.request", request.id = %id, method = %request.method(), path = request.uri().path());
    let value = HeaderValue::from_str(&id);
    let answer = async {
        let mut response = next.run(request).await;
        if let Ok(value) = value {
            response.headers_mut().insert(HeaderName::from_static("x-request-id"), value);
        }
        let (status, took) = (response.status().as_u16(), began.elapsed());
        tracing::debug!(target: ACCESS, status, duration_ms = took.as_secs_f64() * 1e3, "answered");
        response
    };
    REQUEST_ID.scope(id, answer.instrument(span)).await
}

/// Tells browsers and caches what not to make of an answer.
async fn guarded(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Answers are of one moment and for one caller.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if state.tls().is_some() {
        // Two years, as browsers ask of those who mean it.
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=63072000"));
    }
    response
}

/// Browsers of any origin may ask; tokens are never sent by themselves.
async fn cors(request: Request, next: Next) -> Response {
    let preflight = request.method() == axum::http::Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    if preflight {
        let methods = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let allowed = HeaderValue::from_static(
            "authorization, content-type, idempotency-key, last-event-id, range, if-range, repr-digest, upload-complete, \
             upload-offset",
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
    }
    response
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_default();
    tracing::error!("a request handler panicked: {text}");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "An unexpected error occurred on the server!")
        .into_response()
}
