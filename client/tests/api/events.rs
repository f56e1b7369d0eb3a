//! The event stream.

use std::time::Duration;

use serde_json::json;
use twinmesh_client::events::{After, EventStream, Update};
use twinmesh_client::{Api, ApiOptions};
use twinmesh_protocol::id::EventSequence;

use crate::server::Server;

fn hello(sequence: i64) -> String {
    format!("event: hello\ndata: {}\n\n", json!({"sequence": sequence}))
}

fn event(sequence: i64, kind: &str) -> String {
    let data = json!({"sequence": sequence, "time": "2026-11-23T02:21:12.429374", "kind": kind});
    format!(": alive\n\nid: {sequence}\nevent: {kind}\ndata: {data}\n\n")
}

async fn next(events: &mut EventStream) -> String {
    let update = tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap().unwrap();
    match update {
        Update::Connected { sequence } => format!("connected {sequence}"),
        Update::Event(event) => format!("event {}", event.sequence),
        Update::Disconnected { error } => format!("disconnected {}", error.is_transient()),
    }
}

#[tokio::test]
async fn a_stream_resumes_behind_the_last_event_and_repeats_none() {
    let server = Server::start().await;
    server.state().streams = vec![
        hello(4) + &event(5, "task_created") + &event(6, "of_a_later_release") + &event(7, "run_status"),
        // Resumed, with the log's end in the greeting and an event told before.
        hello(9) + &event(7, "run_status") + &event(8, "run_status"),
    ];
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();
    api.log_in_user("ada", "correct", None).await.unwrap();
    let mut events = api.events(After::Latest);

    for expected in
        ["connected 4", "event 5", "event 7", "disconnected true", "connected 9", "event 8", "disconnected true"]
    {
        assert_eq!(next(&mut events).await, expected);
    }

    let state = server.state();
    let asked: Vec<_> = state.seen.iter().filter(|seen| seen.request == "GET /event").collect();
    assert_eq!((&*asked[0].query, asked[0].last_event_id.as_deref()), ("after=latest", None));
    assert_eq!((&*asked[1].query, asked[1].last_event_id.as_deref()), ("after=7", Some("7")));
}

#[tokio::test]
async fn a_stream_that_is_refused_says_so_each_time() {
    let server = Server::start().await;
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();
    let mut events = api.events(After::Event(EventSequence::new(3)));
    assert_eq!(next(&mut events).await, "disconnected false");
    assert_eq!(next(&mut events).await, "disconnected false");
}

#[tokio::test]
async fn a_stream_goes_on_at_another_instance_when_its_own_is_gone() {
    let (first, second) = (Server::start().await, Server::start().await);
    first.state().streams = vec![hello(4) + &event(5, "task_created")];
    second.state().streams = vec![hello(5) + &event(6, "run_status")];
    let api = Api::new(&format!("{},{}", first.url, second.url), ApiOptions::default()).unwrap();
    api.log_in_user("ada", "correct", None).await.unwrap();
    let mut events = api.events(After::Latest);
    for expected in ["connected 4", "event 5", "disconnected true", "connected 5", "event 6"] {
        assert_eq!(next(&mut events).await, expected);
    }
    let asked: Vec<_> = second.state().seen.iter().filter(|seen| seen.request == "GET /event").cloned().collect();
    assert_eq!(asked[0].last_event_id.as_deref(), Some("5"));
}
