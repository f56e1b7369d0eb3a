//! How often somebody may guess (contract A.2; problem `too_many_attempts`).

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Method, Request};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::ServiceExt as _;
use twinmesh_coordinator::config::Config;

use crate::database::can_be_shared;
use crate::ledger::federation::{Answer, DEADLINE, Federation, PASSWORD};

const SECOND: i64 = 1_000_000;
const HERE: &str = "192.0.2.1:4711";
const THERE: &str = "198.51.100.7:4711";

/// A coordinator that bears three wrong ones from an address.
async fn strict(settings: impl FnOnce(&mut Config)) -> Federation {
    Federation::with(1, false, |config| {
        config.limits.guesses_per_address = 3;
        config.limits.guesses_within = "30s".parse().unwrap();
        settings(config);
    })
    .await
}

/// Posts as somebody who connects from an address.
async fn post(federation: &Federation, from: &str, forwarded: Option<&str>, path: &str, body: Value) -> Answer {
    let mut request = Request::builder().method(Method::POST).uri(format!("/api{path}"));
    if let Some(forwarded) = forwarded {
        request = request.header("x-forwarded-for", forwarded);
    }
    if let Some(token) = body["token"].as_str() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut request = request.body(Body::from(body.to_string())).unwrap();
    request.extensions_mut().insert(ConnectInfo(from.parse::<SocketAddr>().unwrap()));
    let response = federation.router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
}

fn wrong_key() -> Value {
    json!({"api_key": "11111111-1111-4111-8111-111111111111"})
}

#[tokio::test]
async fn wrong_keys_from_one_address_are_bounded() {
    let federation = strict(|_| {}).await;
    for _ in 0..3 {
        post(&federation, HERE, None, "/token/node", wrong_key()).await.expect(401);
    }
    let refused = post(&federation, HERE, None, "/token/node", wrong_key()).await;
    assert_eq!(refused.headers["retry-after"], "10");
    assert!(refused.msg().contains("10 seconds"), "{}", refused.body);
    assert_eq!(refused.expect(429)["code"], "too_many_attempts");
    post(&federation, THERE, None, "/token/node", wrong_key()).await.expect(401);

    federation.clock.fetch_add(10 * SECOND, Ordering::Relaxed);
    post(&federation, HERE, None, "/token/node", wrong_key()).await.expect(401);
    post(&federation, HERE, None, "/token/node", wrong_key()).await.expect(429);
}

#[tokio::test]
async fn whoever_knows_their_secret_is_not_held_up() {
    let federation = strict(|config| config.limits.guesses_per_account = 1).await;
    let log_in = json!({"username": "root", "password": PASSWORD});
    let mut token = Value::Null;
    for _ in 0..20 {
        let pair = post(&federation, HERE, None, "/token/user", log_in.clone()).await.expect(200);
        token = pair["refresh_token"].clone();
    }
    for _ in 0..20 {
        let pair = post(&federation, HERE, None, "/token/refresh", json!({"token": token})).await.expect(200);
        token = pair["refresh_token"].clone();
    }
    let key = json!({"id": federation.members[0].node});
    let key = federation.post(&federation.root, "/recover/node", key).await.expect(200);
    for _ in 0..20 {
        post(&federation, HERE, None, "/token/node", json!({"api_key": key["api_key"]})).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_instances_together_bear_as_many_wrong_guesses_as_one() {
    if !can_be_shared() {
        return;
    }
    let settings = |config: &mut Config| {
        config.limits.guesses_per_address = 3;
        config.limits.guesses_per_account = 2;
        config.limits.guesses_within = "30s".parse().unwrap();
        config.password.max_failed_attempts = 100;
    };
    let a = Federation::with(1, false, settings).await;
    let b = a.beside(settings).await;
    let until = async |what: &str, from: &str, status: u16| {
        // Whoever is right uses nothing up by asking.
        let right = json!({"username": "root", "password": PASSWORD});
        let ask = async {
            while post(&b, from, None, "/token/user", right.clone()).await.status != status {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, ask).await.unwrap_or_else(|_| panic!("{what}"));
    };
    // What was told before it listened it never hears of.
    let listens = async { while b.get(&b.root, "/health/ready").await.status != 200 {} };
    tokio::time::timeout(DEADLINE, listens).await.unwrap();

    for _ in 0..3 {
        post(&a, HERE, None, "/token/node", wrong_key()).await.expect(401);
    }
    until("an address is refused at the other instance", HERE, 429).await;
    until("another one is not", THERE, 200).await;
    b.clock.fetch_add(10 * SECOND, Ordering::Relaxed);
    until("a try comes back there too", HERE, 200).await;

    for from in ["203.0.113.1:1", "203.0.113.2:1"] {
        let wrong = json!({"username": "root", "password": "wrong"});
        post(&a, from, None, "/token/user", wrong).await.expect(401);
    }
    until("an account is refused at the other instance", THERE, 429).await;
}

#[tokio::test]
async fn one_limit_holds_for_every_secret() {
    let federation = strict(|_| {}).await;
    let text = "a".repeat(43);
    let tries = [
        ("/token/user", json!({"username": "root", "password": "wrong"}), 401),
        ("/token/node", wrong_key(), 401),
        ("/token/refresh", json!({"token": "a.b.c"}), 422),
        ("/recover/reset", json!({"reset_token": text, "password": "Another-Horse-2"}), 400),
        ("/recover/2fa/reset", json!({"reset_token": text}), 400),
        // Each may be a mail, so each counts.
        ("/recover/lost", json!({"username": "root"}), 200),
    ];
    for (number, (path, body, status)) in tries.into_iter().enumerate() {
        let from = format!("192.0.2.{number}:1");
        for _ in 0..3 {
            post(&federation, &from, None, path, body.clone()).await.expect(status);
        }
        post(&federation, &from, None, path, body).await.expect(429);
        post(&federation, &from, None, "/token/node", wrong_key()).await.expect(429);
    }
}

#[tokio::test]
async fn an_account_is_bounded_wherever_the_guesses_come_from_and_whether_or_not_it_is_there() {
    let federation = strict(|config| {
        config.limits.guesses_per_account = 2;
        config.password.max_failed_attempts = 100;
    })
    .await;
    for username in ["root", "nobody"] {
        let body = json!({"username": username, "password": "wrong"});
        post(&federation, "192.0.2.1:1", None, "/token/user", body.clone()).await.expect(401);
        post(&federation, "192.0.2.2:1", None, "/token/user", body.clone()).await.expect(401);
        post(&federation, "192.0.2.3:1", None, "/token/user", body).await.expect(429);
    }
    federation.clock.fetch_add(15 * SECOND, Ordering::Relaxed);
    let body = json!({"username": "root", "password": PASSWORD});
    post(&federation, "192.0.2.3:1", None, "/token/user", body).await.expect(200);
}

#[tokio::test]
async fn asking_for_a_lost_password_holds_up_no_log_in() {
    let federation = strict(|config| config.limits.guesses_per_account = 2).await;
    for (number, email, status) in
        [(1, "root@domain.ext", 200), (2, "ROOT@domain.ext", 200), (3, "Root@Domain.ext", 429)]
    {
        let from = format!("192.0.2.{number}:1");
        post(&federation, &from, None, "/recover/lost", json!({"email": email})).await.expect(status);
    }
    for (number, status) in [(4, 200), (5, 200), (6, 429)] {
        let from = format!("192.0.2.{number}:1");
        post(&federation, &from, None, "/recover/lost", json!({"username": "root"})).await.expect(status);
    }
    let log_in = json!({"username": "root", "password": PASSWORD});
    post(&federation, "192.0.2.7:1", None, "/token/user", log_in).await.expect(200);
}

#[tokio::test]
async fn behind_a_proxy_of_ours_each_caller_has_their_own_address() {
    let federation = strict(|_| {}).await;
    let proxy = "127.0.0.1:4711";
    for _ in 0..3 {
        // What the caller says of themselves comes before what the proxy adds.
        post(&federation, proxy, Some("203.0.113.1, 192.0.2.1"), "/token/node", wrong_key()).await.expect(401);
    }
    post(&federation, proxy, Some("203.0.113.2, 192.0.2.1"), "/token/node", wrong_key()).await.expect(429);
    post(&federation, HERE, None, "/token/node", wrong_key()).await.expect(429);
    post(&federation, proxy, Some("192.0.2.2"), "/token/node", wrong_key()).await.expect(401);
    // Somebody else's word counts for nothing.
    for number in 0..3 {
        let told = format!("203.0.113.{number}");
        post(&federation, THERE, Some(&told), "/token/node", wrong_key()).await.expect(401);
    }
    post(&federation, THERE, Some("203.0.113.9"), "/token/node", wrong_key()).await.expect(429);
}

#[tokio::test]
async fn a_connections_address_counts() {
    let federation = strict(|_| {}).await;
    let running = federation.serve().await;
    let host = running.url().trim_start_matches("http://").trim_end_matches("/api").to_owned();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let body = wrong_key().to_string();
        let head = "POST /api/token/node HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
        let mut stream = TcpStream::connect(&host).await.unwrap();
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        statuses.push(answer[9..12].to_owned());
    }
    assert_eq!(statuses, ["401", "401", "401", "429"]);
    running.shutdown().await;
}
