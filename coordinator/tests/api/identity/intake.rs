//! What bodies may cost: their size, and the time they take.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Method, Request, StatusCode};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tower::ServiceExt as _;
use twinmesh_coordinator::config::{Config, Span};

use crate::ledger::federation::{DEADLINE, Federation, id, plain};

const MIB: usize = 1 << 20;

fn hasty(config: &mut Config) {
    config.limits.body_idle = Span(Duration::from_millis(200));
}

/// A body of which there is a beginning, and then nothing.
fn stalled() -> Body {
    let start = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
    Body::from_stream(start.chain(futures::stream::pending()))
}

/// A body that never pauses, and never gets any further.
fn endless() -> Body {
    Body::from_stream(futures::stream::unfold((), async |()| {
        tokio::task::yield_now().await;
        Some((Ok::<_, std::io::Error>(Bytes::new()), ()))
    }))
}

async fn ask(federation: &Federation, path: &str, token: Option<&str>, body: Body) -> (StatusCode, bool, Value) {
    let mut request = Request::builder().method(Method::POST).uri(format!("/api{path}"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let answer = federation.router.clone().oneshot(request.body(body).unwrap());
    let response = tokio::time::timeout(DEADLINE, answer).await.expect("nobody waits for ever").unwrap();
    let (status, closes) = (response.status(), response.headers().get("connection").is_some_and(|how| how == "close"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, closes, serde_json::from_slice(&bytes).unwrap())
}

#[tokio::test]
async fn who_sends_nothing_or_hardly_anything_is_waited_for_so_long_and_no_longer() {
    let federation = Federation::with(1, false, hasty).await;
    let token = federation.members[0].researcher.as_str();
    for (path, token) in [("/token/user", None), ("/task", Some(token)), ("/task", Some("no token"))] {
        for body in [stalled(), endless()] {
            let (status, closes, answer) = ask(&federation, path, token, body).await;
            assert_eq!(status, StatusCode::REQUEST_TIMEOUT, "{path}: {answer}");
            assert_eq!(answer["code"], "body_too_slow");
            assert!(closes, "the rest would be taken for another request");
        }
    }
}

#[tokio::test]
async fn a_connection_whose_body_does_not_come_is_closed() {
    let federation = Federation::with(1, false, hasty).await;
    let running = federation.serve().await;
    let address = running.url().trim_start_matches("http://").trim_end_matches("/api").to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let head = format!("POST /api/token/user HTTP/1.1\r\nhost: {address}\r\ncontent-length: 20\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut heard = String::new();
    let end = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut heard));
    end.await.expect("the connection is closed").unwrap();
    assert!(heard.starts_with("HTTP/1.1 408 "), "{heard}");
    running.shutdown().await;
}

#[tokio::test]
async fn only_what_holds_inputs_and_results_may_be_large() {
    let federation = Federation::new(1, false).await;
    let member = &federation.members[0];
    let text = "a".repeat(MIB);
    for (path, token) in [("/organization", &federation.root), ("/port", &member.node_token)] {
        let answer = federation.post(token, path, json!({"name": text})).await;
        assert_eq!(answer.expect(413)["code"], "body_too_large", "{path}");
    }
    let large = twinmesh_protocol::payload::to_text(text.as_bytes());
    let mut body = federation.task_body(&[0]);
    body["organizations"][0]["input"] = large.clone().into();
    let task = federation.post(&member.researcher, "/task", body).await.expect(201);
    let run = federation.run(id(&task), 0).await;
    federation.report(0, &run, json!({"status": "active"})).await.expect(200);
    federation.report(0, &run, json!({"status": "completed", "result": large})).await.expect(200);
    let entry = json!({"id": member.organization, "input": large});
    let body = json!({"collaboration_id": federation.collaboration, "db_label": "default", "organizations": [entry]});
    federation.post(&member.researcher, "/column", body).await.expect(201);
    // What asks brings nothing.
    let blanks = Body::from(vec![b' '; 65 << 10]);
    let (status, ..) = federation.send(Method::GET, "/task", &member.researcher, &[], blanks).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn who_is_gone_has_nothing_large_looked_at() {
    let federation = Federation::new(1, false).await;
    let organization = federation.members[0].organization;
    let user = federation.add_user("leaver", organization, &[5]).await;
    let token = federation.log_in("leaver").await;
    federation.delete(&federation.root, &format!("/user/{user}")).await.expect(200);
    let mut body = federation.task_body(&[0]);
    body["organizations"][0]["input"] = plain().repeat(MIB / 10).into();
    let length = body.to_string().len();
    // Its beginning would be refused as no JSON if it were read.
    let unread = Body::from_stream(futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b'}'; length]))]));
    let (status, _, answer) = ask(&federation, "/task", Some(&token), unread).await;
    assert_eq!((status, answer["code"].as_str().unwrap()), (StatusCode::UNAUTHORIZED, "token_owner_gone"));
}
