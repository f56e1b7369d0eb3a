//! Several coordinators on one database behave as one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::Method;
use serde_json::{Value, json};
use twinmesh_coordinator::authn::password::Cost;
use twinmesh_coordinator::clock::Clock;
use twinmesh_coordinator::config::{Config, Secret, Span, Synchronous};
use twinmesh_coordinator::{Coordinator, Surroundings};

use super::federation::{DEADLINE, Federation, Message, PASSWORD, id, plain};
use crate::daemon::Daemon;
use crate::database::{can_be_shared, cut_connections, database};

/// How long an instance may be silent in these tests.
const LEASE: Duration = Duration::from_secs(1);

fn lease(config: &mut Config) {
    config.limits.instance_lease = Span(LEASE);
}

async fn federation(members: usize) -> Federation {
    Federation::today(members, lease).await
}

/// A process on the database of another.
async fn beside(other: &Federation) -> Daemon {
    let url = database(other.directory.path()).await.url.unwrap();
    let mut daemon = Daemon::new(None)
        .with("COORDINATOR__DATABASE__URL", url.reveal())
        .with("COORDINATOR__DATABASE__READERS", "4")
        .with("COORDINATOR__LIMITS__INSTANCE_LEASE", &Span(LEASE).to_string());
    daemon.start().await;
    daemon
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "measures, and says what")]
async fn a_task_posted_at_one_instance_reaches_a_node_at_another() {
    if !can_be_shared() {
        return;
    }
    const ROUNDS: usize = 100;
    let durable = |config: &mut Config| {
        lease(config);
        config.database.synchronous = Synchronous::Full;
    };
    let a = Federation::with(2, false, durable).await;
    let b = a.beside(durable).await;
    let mut events = b.follow(&a.members[1].node_token, "latest").await;
    let mut waited = Vec::new();
    let mut after_answer = Vec::new();
    for _ in 0..ROUNDS {
        let asked = Instant::now();
        let (task, (heard, at)) = tokio::join!(
            async {
                let task = a.task(&[1]).await;
                (task, Instant::now())
            },
            async {
                let heard = events.until(|event| event.kind == "run_assigned").await;
                (heard, Instant::now())
            }
        );
        let (task, answered) = task;
        assert_eq!(heard[heard.len() - 1].data["task_id"], task["id"]);
        waited.push(at - asked);
        after_answer.push(at.saturating_duration_since(answered));
    }
    waited.sort();
    after_answer.sort();
    let (half, most) = (ROUNDS / 2, ROUNDS * 99 / 100);
    eprintln!(
        "from POST at one instance to the event at another: p50 {:?}, p99 {:?}; from its answer: p50 {:?}, p99 {:?}",
        waited[half], waited[most], after_answer[half], after_answer[most]
    );
    // Far more than it takes, far less than the next look without being woken.
    assert!(waited[half] < Duration::from_secs(2), "{:?}", waited[half]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_status_at_one_instance_is_answered_by_a_result_at_another() {
    if !can_be_shared() {
        return;
    }
    let a = federation(1).await;
    let b = Arc::new(a.beside(lease).await);
    let task = a.task(&[0]).await;
    let held = {
        let (b, path) = (Arc::clone(&b), format!("/task/{}/status", id(&task)));
        tokio::spawn(async move { b.get(&b.root, &path).await.expect(200) })
    };
    let run = a.run(id(&task), 0).await;
    a.report(0, &run, json!({"status": "active"})).await.expect(200);
    assert!(!held.is_finished());
    a.report(0, &run, json!({"status": "completed", "result": plain()})).await.expect(200);
    let answer = tokio::time::timeout(DEADLINE, held).await.unwrap().unwrap();
    assert_eq!(answer["status"], "completed");
}

#[tokio::test]
async fn what_one_instance_issues_every_other_takes() {
    if !can_be_shared() {
        return;
    }
    let a = federation(1).await;
    let b = a.beside(lease).await;
    let body = json!({"username": "root", "password": PASSWORD});
    let pair = a.ask(Method::POST, "/token/user", None, Some(body), &[]).await.expect(200);
    let (access, refresh) = (pair["access_token"].as_str().unwrap(), pair["refresh_token"].as_str());
    b.get(access, "/organization").await.expect(200);
    let next = b.ask(Method::POST, "/token/refresh", refresh, None, &[]).await.expect(200);
    a.get(next["access_token"].as_str().unwrap(), "/organization").await.expect(200);
    // Used up at one is used up at all, but for moments in which an answer may have been lost.
    a.ask(Method::POST, "/token/refresh", refresh, None, &[]).await.expect(200);
    a.clock.fetch_add(31_000_000, Ordering::Relaxed);
    a.ask(Method::POST, "/token/refresh", refresh, None, &[]).await.expect(401);
    b.ask(Method::POST, "/token/refresh", next["refresh_token"].as_str(), None, &[]).await.expect(401);

    // A key that a caller chose makes one task, wherever it is asked for.
    let key = [("idempotency-key", "one")];
    let researcher = Some(a.members[0].researcher.as_str());
    let first = a.ask(Method::POST, "/task", researcher, Some(a.task_body(&[0])), &key).await.expect(201);
    let second = b.ask(Method::POST, "/task", researcher, Some(a.task_body(&[0])), &key).await.expect(200);
    assert_eq!(first["id"], second["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_that_start_together_on_an_empty_database_make_it_once() {
    if !can_be_shared() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut starting = Vec::new();
    for number in 0..4 {
        let database = database(directory.path()).await;
        let data_dir = directory.path().join(number.to_string());
        let mut config = Config { data_dir, database, ..Config::default() };
        config.root.password = Some(Secret::new(PASSWORD));
        let surroundings = Surroundings { clock: Clock::system(), password_cost: Cost::Minimal };
        starting.push(tokio::spawn(Coordinator::prepare(config, surroundings)));
    }
    for started in starting {
        started.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_told_in_one_order_everywhere_while_all_write() {
    if !can_be_shared() {
        return;
    }
    const WRITERS: usize = 4;
    const TASKS: usize = 10;
    let a = Arc::new(federation(3).await);
    let b = Arc::new(a.beside(lease).await);
    let mut streams = [a.follow(&a.root, "latest").await, b.follow(&a.root, "latest").await];
    let mut writers = Vec::new();
    for at in [&a, &b] {
        for _ in 0..WRITERS {
            let at = Arc::clone(at);
            writers.push(tokio::spawn(async move {
                for _ in 0..TASKS {
                    at.task(&[0, 1, 2]).await;
                }
            }));
        }
    }
    let expected = 2 * WRITERS * TASKS * 3;
    let mut told = Vec::new();
    for stream in &mut streams {
        let mut events: Vec<Message> = Vec::new();
        let mut assigned = 0;
        while assigned < expected {
            let event = stream.next().await;
            assigned += usize::from(event.kind == "run_assigned");
            events.push(event);
        }
        assert!(events.is_sorted_by(|before, after| before.sequence < after.sequence));
        told.push(events);
    }
    assert_eq!(told[0], told[1]);
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_moves_on_from_an_instance_that_was_killed_misses_nothing() {
    if !can_be_shared() {
        return;
    }
    let b = Arc::new(federation(1).await);
    let mut seen: Vec<Message> = Vec::new();
    let mut place = 0;
    // How many events have been heard from the instance when it is killed.
    for cut in [0, 1, 2, 7, 23] {
        let mut a = beside(&b).await;
        let mut stream = a.follow(&b.root, place).await;
        let posts: Vec<_> = (0..3)
            .map(|_| {
                let (mut to_a, b) = (a.connect_later(), Arc::clone(&b));
                tokio::spawn(async move {
                    let mut acknowledged = Vec::new();
                    for _ in 0..8 {
                        let body = b.task_body(&[0]);
                        acknowledged.extend(to_a.post(&b.members[0].researcher, "/task", &body).await);
                        acknowledged.push(id(&b.task(&[0]).await));
                    }
                    acknowledged
                })
            })
            .collect();
        for _ in 0..cut {
            take(&mut seen, &mut place, stream.next().await);
        }
        a.kill().await;
        while let Some(event) = stream.next_or_end().await {
            take(&mut seen, &mut place, event);
        }
        let mut acknowledged = BTreeSet::new();
        for posts in posts {
            acknowledged.extend(posts.await.unwrap());
        }
        // What was acknowledged is there, and told where the client has moved.
        let last = id(&b.task(&[0]).await);
        let mut stream = b.follow(&b.root, &place.to_string()).await;
        for event in stream.until(|event| event.kind == "run_assigned" && event.data["task_id"] == last).await {
            take(&mut seen, &mut place, event);
        }
        let told: BTreeSet<i64> = seen.iter().filter_map(|event| event.data["task_id"].as_i64()).collect();
        assert!(acknowledged.is_subset(&told), "killed after {cut} events: {:?}", acknowledged.difference(&told));
    }
    // Exactly what is in the log, in its order.
    let mut whole = b.follow(&b.root, "0").await;
    let whole = whole.until(|event| event.sequence >= place).await;
    assert_eq!(seen, whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cuts_every_connection_is_found_again_and_nothing_is_missed() {
    if !can_be_shared() {
        return;
    }
    let a = federation(1).await;
    let b = a.beside(lease).await;
    let mut stream = b.follow(&a.members[0].node_token, "latest").await;
    for _ in 0..5 {
        cut_connections(a.directory.path()).await;
        let task = a.task(&[0]).await;
        let heard = stream.until(|event| event.kind == "run_assigned").await;
        assert_eq!(heard[heard.len() - 1].data["task_id"], task["id"]);
    }
}

/// Takes an event in, which must come after all before it.
fn take(seen: &mut Vec<Message>, place: &mut i64, event: Message) {
    assert!(event.sequence > *place, "{} after {place}", event.sequence);
    *place = event.sequence;
    seen.push(event);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_offline_once_the_instance_it_was_at_has_been_silent_for_its_lease() {
    if !can_be_shared() {
        return;
    }
    let b = federation(2).await;
    let mut watcher = b.follow(&b.root, "latest").await;
    let mut a = beside(&b).await;
    let [stays, moves] = [&b.members[0], &b.members[1]];
    let status = async |node: i64| b.get(&b.root, &format!("/node/{node}")).await.expect(200)["status"].clone();
    let first = a.follow(&stays.node_token, 0).await;
    let second = a.follow(&moves.node_token, 0).await;
    assert_eq!((status(stays.node).await, status(moves.node).await), (json!("online"), json!("online")));

    // Others that start leave it alone, and so does one that ends.
    let c = b.beside(lease).await;
    assert_eq!(status(stays.node).await, "online");
    let at_c = c.follow(&stays.node_token, "latest").await;
    drop(at_c);

    a.kill().await;
    drop((first, second));
    let moved = b.follow(&moves.node_token, "latest").await;
    let heard = watcher.until(|event| event.kind == "node_offline").await;
    let of_nodes: Vec<(&str, &Value)> = heard
        .iter()
        .filter(|event| event.kind.starts_with("node_"))
        .map(|event| (event.kind.as_str(), &event.data["node_id"]))
        .collect();
    let (stays, moves) = (json!(stays.node), json!(moves.node));
    assert_eq!(of_nodes, [("node_online", &stays), ("node_online", &moves), ("node_offline", &stays)]);
    assert_eq!(status(b.members[0].node).await, "offline");
    assert_eq!(status(b.members[1].node).await, "online", "it moved in time");
    drop(moved);
    watcher.until(|event| event.kind == "node_offline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_instance_tells_of_the_meeting_points_of_all_that_live() {
    if !can_be_shared() {
        return;
    }
    const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";
    let b = Federation::today(1, |config| {
        lease(config);
        config.overlay.listen = vec![LISTEN.into()];
    })
    .await;
    let without = b.beside(lease).await;
    let mut a = beside(&b).await;
    let relays = async |at: &Federation| at.get(&at.root, "/overlay").await.expect(200)["relays"].clone();
    assert_eq!(relays(&without).await, relays(&b).await, "an instance without one tells of the others'");
    assert_eq!(relays(&b).await.as_array().unwrap().len(), 1);

    a.kill().await;
    a = a.with("COORDINATOR__OVERLAY__LISTEN", &json!([LISTEN]).to_string());
    a.start().await;
    let (both, own) = (relays(&b).await, b.get(&b.root, "/overlay").await.expect(200)["relay"].clone());
    assert_eq!(both.as_array().unwrap().len(), 2);
    assert_eq!(both[0]["peer_id"], own["peer_id"], "its own comes first");
    a.kill().await;
    let only_own = async {
        while relays(&b).await.as_array().unwrap().len() > 1 {
            tokio::time::sleep(LEASE / 10).await;
        }
    };
    tokio::time::timeout(DEADLINE, only_own).await.expect("one that died is told of no more");
    assert_eq!(relays(&without).await, json!([{"peer_id": own["peer_id"], "addresses": own["addresses"]}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_comes_back_knows_that_nobody_is_connected_to_it() {
    if !can_be_shared() {
        return;
    }
    let b = federation(1).await;
    let mut a = beside(&b).await;
    let stream = a.follow(&b.members[0].node_token, 0).await;
    let mut watcher = b.follow(&b.root, "latest").await;
    a.kill().await;
    drop(stream);
    // Long before anybody has to wait for the lease.
    a.start().await;
    watcher.until(|event| event.kind == "node_offline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_taken_for_dead_and_lives_has_its_nodes_back() {
    if !can_be_shared() {
        return;
    }
    let b = federation(1).await;
    let a = beside(&b).await;
    let mut watcher = b.follow(&b.root, "latest").await;
    let _stream = a.follow(&b.members[0].node_token, 0).await;
    watcher.until(|event| event.kind == "node_online").await;
    a.signal("STOP").await;
    watcher.until(|event| event.kind == "node_offline").await;
    a.signal("CONT").await;
    watcher.until(|event| event.kind == "node_online").await;
}
