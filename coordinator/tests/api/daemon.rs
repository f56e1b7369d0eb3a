//! A coordinator as a process of its own, to be killed and started again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::ledger::federation::{DEADLINE, Events, id};

/// How often it is looked whether a process is ready.
const POLL: Duration = Duration::from_millis(1);

/// How to start a coordinator, and the process once it runs. Each start takes a port that is free.
pub(crate) struct Daemon {
    directory: PathBuf,
    environment: Vec<(String, String)>,
    child: Option<Child>,
    host: String,
    /// Removed with the daemon, unless the directory is somebody else's.
    _own: Option<TempDir>,
}

impl Daemon {
    /// On a data directory, or on a new one.
    pub(crate) fn new(directory: Option<&Path>) -> Self {
        let own = directory.is_none().then(|| tempfile::tempdir().unwrap());
        let directory = directory.unwrap_or_else(|| own.as_ref().unwrap().path()).to_owned();
        Self { directory, environment: Vec::new(), child: None, host: String::new(), _own: own }
            .with("COORDINATOR__LOG", "warn")
    }

    /// Adds a setting.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the process, for the first time or again, and waits until it is ready.
    pub(crate) async fn start(&mut self) {
        self.spawn();
        let child = self.child.as_mut().unwrap();
        let pid = child.id().unwrap();
        let ready = self.directory.join("coordinator.json");
        let told = async {
            loop {
                let text = std::fs::read(&ready).unwrap_or_default();
                if let Ok(told) = serde_json::from_slice::<Value>(&text)
                    && told["pid"] == pid
                {
                    return told;
                }
                assert!(child.try_wait().unwrap().is_none(), "the coordinator ended");
                tokio::time::sleep(POLL).await;
            }
        };
        let told = tokio::time::timeout(DEADLINE, told).await.expect("the coordinator becomes ready");
        let url = told["url"].as_str().unwrap();
        self.host = url.trim_start_matches("http://").trim_end_matches("/api").to_owned();
    }

    /// Starts the process, and does not wait for it.
    pub(crate) fn spawn(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_twinmesh-coordinator"))
            .args(["start", "--data-dir", self.directory.to_str().unwrap(), "--listen", "127.0.0.1:0"])
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Ends it as a power cut would, and sees it gone.
    pub(crate) async fn kill(&mut self) {
        self.child.as_mut().unwrap().kill().await.unwrap();
    }

    pub(crate) async fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.as_ref().unwrap().id().unwrap());
        assert!(Command::new("sh").args(["-c", &command]).status().await.unwrap().success());
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id().unwrap()
    }

    /// The address that it listens at.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn connect_later(&self) -> Connection {
        Connection::to(&self.host)
    }

    /// Follows the log; the stream has been greeted.
    pub(crate) async fn follow(&self, token: &str, after: i64) -> Events {
        let mut connection = self.connect_later();
        let request = request(Method::GET, token, &format!("/event?after={after}"), &[], Body::empty());
        let response = connection.send(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Events::greeted(Body::new(response.into_body())).await
    }
}

/// A connection that is made when it is needed first.
pub(crate) struct Connection {
    host: String,
    sender: Option<SendRequest<Body>>,
}

impl Connection {
    pub(crate) fn to(host: &str) -> Self {
        Self { host: host.to_owned(), sender: None }
    }

    /// The id of what was made, if it was acknowledged.
    pub(crate) async fn post(&mut self, token: &str, path: &str, body: &Value) -> Option<i64> {
        let (status, answer) = self.ask(request(Method::POST, token, path, &[], Body::from(body.to_string()))).await?;
        assert_eq!(status, 201, "{answer}");
        Some(id(&answer))
    }

    /// The status and the JSON of an answer, if it came whole.
    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Option<(u16, Value)> {
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(Body::new(response.into_body()), usize::MAX).await.ok()?;
        Some((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> Option<hyper::Response<hyper::body::Incoming>> {
        if self.sender.is_none() {
            let stream = TcpStream::connect(&self.host).await.ok()?;
            stream.set_nodelay(true).unwrap();
            let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            self.sender = Some(sender);
        }
        let sender = self.sender.as_mut()?;
        sender.ready().await.ok()?;
        sender.send_request(request).await.ok()
    }
}

/// A request by somebody.
pub(crate) fn request(method: Method, token: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/api{path}"))
        .header("host", "coordinator")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}
