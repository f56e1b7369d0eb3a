//! A federation without a network: a coordinator asked in process, some organizations, their nodes and researchers.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;
use twinmesh_coordinator::authn::password::Cost;
use twinmesh_coordinator::clock::Clock;
use twinmesh_coordinator::config::{Config, DatabaseConfig, Secret, Span};
use twinmesh_coordinator::{Coordinator, Running, Surroundings, Tidied};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::payload::to_text;
use twinmesh_protocol::time::Time;

use crate::bucket::objects;
use crate::database::database;

/// What the clock shows at first, in microseconds since 1970.
const START: i64 = 1_800_000_000_000_000;
pub(crate) const IMAGE: &str = "registry.example.org/image:1";
pub(crate) const PASSWORD: &str = "Correct-Horse-1";
/// How long a test waits for what must happen before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Federation {
    pub(crate) router: Router,
    pub(crate) root: String,
    pub(crate) collaboration: i64,
    pub(crate) members: Vec<Member>,
    /// Microseconds since 1970; may be moved on.
    pub(crate) clock: Arc<AtomicI64>,
    pub(crate) directory: TempDir,
    /// Held so that the coordinator lives.
    coordinator: Mutex<Option<Coordinator>>,
}

/// An organization with its researcher and its node.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) organization: i64,
    pub(crate) node: i64,
    pub(crate) node_token: String,
    pub(crate) researcher: String,
    pub(crate) key: Arc<OrganizationKey>,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }

    pub(crate) fn msg(&self) -> &str {
        self.body["msg"].as_str().unwrap_or_default()
    }
}

pub(crate) fn id(value: &Value) -> i64 {
    value["id"].as_i64().unwrap()
}

pub(crate) fn plain() -> String {
    to_text(br#"{"method": "m"}"#)
}

pub(crate) fn sealed() -> String {
    to_text(b"\x89TMS\x01 not really")
}

/// The ids of a list.
pub(crate) fn ids(answer: &Value) -> Vec<i64> {
    answer["data"].as_array().unwrap().iter().map(id).collect()
}

/// Asks for lists, and compares their ids.
pub(crate) async fn check(federation: &Federation, token: &str, lists: &[(&str, &[i64])]) {
    for (path, expected) in lists {
        let answer = federation.get(token, path).await.expect(200);
        assert_eq!(ids(&answer), *expected, "{path}");
    }
}

/// Asks for lists, and compares the status of each answer.
pub(crate) async fn check_refused(federation: &Federation, token: &str, lists: &[(&str, u16)]) {
    for (path, status) in lists {
        let answer = federation.get(token, path).await;
        assert_eq!(answer.status.as_u16(), *status, "{path}: {}", answer.body);
    }
}

impl Federation {
    /// `members` organizations in one collaboration.
    pub(crate) async fn new(members: usize, encrypted: bool) -> Self {
        Self::with(members, encrypted, |_| {}).await
    }

    pub(crate) async fn with(members: usize, encrypted: bool, settings: impl FnOnce(&mut Config)) -> Self {
        Self::since(START, members, encrypted, settings).await
    }

    /// At today's time, for those who are to be understood by processes, which have no other clock.
    pub(crate) async fn today(members: usize, settings: impl FnOnce(&mut Config)) -> Self {
        Self::since(Clock::system().now().micros(), members, false, settings).await
    }

    async fn since(start: i64, members: usize, encrypted: bool, settings: impl FnOnce(&mut Config)) -> Self {
        let mut federation = Self::alone(start, settings).await;
        federation.root = federation.log_in("root").await;
        let organizations = federation.add_organizations("member", members).await;
        let (collaboration, members) = federation.add_collaboration("main", &organizations, encrypted).await;
        federation.collaboration = collaboration;
        federation.members = members;
        federation
    }

    /// A coordinator that nobody has asked for anything, with the user `root` and nobody else.
    pub(crate) async fn bare(settings: impl FnOnce(&mut Config)) -> Self {
        Self::alone(START, settings).await
    }

    async fn alone(start: i64, settings: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = database(directory.path()).await;
        Self::empty(directory, database, start, settings).await
    }

    /// A coordinator on the database that a data directory has already.
    pub(crate) async fn on(directory: TempDir) -> Self {
        let database = database(directory.path()).await;
        Self::empty(directory, database, START, |_| {}).await
    }

    /// The same after its coordinator ended, with other settings.
    pub(crate) async fn reopened(self, settings: impl FnOnce(&mut Config)) -> Self {
        let Self { root, collaboration, members, clock, directory, coordinator, router } = self;
        drop((coordinator, router));
        let database = database(directory.path()).await;
        let other = Self::empty(directory, database, clock.load(Ordering::Relaxed), settings).await;
        Self { root, collaboration, members, ..other }
    }

    /// Another coordinator on the same database, with the members of this one.
    pub(crate) async fn beside(&self, settings: impl FnOnce(&mut Config)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let database = database(self.directory.path()).await;
        let mut other = Self::empty(directory, database, self.clock.load(Ordering::Relaxed), settings).await;
        other.root.clone_from(&self.root);
        other.collaboration = self.collaboration;
        other.members.clone_from(&self.members);
        other
    }

    async fn empty(
        directory: TempDir,
        database: DatabaseConfig,
        start: i64,
        settings: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config { data_dir: directory.path().to_owned(), database, ..Config::default() };
        config.listen = ([127, 0, 0, 1], 0).into();
        config.root.password = Some(Secret::new(PASSWORD));
        config.objects = objects(directory.path());
        config.limits.status_hold = Span(Duration::from_secs(15));
        config.limits.node_grace = Span(Duration::from_millis(20));
        settings(&mut config);
        let clock = Arc::new(AtomicI64::new(start));
        let hand = Arc::clone(&clock);
        // Each look moves the clock on, so that times differ.
        let surroundings = Surroundings {
            clock: Clock::new(move || Time::from_micros(hand.fetch_add(1, Ordering::Relaxed))),
            password_cost: Cost::Minimal,
        };
        let coordinator = Coordinator::prepare(config, surroundings).await.unwrap();
        Self {
            router: coordinator.router(),
            root: String::new(),
            collaboration: 0,
            members: Vec::new(),
            clock,
            directory,
            coordinator: Mutex::new(Some(coordinator)),
        }
    }

    pub(crate) async fn add_organizations(&self, name: &str, count: usize) -> Vec<i64> {
        let mut organizations = Vec::new();
        for number in 1..=count {
            let body = json!({"name": format!("{name} {number}")});
            organizations.push(id(&self.post(&self.root, "/organization", body).await.expect(201)));
        }
        organizations
    }

    /// A collaboration with a researcher and a node for each organization, and their keys registered.
    pub(crate) async fn add_collaboration(
        &self,
        name: &str,
        organizations: &[i64],
        encrypted: bool,
    ) -> (i64, Vec<Member>) {
        let body = json!({"name": name, "organization_ids": organizations, "encrypted": encrypted});
        let collaboration = id(&self.post(&self.root, "/collaboration", body).await.expect(200));
        let mut members = Vec::new();
        for organization in organizations {
            let username = format!("{name}-{organization}");
            self.add_user(&username, *organization, &[5]).await;
            let body = json!({"collaboration_id": collaboration, "organization_id": organization});
            let node = self.post(&self.root, "/node", body).await.expect(201);
            let body = json!({"api_key": node["api_key"]});
            let token = self.ask(Method::POST, "/token/node", None, Some(body), &[]).await.expect(200);
            let node_token = token["access_token"].as_str().unwrap().to_owned();
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&organization.to_le_bytes());
            let key = OrganizationKey::from_seed(&seed);
            let body = json!({"public_key": key.public().to_api()});
            self.patch(&node_token, &format!("/organization/{organization}"), body).await.expect(200);
            members.push(Member {
                organization: *organization,
                node: id(&node),
                node_token,
                researcher: self.log_in(&username).await,
                key: Arc::new(key),
            });
        }
        (collaboration, members)
    }

    pub(crate) async fn add_user(&self, username: &str, organization: i64, roles: &[i64]) -> i64 {
        let body = json!({
            "username": username, "password": PASSWORD, "email": format!("{username}@example.org"),
            "firstname": "A", "lastname": "B", "organization_id": organization, "roles": roles,
        });
        id(&self.post(&self.root, "/user", body).await.expect(201))
    }

    pub(crate) async fn log_in(&self, username: &str) -> String {
        let body = json!({"username": username, "password": PASSWORD});
        let answer = self.ask(Method::POST, "/token/user", None, Some(body), &[]).await.expect(200);
        answer["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Answer {
        self.ask(Method::GET, path, Some(token), None, &[]).await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, Some(token), Some(body), &[]).await
    }

    pub(crate) async fn patch(&self, token: &str, path: &str, body: Value) -> Answer {
        self.ask(Method::PATCH, path, Some(token), Some(body), &[]).await
    }

    pub(crate) async fn delete(&self, token: &str, path: &str) -> Answer {
        self.ask(Method::DELETE, path, Some(token), None, &[]).await
    }

    /// Sends a body as it is, and reads the answer as it is.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        token: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> (StatusCode, HeaderMap, Bytes) {
        let mut request = Request::builder().method(method).uri(format!("/api{path}"));
        request = request.header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        (status, headers, response.into_body().collect().await.unwrap().to_bytes())
    }

    /// Removes what has reached its age or belongs to nothing.
    pub(crate) async fn tidy(&self) -> Tidied {
        let tidier = self.coordinator.lock().unwrap().as_ref().unwrap().tidier();
        tidier.tidy().await.unwrap()
    }

    /// Moves the clock on.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.fetch_add(i64::try_from(time.as_micros()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("/api{path}"));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, headers, body }
    }

    /// The body of a task at these members.
    pub(crate) fn task_body(&self, members: &[usize]) -> Value {
        let organizations: Vec<_> =
            members.iter().map(|at| json!({"id": self.members[*at].organization, "input": plain()})).collect();
        json!({
            "name": "a task", "image": IMAGE, "description": "", "collaboration_id": self.collaboration,
            "organizations": organizations, "databases": [{"label": "default"}],
        })
    }

    /// A task that the first member's researcher asks these members to run.
    pub(crate) async fn task(&self, members: &[usize]) -> Value {
        self.post(&self.members[0].researcher, "/task", self.task_body(members)).await.expect(201)
    }

    /// The run of a task at a member.
    pub(crate) async fn run(&self, task: i64, member: usize) -> Value {
        let runs = self.get(&self.root, &format!("/run?task_id={task}")).await.expect(200);
        let organization = self.members[member].organization;
        let run = runs["data"].as_array().unwrap().iter().find(|run| run["organization"]["id"] == organization);
        run.unwrap_or_else(|| panic!("no run at member {member}: {runs}")).clone()
    }

    pub(crate) async fn report(&self, member: usize, run: &Value, body: Value) -> Answer {
        self.patch(&self.members[member].node_token, &format!("/run/{}", id(run)), body).await
    }

    pub(crate) async fn status(&self, task: i64) -> Value {
        self.get(&self.root, &format!("/task/{task}")).await.expect(200)["status"].clone()
    }

    /// The token of the algorithm that runs a task at a member.
    pub(crate) async fn container(&self, member: usize, task: i64) -> String {
        let body = json!({"task_id": task, "image": IMAGE});
        let token = &self.members[member].node_token;
        let answer = self.post(token, "/token/container", body).await.expect(200);
        answer["container_token"].as_str().unwrap().to_owned()
    }

    /// Follows the log; the stream has been greeted.
    pub(crate) async fn follow(&self, token: &str, after: &str) -> Events {
        let request = Request::builder()
            .uri(format!("/api/event?after={after}"))
            .header("authorization", format!("Bearer {token}"))
            .body(Body::empty())
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events::greeted(response.into_body()).await
    }

    /// Serves the coordinator on a port of its own besides.
    pub(crate) async fn serve(&self) -> Running {
        let coordinator = self.coordinator.lock().unwrap().take().unwrap();
        coordinator.serve().await.unwrap()
    }

    /// Ends the coordinator; what it wrote stays.
    pub(crate) fn end(&mut self) {
        drop(self.coordinator.lock().unwrap().take());
        self.router = Router::new();
    }

    /// Ends the coordinator and starts another on the same data.
    pub(crate) async fn restart(&mut self) {
        self.end();
        let database = database(self.directory.path()).await;
        let config = Config { data_dir: self.directory.path().to_owned(), database, ..Config::default() };
        let coordinator = Coordinator::prepare(config, Surroundings::default()).await.unwrap();
        self.router = coordinator.router();
        *self.coordinator.lock().unwrap() = Some(coordinator);
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) sequence: i64,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

pub(crate) struct Events {
    body: BoxStream<'static, Result<axum::body::Bytes, axum::Error>>,
    text: String,
}

impl Events {
    /// The messages of an answer, with the greeting.
    pub(crate) fn of(body: Body) -> Self {
        Self { body: futures::StreamExt::boxed(body.into_data_stream()), text: String::new() }
    }

    /// The events of an answer, after the greeting.
    pub(crate) async fn greeted(body: Body) -> Self {
        let mut events = Self::of(body);
        let hello = events.next().await;
        assert_eq!(hello.kind, "hello");
        assert_eq!(hello.data["sequence"], hello.sequence);
        events
    }

    /// The next event, or nothing when the stream has ended or is cut.
    pub(crate) async fn next_or_end(&mut self) -> Option<Message> {
        tokio::time::timeout(DEADLINE, self.read()).await.expect("no event came")
    }

    /// The next event, however long it takes, or nothing when the stream has ended or is cut.
    pub(crate) async fn next_or_cut(&mut self) -> Option<Message> {
        self.read().await
    }

    /// The next event; comments are passed over.
    pub(crate) async fn next(&mut self) -> Message {
        tokio::time::timeout(DEADLINE, self.read()).await.expect("no event came").expect("the stream ended")
    }

    /// Every event up to and including the first that fits.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut events = Vec::new();
        loop {
            let event = self.next().await;
            events.push(event);
            if fits(&events[events.len() - 1]) {
                return events;
            }
        }
    }

    /// What has arrived, without waiting for more.
    pub(crate) fn arrived(&mut self) -> Vec<Message> {
        let mut events = Vec::new();
        while let Some(Some(event)) = futures::FutureExt::now_or_never(self.read()) {
            events.push(event);
        }
        events
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            if let Some((message, rest)) = self.text.split_once("\n\n") {
                let (message, rest) = (parse(message), rest.to_owned());
                self.text = rest;
                match message {
                    Some(message) => return Some(message),
                    None => continue,
                }
            }
            let bytes = self.body.next().await?.ok()?;
            self.text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
}

fn parse(message: &str) -> Option<Message> {
    let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some(Message {
        sequence: field("id:")?.parse().unwrap(),
        kind: field("event:")?.to_owned(),
        data: serde_json::from_str(field("data:")?).unwrap(),
    })
}
