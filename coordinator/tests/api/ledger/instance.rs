//! Several coordinators on one database behave as one.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{Method, Request};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Child;
use twinmesh_coordinator::authn::password::Cost;
use twinmesh_coordinator::clock::Clock;
use twinmesh_coordinator::config::{Config, Secret, Span, Synchronous};
use twinmesh_coordinator::{Coordinator, Surroundings};

use super::federation::{DEADLINE, Events, Federation, Message, PASSWORD, id, plain};
use crate::database::{can_be_shared, cut_connections, database};

/// How long an instance may be silent in these tests.
const LEASE: Duration = Duration::from_secs(1);

fn lease(config: &mut Config) {
    config.limits.instance_lease = Span(LEASE);
}

async fn federation(members: usize) -> Federation {
    Federation::with(members, false, lease).await
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
    // Used up at one is used up at all.
    a.ask(Method::POST, "/token/refresh", refresh, None, &[]).await.expect(401);

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
        let mut a = Process::start(&b).await;
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
    let mut a = Process::start(&b).await;
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
async fn an_instance_that_comes_back_knows_that_nobody_is_connected_to_it() {
    if !can_be_shared() {
        return;
    }
    let b = federation(1).await;
    let mut a = Process::start(&b).await;
    let stream = a.follow(&b.members[0].node_token, 0).await;
    let mut watcher = b.follow(&b.root, "latest").await;
    a.kill().await;
    drop(stream);
    // Long before anybody has to wait for the lease.
    a.start_again().await;
    watcher.until(|event| event.kind == "node_offline").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_was_taken_for_dead_and_lives_has_its_nodes_back() {
    if !can_be_shared() {
        return;
    }
    let b = federation(1).await;
    let a = Process::start(&b).await;
    let mut watcher = b.follow(&b.root, "latest").await;
    let _stream = a.follow(&b.members[0].node_token, 0).await;
    watcher.until(|event| event.kind == "node_online").await;
    a.signal("STOP").await;
    watcher.until(|event| event.kind == "node_offline").await;
    a.signal("CONT").await;
    watcher.until(|event| event.kind == "node_online").await;
}

/// A coordinator as a process of its own.
struct Process {
    child: Child,
    directory: TempDir,
    url: String,
    host: String,
}

impl Process {
    /// On the database of another.
    async fn start(other: &Federation) -> Self {
        let url = database(other.directory.path()).await.url.unwrap().reveal().to_owned();
        let directory = tempfile::tempdir().unwrap();
        let child = spawn(&directory, &url);
        let mut process = Self { child, directory, url, host: String::new() };
        process.wait().await;
        process
    }

    /// Again on the same directory.
    async fn start_again(&mut self) {
        std::fs::remove_file(self.directory.path().join("coordinator.json")).unwrap();
        self.child = spawn(&self.directory, &self.url);
        self.wait().await;
    }

    async fn wait(&mut self) {
        let ready = self.directory.path().join("coordinator.json");
        let told = async {
            loop {
                let text = std::fs::read(&ready).unwrap_or_default();
                if let Ok(told) = serde_json::from_slice::<Value>(&text) {
                    return told;
                }
                assert!(self.child.try_wait().unwrap().is_none(), "the coordinator ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(DEADLINE, told).await.expect("the coordinator becomes ready");
        let url = told["url"].as_str().unwrap();
        self.host = url.trim_start_matches("http://").trim_end_matches("/api").to_owned();
    }

    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }

    async fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(tokio::process::Command::new("sh").args(["-c", &command]).status().await.unwrap().success());
    }

    fn connect_later(&self) -> Connection {
        Connection { host: self.host.clone(), sender: None }
    }

    /// Follows the log; the stream has been greeted.
    async fn follow(&self, token: &str, after: i64) -> Events {
        let mut connection = self.connect_later();
        let request = request(Method::GET, token, &format!("/event?after={after}"), Body::empty());
        let response = connection.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Events::greeted(Body::new(response.into_body())).await
    }
}

fn spawn(directory: &TempDir, url: &str) -> Child {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_twinmesh-coordinator"))
        .args(["start", "--data-dir", directory.path().to_str().unwrap(), "--listen", "127.0.0.1:0"])
        .env("COORDINATOR__DATABASE__URL", url)
        .env("COORDINATOR__DATABASE__READERS", "4")
        .env("COORDINATOR__LIMITS__INSTANCE_LEASE", Span(LEASE).to_string())
        .env("COORDINATOR__LOG", "warn")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A connection that is made when it is needed first.
struct Connection {
    host: String,
    sender: Option<SendRequest<Body>>,
}

impl Connection {
    /// The id of what was made, if it was acknowledged.
    async fn post(&mut self, token: &str, path: &str, body: &Value) -> Option<i64> {
        let request = request(Method::POST, token, path, Body::from(body.to_string()));
        let response = self.send(request).await?;
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.ok()?;
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&body));
        Some(id(&serde_json::from_slice(&body).unwrap()))
    }

    async fn send(&mut self, request: Request<Body>) -> Option<hyper::Response<hyper::body::Incoming>> {
        if self.sender.is_none() {
            let stream = TcpStream::connect(&self.host).await.ok()?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut()?;
        sender.ready().await.ok()?;
        sender.send_request(request).await.ok()
    }
}

fn request(method: Method, token: &str, path: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(format!("/api{path}"))
        .header("host", "coordinator")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(body)
        .unwrap()
}
