//! The event log as a stream of server-sent events: resumable, and only what the caller may see.
//!
//! * [`hub`] – wakes who follows. [`audience`] – who hears of what. [`presence`] – who is there. [`follower`] – how far
//!   they are.

pub(crate) mod audience;
pub(crate) mod follower;
pub(crate) mod hub;
pub(crate) mod presence;

use std::convert::Infallible;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use twinmesh_protocol::id::EventSequence;
use twinmesh_protocol::wire::{Event, Hello};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::audience::{Audience, Hears};
use self::follower::Followers;
use self::hub::Hub;
use self::presence::{Attending, Instance, Presence};
use super::AppState;
use super::caller::Visitor;
use super::params::{Params, invalid};
use super::problem::Problem;
use crate::authz::action::FollowEvents;
use crate::authz::actor::Who;
use crate::authz::{Actor, reach};
use crate::clock::Clock;
use crate::store::event::NodePlace;
use crate::store::{Result as StoreResult, Store};
use crate::tally::Entry;

/// How often a stream without events shows that it lives, so that nothing between the two ends takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a stream lasts before the caller has to come with a token that is good.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// How often it is asked again what the caller may see, and whether they are still there at all.
const RECHECK: Duration = Duration::from_secs(30);
/// What asks for the end of the log.
const LATEST: &str = "latest";

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// Following the log: the hub and the attendance list, which begin with the first need of them or with
/// [`Follow::start`].
#[derive(Debug)]
pub(crate) struct Follow {
    store: Store,
    clock: Clock,
    grace: Duration,
    instance: Instance,
    stop: CancellationToken,
    started: OnceCell<(Hub, Presence)>,
    followers: Followers,
}

impl Follow {
    /// `grace` is how long a node may be away before it counts as gone.
    pub(crate) fn new(
        store: Store,
        clock: Clock,
        grace: Duration,
        instance: Instance,
        stop: CancellationToken,
    ) -> Self {
        Self { store, clock, grace, instance, stop, started: OnceCell::new(), followers: Followers::default() }
    }

    /// Begins: nobody is here, and the log is where it is.
    pub(crate) async fn start(&self) -> StoreResult<()> {
        self.get().await?;
        Ok(())
    }

    /// Wakes who follows the log.
    pub(crate) async fn hub(&self) -> StoreResult<&Hub> {
        Ok(&self.get().await?.0)
    }

    /// Who follows it at this instance.
    pub(crate) fn followers(&self) -> &Followers {
        &self.followers
    }

    async fn presence(&self) -> StoreResult<&Presence> {
        Ok(&self.get().await?.1)
    }

    async fn get(&self) -> StoreResult<&(Hub, Presence)> {
        self.started
            .get_or_try_init(|| async {
                let hub = Hub::start(self.store.clone(), self.stop.clone()).await?;
                let (store, clock, instance) = (self.store.clone(), self.clock.clone(), self.instance.clone());
                let presence = Presence::start(store, clock, self.grace, instance, self.stop.clone()).await?;
                Ok((hub, presence))
            })
            .await
    }
}

/// Answers with what happens, from the place asked for.
#[utoipa::path(
    get, path = "/event", tag = "event",
    params(("after" = Option<String>, Query, description = "The place in the log after which to begin, or `latest`"), ("last-event-id" = Option<String>, Header, description = "Where the caller left off; counts before `after`")),
    responses(
        (status = 200, description = "A stream of server-sent events: `hello` first, then events as they happen", body = Event, content_type = "text/event-stream"),
        (status = 429, description = "The caller has too many streams open"),
    ),
    security(("user" = []), ("node" = [])),
)]
#[tracing::instrument(name = "http.event.follow", skip_all)]
async fn follow(visitor: Visitor, params: Params, headers: HeaderMap) -> Result<Response, Problem> {
    let state = visitor.state.clone();
    let after = cursor(&params, &headers)?;
    let actor = visitor.begin_read().await?.actor;
    let held = state.hold(&actor).ok_or_else(too_many)?;
    let audience = audience_of(actor)?;
    let hub = state.follow().hub().await?.clone();
    let attending = match audience {
        Audience::Node { id, organization, collaboration } => {
            let node = NodePlace { id, organization_id: organization, collaboration_id: collaboration };
            Some(state.follow().presence().await?.enter(node).await?)
        }
        Audience::User { .. } => None,
    };
    let after = match after {
        Some(after) if after <= hub.head() => after,
        // Who comes from another instance may be ahead of what this one has read.
        Some(after) => after.min(hub.end().await?),
        None => hub.end().await?,
    };
    let stream = stream(visitor, hub, audience, after, (attending, held));
    let mut response = Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Proxies that gather answers before they pass them on would hold events back.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// How long to wait where there are too many streams: by then those whose other end vanished are gone.
const COME_AGAIN: Duration = Duration::from_secs(30);

fn too_many() -> Problem {
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", "You have too many event streams open")
        .with_detail("End some of them; the operator may raise `limits.held_per_caller`.")
        .with_retry_after(COME_AGAIN)
}

/// What the caller may hear at this moment. A stream lasts; the transaction must not.
async fn look_again(visitor: &Visitor) -> Result<Audience, Problem> {
    audience_of(visitor.begin_read().await?.actor)
}

fn audience_of(actor: Actor) -> Result<Audience, Problem> {
    let organization = actor.organization;
    match actor.who {
        Who::Node { id, collaboration, .. } => Ok(Audience::Node { id, organization, collaboration }),
        // Without a rule, what the own organization asked for remains.
        Who::User { .. } => {
            let reach = reach::<FollowEvents>(&actor).ok();
            Ok(Audience::User { organization, collaborations: actor.collaborations, reach })
        }
        Who::Container(_) => Err(Problem::permission()),
    }
}

/// The place after which to begin: where the caller left off, or what it asks for; the end when it says nothing.
pub(crate) fn cursor(params: &Params, headers: &HeaderMap) -> Result<Option<EventSequence>, Problem> {
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let (name, text) = match last {
        Some(text) => ("Last-Event-ID", text),
        None => ("after", params.text("after").unwrap_or(LATEST)),
    };
    if text == LATEST {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(sequence) if sequence >= 0 => Ok(Some(EventSequence::new(sequence))),
        Ok(_) | Err(_) => Err(invalid(name, "use a place in the log (a whole number from 0) or `latest`")),
    }
}

fn stream(
    visitor: Visitor,
    hub: Hub,
    mut audience: Audience,
    after: EventSequence,
    (attending, held): (Option<Attending>, Entry<String>),
) -> impl Stream<Item = Result<sse::Event, Infallible>> {
    async_stream::stream! {
        let kind = if attending.is_some() { follower::Kind::Node } else { follower::Kind::User };
        let (_attending, _held) = (attending, held);
        let follower = visitor.state.follow().followers().enter(kind, after);
        // What was before tells of the caller's absence, not of how long the way is.
        let live = hub.head();
        let stop = visitor.state.shutdown().clone();
        let hello = Hello { sequence: after };
        yield Ok(message("hello", after, &hello));
        let end = tokio::time::sleep(MAX_AGE);
        tokio::pin!(end);
        let mut recheck = tokio::time::interval(RECHECK);
        recheck.reset();
        let mut head = hub.watch();
        let mut cursor = after;
        loop {
            head.mark_unchanged();
            let events = match hub.after(cursor).await {
                Ok(events) => events,
                Err(error) => {
                    tracing::warn!(error = %error, "an event stream ends because the log cannot be read");
                    return;
                }
            };
            if events.is_empty() {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = &mut end => return,
                    _ = recheck.tick() => match look_again(&visitor).await {
                        Ok(allowed) => audience = allowed,
                        // Gone, or the database is: whoever comes back will be told.
                        Err(_) => return,
                    },
                    changed = head.changed() => if changed.is_err() { return },
                }
                continue;
            }
            for event in events {
                cursor = event.sequence;
                match hears(&hub, &audience, &event).await {
                    Ok(true) => {
                        if kind == follower::Kind::Node && event.sequence > live {
                            visitor.state.meter().delivered(visitor.state.now().since(event.time));
                        }
                        yield Ok(message(event.kind.as_str(), event.sequence, &*event));
                    }
                    Ok(false) => {}
                    Err(error) => {
                        tracing::warn!(error = %error, "an event stream ends because the log cannot be read");
                        return;
                    }
                }
            }
            follower.reached(cursor);
            if stop.is_cancelled() {
                return;
            }
        }
    }
}

async fn hears(hub: &Hub, audience: &Audience, event: &Event) -> StoreResult<bool> {
    match (audience.hears(event), event.job_id) {
        (Hears::Decided(hears), _) => Ok(hears),
        (asked @ (Hears::IfRunning(_) | Hears::IfAsking(_)), Some(job)) => Ok(asked.resolve(&*hub.parties(job).await?)),
        (Hears::IfRunning(_) | Hears::IfAsking(_), None) => Ok(false),
    }
}

fn message(kind: &str, sequence: EventSequence, data: &impl serde::Serialize) -> sse::Event {
    let json = serde_json::to_string(data).expect("events have text keys only");
    sse::Event::default().event(kind).id(sequence.to_string()).data(json)
}
