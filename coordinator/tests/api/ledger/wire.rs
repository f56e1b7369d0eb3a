//! What only a real connection shows.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinmesh_coordinator::Running;

use super::federation::{DEADLINE, Federation, id};

#[tokio::test]
async fn a_held_request_is_dropped_without_a_word_when_the_coordinator_ends() {
    let federation = Federation::new(1, false).await;
    let task = federation.task(&[0]).await;
    let running = federation.serve().await;
    let path = format!("/task/{}/status", id(&task));
    let mut held = ask(&running, &federation.members[0].researcher, &path).await;
    // Another request on another connection, so that the first has had its turn.
    let mut other = ask(&running, &federation.root, "/task").await;
    read_until(&mut other, "links").await;
    running.shutdown().await;
    let mut answer = Vec::new();
    // Closed or reset: in either case nothing came that a client could take for an answer.
    let _ = tokio::time::timeout(DEADLINE, held.read_to_end(&mut answer)).await.expect("the connection stays open");
    assert_eq!(String::from_utf8_lossy(&answer), "");
}

#[tokio::test]
async fn a_node_whose_connection_breaks_goes_offline() {
    let federation = Federation::new(1, false).await;
    let mut watcher = federation.follow(&federation.root, "latest").await;
    let running = federation.serve().await;
    let mut stream = ask(&running, &federation.members[0].node_token, "/event").await;
    read_until(&mut stream, "event: hello").await;
    watcher.until(|event| event.kind == "node_online").await;
    drop(stream);
    watcher.until(|event| event.kind == "node_offline").await;
    running.shutdown().await;
}

async fn ask(running: &Running, token: &str, path: &str) -> TcpStream {
    let (host, prefix) = running.url().strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{prefix}{path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn read_until(stream: &mut TcpStream, text: &str) {
    let mut heard = Vec::new();
    while !String::from_utf8_lossy(&heard).contains(text) {
        let read = tokio::time::timeout(DEADLINE, stream.read_buf(&mut heard)).await.expect("nothing came").unwrap();
        assert!(read > 0, "the connection ended before `{text}` came: {}", String::from_utf8_lossy(&heard));
    }
}
