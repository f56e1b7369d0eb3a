//! Bodies, taken in whole before anything else: so no slow sender holds a transaction open, nobody holds a connection by
//! sending nothing, and neither strangers nor tenants fill the memory.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes, HttpBody as _};
use axum::extract::{FromRequestParts as _, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use super::caller::{self, Visitor};
use super::problem::Problem;
use super::{AppState, object};
use crate::tally::{Entry, Tally};

/// The largest body of somebody who shows no valid token, log-ins are small; and of a request that needs none. So much
/// is taken in without asking for room.
pub(super) const SMALL: usize = 64 << 10;
/// The largest body that holds neither inputs nor results.
const ORDINARY: usize = 1 << 20;
/// How many bytes a second earn a sender further time: a telephone line's worth.
const LEAST_RATE: u32 = 8 << 10;

/// Room for bodies in memory, shared by all requests, in units of [`SMALL`].
#[derive(Debug)]
pub(crate) struct Memory {
    room: Arc<Semaphore>,
    /// How much of it one caller may have: nobody keeps all others out.
    share: usize,
    /// How much each caller has.
    held: Tally<String>,
}

impl Memory {
    /// Room for so many bytes, and for one body of `largest` at least. A caller has half of it, if that is enough for one.
    pub(crate) fn new(bytes: u64, largest: u64) -> Self {
        let units =
            |bytes: u64| usize::try_from(bytes.div_ceil(SMALL as u64).min(u32::MAX.into())).unwrap_or(usize::MAX);
        let all = units(bytes.max(largest)).min(Semaphore::MAX_PERMITS);
        Self { room: Arc::new(Semaphore::new(all)), share: (all / 2).max(units(largest)), held: Tally::default() }
    }
}

/// The room that one body has; given back when it is dropped.
#[derive(Debug)]
struct Room {
    /// Whose body it is.
    who: String,
    permit: Option<OwnedSemaphorePermit>,
    counted: Vec<Entry<String>>,
}

impl Room {
    fn new(who: String) -> Self {
        Self { who, permit: None, counted: Vec::new() }
    }

    /// Makes it large enough for so many bytes; `false` when there was no room for so long, or the caller has enough.
    ///
    /// Nobody waits here for ever, nor for each other. Who says how long a body is gets its room at once, before the
    /// first byte, and waits for nothing but its sender then, whose time is bounded. Who does not say it may have some
    /// room while it waits for more, but gives up after `patience` and leaves all of it. Handlers, which wait for the
    /// database with a body in memory, ask for no room.
    async fn grow(&mut self, memory: &Memory, bytes: usize, patience: Duration) -> bool {
        let needed = if bytes <= SMALL { 0 } else { bytes.div_ceil(SMALL) };
        let more = needed.saturating_sub(self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        if more == 0 {
            return true;
        }
        let Ok(permits) = u32::try_from(more) else { return false };
        // Given back also if the caller goes away while it waits.
        let Some(counted) = memory.held.enter_with(self.who.clone(), more, memory.share) else { return false };
        let acquired = timeout(patience, Arc::clone(&memory.room).acquire_many_owned(permits)).await;
        let Ok(Ok(permit)) = acquired else { return false };
        self.counted.push(counted);
        match &mut self.permit {
            Some(room) => room.merge(permit),
            None => self.permit = Some(permit),
        }
        true
    }
}

/// Reads the body before anything else. Large payloads are taken in by their handler as they come.
pub(super) async fn whole_body(State(state): State<AppState>, request: Request, next: Next) -> Response {
    if object::is_streamed(&state, &request) {
        return next.run(request).await;
    }
    let (mut parts, body) = request.into_parts();
    let (bytes, room) = match take_in(&state, &mut parts, body).await {
        Ok(taken) => taken,
        Err(refusal) => return refusal,
    };
    let response = next.run(Request::from_parts(parts, HttpBody::from(bytes))).await;
    // What was read from it is gone now, too.
    drop(room);
    response
}

async fn take_in(state: &AppState, parts: &mut Parts, mut body: HttpBody) -> Result<(Bytes, Room), Response> {
    let token = caller::bearer(parts).and_then(|token| state.tokens().verify_access(token, state.now()));
    let most = if token.is_ok() { most(state, parts) } else { SMALL.min(state.body_limit()) };
    let too_large = || match &token {
        // With a better token it may go through.
        Err(error) => Problem::from(*error).into_response(),
        Ok(_) => too_large(most).into_response(),
    };
    let idle = state.body_idle();
    // A stranger's body needs no room.
    let who = token.as_ref().map(|access| access.subject.key()).unwrap_or_default();
    let mut room = Room::new(who);
    let mut owner_is_known = false;
    // How long the sender may still keep us waiting. What comes earns more, but no stranger does.
    let mut patience = idle;
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let mut taken: Vec<u8> = Vec::new();
    let mut piece = Bytes::new();
    loop {
        let length = (taken.len() + piece.len()).max(announced);
        if length > most {
            return Err(too_large());
        }
        // A token is good for hours, its owner perhaps gone. That is asked where it pays: before much is taken in and
        // looked at, but not for each small task.
        if length > ORDINARY && !owner_is_known {
            check_owner(state, parts).await.map_err(Problem::into_response)?;
            owner_is_known = true;
        }
        if !room.grow(state.body_memory(), length, idle).await {
            return Err(no_room().into_response());
        }
        taken.reserve_exact(announced.saturating_sub(taken.len()));
        taken.extend_from_slice(&piece);
        if token.is_ok() {
            patience += Duration::from_secs(piece.len() as u64) / LEAST_RATE;
        }
        let began = Instant::now();
        piece = match timeout(patience.min(idle), body.frame()).await {
            _ if patience.is_zero() => return Err(too_slow(idle)),
            Err(_) => return Err(too_slow(idle)),
            Ok(None) => return Ok((taken.into(), room)),
            Ok(Some(Err(_))) => return Err(cut_short().into_response()),
            // Trailers are of no use to us.
            Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
        };
        patience = patience.saturating_sub(began.elapsed());
    }
}

/// The largest body of a request with a valid token.
fn most(state: &AppState, parts: &Parts) -> usize {
    let route = parts.extensions.get::<MatchedPath>().and_then(|path| path.as_str().strip_prefix(state.api_path()));
    let most = match (&parts.method, route) {
        (&Method::POST, Some("/task" | "/column"))
        | (&Method::PATCH, Some("/run/{id}"))
        | (&Method::PUT, Some("/node/{id}/details")) => usize::MAX,
        (&Method::GET | &Method::HEAD, _) => SMALL,
        _ => ORDINARY,
    };
    most.min(state.body_limit())
}

/// Refuses a token whose owner is gone.
async fn check_owner(state: &AppState, parts: &mut Parts) -> Result<(), Problem> {
    Visitor::from_request_parts(parts, state).await?.begin_read().await?;
    Ok(())
}

fn too_large(most: usize) -> Problem {
    let msg = format!("The request body is larger than {most} bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", msg)
}

fn no_room() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "body_no_room", "There are too many large requests at the moment")
        .with_detail("Try again, or send large inputs and results to `/blobstream` first.")
        .with_retry_after(Duration::from_secs(30))
}

fn cut_short() -> Problem {
    Problem::bad_request("body_unreadable", "The request body ended too early")
}

/// The rest may still be on its way, so the connection is of no more use.
fn too_slow(idle: Duration) -> Response {
    let msg = format!("Nothing of the request body came for {} s, or very little for long", idle.as_secs_f64());
    let mut response = Problem::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", msg).into_response();
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_TIME: Duration = Duration::ZERO;

    #[tokio::test]
    async fn bodies_share_the_room_and_small_ones_need_none() {
        let memory = Memory::new(10 * SMALL as u64, 10 * SMALL as u64);
        let [mut one, mut other] = ["one", "other"].map(|who| Room::new(who.into()));
        assert!(one.grow(&memory, 8 * SMALL, NO_TIME).await);
        assert!(!other.grow(&memory, 3 * SMALL, NO_TIME).await);
        assert!(other.grow(&memory, SMALL, NO_TIME).await, "small");
        assert!(other.grow(&memory, 2 * SMALL, NO_TIME).await, "what is left");
        assert!(one.grow(&memory, 8 * SMALL, NO_TIME).await, "it has so much");
        assert!(!one.grow(&memory, 8 * SMALL + 1, NO_TIME).await);
        drop(other);
        assert!(one.grow(&memory, 9 * SMALL + 1, NO_TIME).await);
        assert_eq!(memory.room.available_permits(), 0);
        drop(one);
        assert_eq!(memory.room.available_permits(), 10);
        assert!(memory.held.is_empty());
    }

    #[tokio::test]
    async fn nobody_has_more_than_half_of_the_room() {
        let memory = Memory::new(10 * SMALL as u64, 4 * SMALL as u64);
        let room = |who: &str| Room::new(who.into());
        let (mut first, mut second, mut other) = (room("one"), room("one"), room("other"));
        assert!(first.grow(&memory, 4 * SMALL, NO_TIME).await);
        assert!(!second.grow(&memory, 2 * SMALL, NO_TIME).await, "of the same caller");
        assert!(other.grow(&memory, 4 * SMALL, NO_TIME).await);
        drop(first);
        assert!(second.grow(&memory, 5 * SMALL, NO_TIME).await);
        assert!(!second.grow(&memory, 6 * SMALL, NO_TIME).await);
        // What was waited for in vain does not count.
        let mut third = room("third");
        assert!(!third.grow(&memory, 3 * SMALL, NO_TIME).await);
        // Nor what somebody waited for who went away.
        {
            let mut gone = room("gone");
            let mut waiting = Box::pin(gone.grow(&memory, 3 * SMALL, Duration::from_secs(20)));
            assert!(futures::poll!(&mut waiting).is_pending());
        }
        drop((second, other));
        assert!(third.grow(&memory, 5 * SMALL, NO_TIME).await);
        drop(third);
        assert!(memory.held.is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_room_gets_it_when_others_leave() {
        let memory = Memory::new(4 * SMALL as u64, 4 * SMALL as u64);
        let [mut one, mut other] = ["one", "other"].map(|who| Room::new(who.into()));
        assert!(one.grow(&memory, 4 * SMALL, NO_TIME).await);
        let waiting = other.grow(&memory, 2 * SMALL, Duration::from_secs(20));
        let (waited, ()) = tokio::join!(waiting, async { drop(one) });
        assert!(waited);
    }

    #[test]
    fn who_finds_no_room_is_told_when_to_come_again() {
        let response = no_room().into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "30");
    }
}
