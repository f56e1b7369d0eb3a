//! Researchers who ask for tasks, nodes that carry them out, and everybody who follows the log.

use axum::body::Body;
use axum::http::Method;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use twinmesh_protocol::payload::to_text;

use super::world::World;
use crate::ledger::federation::{Events, Member, id};

/// A payload that nothing else has.
pub(super) fn text(content: &str) -> String {
    to_text(json!({"method": content}).to_string().as_bytes())
}

fn long(rng: &mut StdRng) -> String {
    let length = rng.random_range(0..600);
    (0..length).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect()
}

/// Asks for tasks, each under a key of its own, and now and then for one again or for the end of one.
pub(super) async fn researcher(world: World, member: Member, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut caller = world.caller(&member.researcher);
    let mut root = world.caller(world.root());
    let mut made: Vec<(String, Value, i64)> = Vec::new();
    for number in 0.. {
        world.hold_back().await;
        if world.is_stopped() {
            return;
        }
        let key = format!("{}-{number}", member.organization);
        let mut inputs: Vec<(i64, String)> = Vec::new();
        for organization in world.organizations() {
            if rng.random_ratio(2, 3) || inputs.is_empty() {
                inputs.push((*organization, text(&long(&mut rng))));
            }
        }
        let body = world.task(&key, &inputs);
        world.ledger().asked(&key, member.organization, &body);
        let headers = [("idempotency-key", key.as_str())];
        if rng.random_ratio(1, 10) {
            // Somebody who loses patience: whether there is such a task they never learn.
            if let Some((status, answer)) = caller.ask_once(Method::POST, "/task", &headers, Some(&body)).await {
                assert_eq!(status, 201, "{answer}");
                world.ledger().made(&key, &answer);
            }
        } else {
            let (status, answer, repeated) = caller.ask_again(Method::POST, "/task", &headers, Some(&body)).await;
            assert!(status == 201 || (repeated && status == 200), "{status} {answer}");
            world.ledger().made(&key, &answer);
            made.push((key, body, id(&answer)));
        }
        if rng.random_ratio(1, 5) && !made.is_empty() {
            let (key, body, known) = &made[rng.random_range(0..made.len())];
            let headers = [("idempotency-key", key.as_str())];
            let (status, answer) = caller.ask(Method::POST, "/task", &headers, Some(body)).await;
            assert_eq!((status, id(&answer)), (200, *known), "asked for `{key}` again: {answer}");
        }
        if rng.random_ratio(1, 12)
            && let Some((_, _, task)) = made.last()
        {
            let (status, answer) = root.ask(Method::POST, "/kill/task", &[], Some(&json!({"id": task}))).await;
            assert!(status == 200 || answer["code"] == "task_finished", "{status} {answer}");
        }
    }
}

/// Carries out the runs that it hears of, and reports each step until it is acknowledged.
pub(super) async fn node(world: World, member: Member, mut work: UnboundedReceiver<i64>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut caller = world.caller(&member.node_token);
    while let Some(run) = work.recv().await {
        let path = format!("/run/{run}");
        let begin = json!({"status": "active", "started_at": "2026-01-02T03:04:05.678901"});
        let (status, answer) = caller.ask(Method::PATCH, &path, &[], Some(&begin)).await;
        assert!(status == 200 || answer["code"] == "run_finished", "{status} {answer}");
        if status == 200 {
            world.ledger().reported(run, &begin, &answer);
        }
        let ended = if rng.random_ratio(1, 20) { "crashed" } else { "completed" };
        let end = json!({"status": ended, "result": text(&format!("{run} {}", long(&mut rng))), "log": long(&mut rng)});
        let (status, answer, repeated) = caller.ask_again(Method::PATCH, &path, &[], Some(&end)).await;
        match status {
            200 => world.ledger().reported(run, &end, &answer),
            _ => {
                assert_eq!(answer["code"], "run_finished", "{status} {answer}");
                world.ledger().ended_before(run, repeated.then_some(&end));
            }
        }
        world.ledger().done(run);
    }
}

/// Follows the log for ever, and goes on where it was when the stream broke.
pub(super) async fn follow(world: World, who: &'static str, token: String, work: Option<UnboundedSender<i64>>) {
    let mut caller = world.caller(&token);
    let mut place = 0;
    loop {
        let Some(body) = caller.stream(place).await else {
            caller.pause().await;
            continue;
        };
        let mut events = Events::of(Body::new(body));
        let mut greeted = false;
        while let Some(event) = events.next_or_cut().await {
            if !greeted {
                // What was told once was committed, and nobody forgets it.
                assert_eq!((event.kind.as_str(), event.sequence), ("hello", place), "{who}");
                greeted = true;
                continue;
            }
            assert!(event.sequence > place, "{who} is told {} after {place}", event.sequence);
            place = event.sequence;
            if let (Some(work), "run_assigned") = (&work, event.kind.as_str()) {
                let run = event.data["run_id"].as_i64().unwrap();
                world.ledger().assigned(run);
                work.send(run).unwrap();
            }
            world.ledger().heard(&token, event);
        }
    }
}
