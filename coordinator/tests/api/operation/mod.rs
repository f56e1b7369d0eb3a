//! What an operator sees of a coordinator.

mod batch;
mod doctor;
mod health;
mod log;
mod mail;
mod metrics;
pub(crate) mod tls;
mod upgrade;

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use twinmesh_coordinator::config::{Config, Secret};
use twinmesh_coordinator::{Coordinator, Running};

use crate::database::database;

/// The first user's password.
const PASSWORD: &str = "Correct-Horse-1";

async fn config(directory: &Path) -> Config {
    let database = database(directory).await;
    let mut config = Config { data_dir: directory.to_owned(), database, ..Config::default() };
    config.listen.set_port(0);
    config.root.password = Some(Secret::new(PASSWORD));
    config
}

async fn start(config: Config) -> Running {
    Coordinator::start(config).await.unwrap()
}

/// The program with these arguments, on the database of this data directory.
async fn program(directory: &Path, arguments: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_twinmesh-coordinator"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    if let Some(url) = database(directory).await.url {
        command.env("COORDINATOR__DATABASE__URL", url.reveal());
    }
    command.env("COORDINATOR__DATA_DIR", directory).env("COORDINATOR__LISTEN", "127.0.0.1:0");
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Where the API is, without its path.
fn address(running: &Running) -> &str {
    running.url().trim_start_matches("http://").trim_end_matches("/api")
}

/// What was answered.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

async fn exchange(host: &str, request: String) -> Answer {
    let mut stream = TcpStream::connect(host).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

async fn get(host: &str, path: &str, token: Option<&str>) -> Answer {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    exchange(host, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{token}\r\n")).await
}

async fn post(running: &Running, path: &str, body: &str) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n");
    let length = body.len();
    exchange(address(running), format!("{head}content-length: {length}\r\n\r\n{body}")).await
}

/// The first user's token.
async fn log_in(running: &Running, password: &str) -> String {
    let body = serde_json::json!({"username": "root", "password": password}).to_string();
    let answer = post(running, "/api/token/user", &body).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let tokens: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    tokens["access_token"].as_str().unwrap().to_owned()
}
