//! The coordinator's event log as a stream that resumes after every interruption.
//!
//! Events are hints to look again. Whoever follows them fetches the whole truth on every [`Update::Connected`], so
//! that a lost event costs time and nothing else.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use reqwest::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::mpsc;
use twinmesh_protocol::id::EventSequence;
use twinmesh_protocol::wire::{Event, Hello};

use crate::api::{Api, ApiError, Backoff, Query};

pub(crate) mod fuzzing;
mod parser;

use parser::{Message, Parser};

/// A link that is silent for so long is dead: the coordinator sends a comment every 15 s, and two may get lost.
pub const SILENCE: Duration = Duration::from_secs(45);
/// Updates that wait for a slow reader; beyond them the coordinator's socket fills and it waits too.
const QUEUE: usize = 256;
/// A connection that lasted so long was a good one: after it the pauses between attempts start over.
const STABLE: Duration = Duration::from_secs(10);
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Where in the log to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// At its end: only what happens from now on.
    Latest,
    /// Behind this event.
    Event(EventSequence),
}

/// What a stream of events tells.
#[derive(Debug)]
pub enum Update {
    /// The stream is there, for the first time or again. Fetch the whole truth.
    Connected {
        /// The last event before those that follow.
        sequence: EventSequence,
    },
    /// Something happened.
    Event(Event),
    /// The stream broke; it is tried again for ever. Decide by [`ApiError::is_transient`] whether that makes sense.
    Disconnected {
        /// Why.
        error: ApiError,
    },
}

/// A stream of events. Dropping it ends it; waiting for its next update may be cancelled without loss.
#[derive(Debug)]
pub struct EventStream {
    updates: mpsc::Receiver<Update>,
    task: tokio::task::JoinHandle<()>,
}

impl EventStream {
    /// The next update.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }
}

impl Stream for EventStream {
    type Item = Update;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Update>> {
        self.updates.poll_recv(context)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Api {
    /// Follows the event log, as far as the caller may see it. Must be called within a tokio runtime.
    #[must_use]
    pub fn events(&self, after: After) -> EventStream {
        let (sender, updates) = mpsc::channel(QUEUE);
        let task = tokio::spawn(follow(self.clone(), after, sender, SILENCE));
        EventStream { updates, task }
    }
}

/// Ends when nobody reads any more.
async fn follow(api: Api, mut after: After, updates: mpsc::Sender<Update>, silence: Duration) {
    let mut backoff = Backoff::default();
    loop {
        let started = tokio::time::Instant::now();
        let Err(error) = follow_once(&api, &mut after, &updates, silence).await else {
            return;
        };
        if started.elapsed() >= STABLE {
            backoff.reset();
        }
        tracing::debug!(%error, "the event stream broke");
        if updates.send(Update::Disconnected { error }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_pause()) => {}
            () = updates.closed() => return,
        }
    }
}

/// Follows one connection until it breaks; `Ok` when nobody reads any more.
async fn follow_once(
    api: &Api,
    after: &mut After,
    updates: &mpsc::Sender<Update>,
    silence: Duration,
) -> Result<(), ApiError> {
    let mut headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("text/event-stream"))]);
    let query = match *after {
        After::Latest => Query::new().with("after", "latest"),
        After::Event(sequence) => {
            headers.insert(LAST_EVENT_ID, HeaderValue::from(sequence.get()));
            Query::new().with("after", sequence)
        }
    };
    let base = api.base();
    let interrupted = |reason: String| {
        api.leave(base);
        ApiError::Interrupted { url: base.into(), reason }
    };
    let mut response = api.stream("event", &query, headers).await?;
    let mut parser = Parser::default();
    loop {
        let chunk = match tokio::time::timeout(silence, response.chunk()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Err(interrupted("the event stream ended".into())),
            Ok(Err(error)) => return Err(api.network_error(error)),
            Err(_) => return Err(interrupted(format!("the event stream was silent for {} s", silence.as_secs()))),
        };
        for message in parser.push(&chunk).map_err(|error| interrupted(error.to_string()))? {
            let Some((update, sequence)) = understand(&message) else {
                continue;
            };
            // An event that a resumed stream repeats was told before.
            if let (Update::Event(_), After::Event(last)) = (&update, *after)
                && sequence <= last
            {
                continue;
            }
            *after = match (&update, *after) {
                // The greeting may name the log's end while what was missed follows still.
                (Update::Connected { .. }, After::Event(last)) if sequence > last => *after,
                _ => After::Event(sequence),
            };
            if updates.send(update).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Reads a message. Kinds that a newer coordinator may have are passed over: events are only hints.
fn understand(message: &Message) -> Option<(Update, EventSequence)> {
    if message.event == "hello" {
        let hello: Hello = serde_json::from_str(&message.data).ok()?;
        return Some((Update::Connected { sequence: hello.sequence }, hello.sequence));
    }
    match serde_json::from_str::<Event>(&message.data) {
        Ok(event) => {
            let sequence = event.sequence;
            Some((Update::Event(event), sequence))
        }
        Err(error) => {
            tracing::debug!(%error, event = message.event, "passed over an event that this release does not know");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ApiOptions;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A dead link looks like a coordinator with nothing to say, but for the comments.
    #[tokio::test]
    async fn a_silent_link_is_dropped_and_tried_again() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = Api::new(&format!("http://{}", listener.local_addr().unwrap()), ApiOptions::default()).unwrap();
        let coordinator = tokio::spawn(async move {
            let mut links = Vec::new();
            for _ in 0..2 {
                let (mut link, _) = listener.accept().await.unwrap();
                let _ = link.read(&mut [0; 4096]).await.unwrap();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";
                let hello = "event: hello\ndata: {\"sequence\": 1}\n\n";
                link.write_all(format!("{head}{hello}").as_bytes()).await.unwrap();
                links.push(link);
            }
            links
        });
        let (sender, mut updates) = mpsc::channel(QUEUE);
        let task = tokio::spawn(follow(api, After::Latest, sender, Duration::from_millis(100)));
        assert!(matches!(updates.recv().await, Some(Update::Connected { .. })));
        let Some(Update::Disconnected { error }) = updates.recv().await else {
            panic!("the silent link was kept");
        };
        assert!(error.to_string().contains("silent"), "{error}");
        assert!(matches!(updates.recv().await, Some(Update::Connected { .. })));
        assert_eq!(coordinator.await.unwrap().len(), 2);
        task.abort();
    }
}
