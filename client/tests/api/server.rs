//! A coordinator that keeps a small federation in memory and follows a script.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State as Extract;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::envelope;
use twinmesh_protocol::id::{CollaborationId, JobId, NodeId, OrganizationId, RoleId, RunId, TaskId, UserId};
use twinmesh_protocol::key::{OrganizationKey, PrivateKey, PublicKey};
use twinmesh_protocol::manifest::TaskManifest;
use twinmesh_protocol::payload;
use twinmesh_protocol::rsa::RsaKey;
use twinmesh_protocol::sealed::{Direction, SealContext, open, seal, seal_anonymous};
use twinmesh_protocol::status::{RunStatus, task_status};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{
    Collaboration, KeyRecord, KeySetter, Link, Many, NewTask, Node, Organization, Page, PageLinks, Role, Run,
    RunResult, Task, TaskDatabase, User,
};

pub(crate) const COLLABORATION: CollaborationId = CollaborationId::new(1);
pub(crate) const UNIVERSITY: OrganizationId = OrganizationId::new(1);
pub(crate) const HOSPITAL_A: OrganizationId = OrganizationId::new(2);
pub(crate) const HOSPITAL_B: OrganizationId = OrganizationId::new(3);
pub(crate) const ALL: [OrganizationId; 3] = [UNIVERSITY, HOSPITAL_A, HOSPITAL_B];
/// What sets up the authenticator of who has none.
const URI: &str = "otpauth://totp/Twinmesh:grace?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Twinmesh";
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
/// Long ago, so that its distance from now keeps its number of digits.
const LONG_AGO: Time = Time::from_micros(1_577_836_800_000_000);

/// The key of an organization, the same in every test.
pub(crate) fn key(organization: OrganizationId) -> OrganizationKey {
    OrganizationKey::from_seed(&[u8::try_from(organization.get()).unwrap(); 32])
}

/// The key of all organizations that are said to have an RSA key, as vantage6's tools write it.
pub(crate) fn rsa_key() -> RsaKey {
    match PrivateKey::from_pem(include_str!("rsa_private.pem")).unwrap() {
        PrivateKey::Rsa(key) => key,
        PrivateKey::Ed25519(_) => unreachable!("the file holds an RSA key"),
    }
}

/// What a request was.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) request: String,
    pub(crate) query: String,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) last_event_id: Option<String>,
}

/// How nodes behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nodes {
    /// They run what they get at once.
    Prompt,
    /// They do nothing.
    Away,
    /// They refuse what they get.
    Strict,
}

pub(crate) struct State {
    pub(crate) seen: Vec<Seen>,
    pub(crate) nodes: Nodes,
    pub(crate) organizations: Vec<Organization>,
    pub(crate) encrypted: bool,
    pub(crate) tasks: Vec<Task>,
    pub(crate) runs: Vec<Run>,
    pub(crate) results: BTreeMap<RunId, String>,
    /// So many requests are answered with 503.
    pub(crate) busy: u32,
    /// So many tasks are recorded without their maker hearing of it.
    pub(crate) lost_task_answers: u32,
    /// Grows with every exchange of tokens; older ones have ended.
    pub(crate) generation: u32,
    pub(crate) refreshes: u32,
    pub(crate) log_ins: u32,
    pub(crate) refuse_refresh: bool,
    /// Whether refused tokens are told without a code.
    pub(crate) is_stock: bool,
    /// The bodies of event streams, one a connection.
    pub(crate) streams: Vec<String>,
    made: BTreeMap<String, TaskId>,
}

#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
    changed: Arc<tokio::sync::Notify>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_after(0).await
    }

    /// Drops so many connections before it listens to what they say.
    pub(crate) async fn start_after(dropped: usize) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let state = State {
            seen: Vec::new(),
            nodes: Nodes::Prompt,
            organizations: ALL.into_iter().map(organization).collect(),
            encrypted: true,
            tasks: Vec::new(),
            runs: Vec::new(),
            results: BTreeMap::new(),
            busy: 0,
            lost_task_answers: 0,
            generation: 1,
            refreshes: 0,
            log_ins: 0,
            refuse_refresh: false,
            is_stock: false,
            streams: Vec::new(),
            made: BTreeMap::new(),
        };
        let server = Self { url, state: Arc::new(Mutex::new(state)), changed: Arc::default() };
        let app = Router::new().fallback(handle).with_state(server.clone());
        tokio::spawn(async move {
            for _ in 0..dropped {
                drop(listener.accept().await);
            }
            axum::serve(listener, app).await.unwrap();
        });
        server
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Has the nodes run what they were given.
    pub(crate) fn run_everything(&self) {
        let state = &mut *self.state();
        for run in state.runs.iter_mut().filter(|run| !run.status.is_finished()) {
            let Some(twinmesh_protocol::wire::One::Link(link)) = &run.task else { continue };
            let Some(task) = state.tasks.iter().find(|task| task.id.get() == link.id) else { continue };
            let (status, result) = work(task, run, &state.organizations, state.encrypted);
            run.status = status;
            run.finished_at = Some(LONG_AGO);
            state.results.insert(run.id, result);
        }
        for task in &mut state.tasks {
            let runs = state.runs.iter().filter(|run| of_task(run, task.id.get()));
            task.status = task_status(runs.map(|run| run.status));
        }
        self.changed.notify_waiters();
    }

    /// How often this was asked.
    pub(crate) fn count(&self, request: &str) -> usize {
        self.state().seen.iter().filter(|seen| seen.request == request).count()
    }
}

/// What an honest node does: open the input, run the function, seal the result.
fn work(task: &Task, run: &Run, organizations: &[Organization], encrypted: bool) -> (RunStatus, String) {
    let organization = OrganizationId::new(run.organization.as_ref().unwrap().id);
    let output = serde_json::to_vec(&json!({"n": organization.get() * 10})).unwrap();
    let shown = organizations.iter().find(|shown| shown.id == organization).unwrap();
    let is_rsa = matches!(PublicKey::from_api(&shown.public_key), Ok(PublicKey::Rsa(_)));
    let Some(signed) = &task.manifest else {
        if !encrypted {
            return (RunStatus::Completed, payload::to_text(&output));
        }
        let input = envelope::open_text(&rsa_key(), run.input.as_ref().unwrap()).unwrap();
        assert!(serde_json::from_slice::<Value>(&input).unwrap()["method"].is_string());
        return (RunStatus::Completed, envelope::seal(rsa_key().public(), &output).unwrap());
    };
    let manifest = signed.verify(&key(UNIVERSITY).public()).unwrap();
    let input = run.input.clone().unwrap();
    let receiver = manifest.receivers.iter().find(|receiver| receiver.organization_id == organization).unwrap();
    assert_eq!(receiver.input_sha256, Digest::of(input.as_bytes()));
    if is_rsa {
        let input: Value = serde_json::from_slice(&envelope::open_text(&rsa_key(), &input).unwrap()).unwrap();
        assert_eq!(input["method"], *manifest.function);
        return (RunStatus::Completed, seal_result_anonymously(&manifest, organization, &output));
    }
    let context = context(&manifest, Direction::Input, UNIVERSITY, organization);
    let input = payload::from_text(&input).unwrap();
    let input = open(&key(organization), &key(UNIVERSITY).public(), &context, &input).unwrap();
    let input: Value = serde_json::from_slice(&input).unwrap();
    assert_eq!(input["method"], *manifest.function);
    (RunStatus::Completed, seal_result(&manifest, organization, &key(organization), &output))
}

pub(crate) fn seal_result(
    manifest: &TaskManifest,
    organization: OrganizationId,
    key_used: &OrganizationKey,
    output: &[u8],
) -> String {
    let context = context(manifest, Direction::Result, organization, UNIVERSITY);
    payload::to_text(&seal(key_used, &key(UNIVERSITY).public(), &context, output).unwrap())
}

pub(crate) fn seal_result_anonymously(manifest: &TaskManifest, organization: OrganizationId, output: &[u8]) -> String {
    let context = context(manifest, Direction::Result, organization, UNIVERSITY);
    payload::to_text(&seal_anonymous(&key(UNIVERSITY).public(), &context, output).unwrap())
}

fn context(
    manifest: &TaskManifest,
    direction: Direction,
    sender: OrganizationId,
    receiver: OrganizationId,
) -> SealContext {
    SealContext { direction, collaboration_id: manifest.collaboration_id, sender, receiver, nonce: manifest.nonce }
}

fn link(noun: &str, id: i64) -> Option<Link> {
    Some(Link { id, link: format!("/api/{noun}/{id}"), methods: vec!["GET".into()] })
}

fn organization(id: OrganizationId) -> Organization {
    let name = match id {
        UNIVERSITY => "university",
        HOSPITAL_A => "hospital-a",
        _ => "hospital-b",
    };
    Organization {
        id,
        name: name.into(),
        domain: None,
        address1: None,
        address2: None,
        zipcode: None,
        country: Some("NL".into()),
        public_key: key(id).public().to_api(),
        collaborations: format!("/api/collaboration?organization_id={id}"),
        nodes: format!("/api/node?organization_id={id}"),
        users: format!("/api/user?organization_id={id}"),
        tasks: format!("/api/task?init_org_id={id}"),
        runs: format!("/api/run?organization_id={id}"),
        studies: format!("/api/study?organization_id={id}"),
    }
}

fn collaboration(state: &State) -> Collaboration {
    Collaboration {
        id: COLLABORATION,
        name: "trial".into(),
        encrypted: state.encrypted,
        organizations: Many::Items(state.organizations.clone()),
        nodes: "/api/node?collaboration_id=1".into(),
        tasks: "/api/task?collaboration_id=1".into(),
        studies: "/api/study?collaboration_id=1".into(),
        algorithm_stores: "/api/algorithmstore?collaboration_id=1".into(),
    }
}

fn user() -> User {
    User {
        id: UserId::new(1),
        kind: "user".into(),
        username: "ada".into(),
        firstname: Some("Ada".into()),
        lastname: Some("Lovelace".into()),
        email: Some("ada@example.org".into()),
        ip: None,
        last_seen: None,
        status: None,
        organization: link("organization", 1),
        roles: "/api/role?user_id=1".into(),
        rules: "/api/rule?user_id=1".into(),
        otp_secret: None,
        last_email_failed_login_sent: None,
        last_email_recover_password_sent: None,
        permissions: None,
    }
}

fn node(id: OrganizationId, name: &str) -> Node {
    Node {
        id: NodeId::new(id.get() + 10),
        name: name.into(),
        kind: "node".into(),
        ip: None,
        last_seen: None,
        status: (id != HOSPITAL_B).then(|| "online".into()),
        organization: link("organization", id.get()),
        collaboration: link("collaboration", 1),
        config: Vec::new(),
        api_key: None,
    }
}

fn of_task(run: &Run, task: i64) -> bool {
    matches!(&run.task, Some(twinmesh_protocol::wire::One::Link(link)) if link.id == task)
}

fn problem(status: StatusCode, code: &str, msg: &str) -> Response {
    let body = json!({"msg": msg, "status": status.as_u16(), "code": code, "title": "", "request_id": "req-1"});
    (status, Json(body)).into_response()
}

fn found<T: Serialize>(item: Option<&T>) -> Response {
    item.map_or_else(|| problem(StatusCode::NOT_FOUND, "not_found", "Not found"), |item| Json(item).into_response())
}

/// One page of a list, as the query asks.
fn page<T: Serialize + Clone>(items: &[T], query: &BTreeMap<String, String>) -> Response {
    let number = |name: &str, default: usize| query.get(name).map_or(default, |text| text.parse().unwrap());
    let (page, size) = (number("page", 1), number("per_page", 10).min(2));
    let data: Vec<T> = items.iter().skip((page - 1) * size).take(size).cloned().collect();
    let next = (page * size < items.len()).then(|| format!("/api/x?page={}", page + 1));
    Json(Page { data, links: PageLinks { next, ..PageLinks::default() } }).into_response()
}

async fn handle(
    Extract(server): Extract<Server>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().strip_prefix("/api/").unwrap_or_default().to_owned();
    let query: BTreeMap<String, String> =
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let token = header("authorization").and_then(|text| text.strip_prefix("Bearer ").map(str::to_owned));
    {
        let mut state = server.state();
        state.seen.push(Seen {
            request: format!("{method} /{path}"),
            query: uri.query().unwrap_or_default().into(),
            idempotency_key: header("idempotency-key"),
            last_event_id: header("last-event-id"),
        });
        if state.busy > 0 {
            state.busy -= 1;
            return problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Come back later");
        }
    }
    let segments: Vec<&str> = path.split('/').collect();
    if let Some(answer) = open_paths(&server, &method, &segments, token.as_deref(), &body) {
        return answer;
    }
    let wanted = format!("access-{}", server.state().generation);
    if token.as_deref() != Some(&*wanted) && token.as_deref() != Some("container") {
        let msg = if token.is_none() { "Missing Authorization Header" } else { "Token has expired" };
        let code = if server.state().is_stock { "" } else { "token_expired" };
        return problem(StatusCode::UNAUTHORIZED, code, msg);
    }
    if let ["task", id, "status"] = &*segments {
        return held_status(&server, id.parse().unwrap()).await;
    }
    if segments == ["event"] {
        return event_stream(&server);
    }
    let mut state = server.state();
    let id = segments.get(1).and_then(|id| id.parse::<i64>().ok());
    match (method.as_str(), &*segments) {
        ("GET", ["user"]) => page(&[user()], &query),
        ("GET", ["user", "1"]) => Json(user()).into_response(),
        ("GET", ["organization"]) => page(&state.organizations, &query),
        ("GET", ["organization", _]) => found(state.organizations.iter().find(|item| Some(item.id.get()) == id)),
        ("GET", ["organization", _, "key"]) => {
            let Some(id) = id else { return problem(StatusCode::NOT_FOUND, "not_found", "no such organization") };
            let record = |by: &str, replaced_at| KeyRecord {
                kind: "ed25519".into(),
                fingerprint: key(OrganizationId::new(id)).public().fingerprint(),
                public_key: key(OrganizationId::new(id)).public().to_api(),
                set_at: Some(LONG_AGO),
                set_by: Some(KeySetter { kind: by.into(), id: (by == "node").then_some(7) }),
                replaced_at,
            };
            page(&[record("node", None), record("operator", Some(LONG_AGO))], &query)
        }
        ("PATCH", ["organization", _]) => {
            let change: Value = serde_json::from_slice(&body).unwrap();
            let Some(item) = state.organizations.iter_mut().find(|item| Some(item.id.get()) == id) else {
                return problem(StatusCode::NOT_FOUND, "not_found", "organization id is not found");
            };
            item.public_key = change["public_key"].as_str().unwrap_or(&item.public_key).into();
            Json(item).into_response()
        }
        ("DELETE", ["organization", _]) => {
            problem(StatusCode::UNAUTHORIZED, "permission_denied", "You lack the permission to do that!")
        }
        ("POST", ["organization"]) => {
            let errors = json!({"name": ["Longer than maximum length 128."]});
            let body = json!({"msg": "Request body is incorrect", "status": 400, "code": "invalid", "errors": errors});
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
        ("GET", ["collaboration"]) => page(&[collaboration(&state)], &query),
        ("GET", ["collaboration", "1"]) => Json(collaboration(&state)).into_response(),
        ("GET", ["node"]) => {
            let nodes = [node(HOSPITAL_A, "node of hospital-a"), node(HOSPITAL_B, "node of hospital-b")];
            page(&nodes, &query)
        }
        ("GET", ["role"]) => page(&[role()], &query),
        ("POST", ["task"]) => post_task(&mut state, header("idempotency-key"), &body),
        ("GET", ["task"]) => page(&state.tasks, &query),
        ("GET", ["task", _]) => found(state.tasks.iter().find(|item| Some(item.id.get()) == id)),
        ("POST", ["kill", "task"]) => Json(json!({"msg": "The task is being ended"})).into_response(),
        ("GET", ["run"]) => {
            let task = query["task_id"].parse().unwrap();
            let runs: Vec<Run> = state.runs.iter().filter(|run| of_task(run, task)).cloned().collect();
            page(&runs, &query)
        }
        ("GET", ["run", _]) => found(state.runs.iter().find(|item| Some(item.id.get()) == id)),
        ("GET", ["result"]) => {
            let task = query["task_id"].parse().unwrap();
            let results: Vec<RunResult> = state
                .runs
                .iter()
                .filter(|run| of_task(run, task))
                .map(|run| RunResult {
                    id: run.id,
                    result: state.results.get(&run.id).cloned(),
                    cleanup_at: None,
                    blob_storage_used: false,
                    run: link("run", run.id.get()),
                    task: link("task", task),
                })
                .collect();
            page(&results, &query)
        }
        _ => problem(StatusCode::NOT_FOUND, "not_found", "Not found"),
    }
}

/// Paths that need no access token.
fn open_paths(
    server: &Server,
    method: &Method,
    segments: &[&str],
    token: Option<&str>,
    body: &Bytes,
) -> Option<Response> {
    let mut state = server.state();
    let tokens = |state: &State, whose: &str| {
        let url = format!("/api/{whose}/1");
        let (user, node) = if whose == "user" { (Some(&url), None) } else { (None, Some(&url)) };
        Json(json!({
            "access_token": format!("access-{}", state.generation),
            "refresh_token": format!("refresh-{}", state.generation),
            "refresh_url": "/api/token/refresh", "user_url": user, "node_url": node,
        }))
        .into_response()
    };
    Some(match (method.as_str(), segments) {
        ("GET", ["version"]) => Json(json!({"version": "4.15.2"})).into_response(),
        ("POST", ["token", "user"]) => {
            let log_in: Value = serde_json::from_slice(body).unwrap();
            if log_in["password"] != "correct" {
                return Some(problem(StatusCode::UNAUTHORIZED, "log_in_failed", "Failed to login"));
            }
            // These two need a second factor; one has not set it up.
            let code = &log_in["mfa_code"];
            match log_in["username"].as_str().unwrap() {
                "grace" if code.is_null() => {
                    return Some(
                        Json(json!({"qr_uri": URI, "otp_secret": SECRET, "msg": "Set it up"})).into_response(),
                    );
                }
                "joan" if code.is_null() => return Some(Json(json!({"msg": "Please include a code"})).into_response()),
                "grace" | "joan" if code != "123456" => {
                    return Some(problem(StatusCode::UNAUTHORIZED, "wrong_code", "Your code is incorrect!"));
                }
                _ => {}
            }
            state.log_ins += 1;
            tokens(&state, "user")
        }
        ("POST", ["token", "node"]) => {
            state.log_ins += 1;
            tokens(&state, "node")
        }
        ("POST", ["token", "refresh"]) => {
            let wanted = token.is_some_and(|token| token.starts_with("refresh-"));
            if state.refuse_refresh || !wanted {
                return Some(problem(StatusCode::UNAUTHORIZED, "token_expired", "Token has expired"));
            }
            state.refreshes += 1;
            tokens(&state, "user")
        }
        _ => return None,
    })
}

fn role() -> Role {
    Role {
        id: RoleId::new(5),
        name: "Researcher".into(),
        description: Some("Asks questions".into()),
        is_default_role: true,
        organization: None,
        rules: "/api/rule?role_id=5".into(),
        users: "/api/user?role_id=5".into(),
    }
}

fn post_task(state: &mut State, idempotency_key: Option<String>, body: &Bytes) -> Response {
    let new: NewTask = serde_json::from_slice(body).unwrap();
    let idempotency_key = idempotency_key.unwrap();
    let is_lost = state.lost_task_answers > 0;
    state.lost_task_answers = state.lost_task_answers.saturating_sub(1);
    let id = match state.made.get(&idempotency_key) {
        Some(id) => *id,
        None => record(state, new, &idempotency_key),
    };
    if is_lost {
        // The task was recorded, but the answer was lost.
        return problem(StatusCode::BAD_GATEWAY, "unavailable", "The connection broke");
    }
    (StatusCode::CREATED, Json(state.tasks.iter().find(|task| task.id == id).unwrap())).into_response()
}

fn record(state: &mut State, new: NewTask, idempotency_key: &str) -> TaskId {
    let id = TaskId::new(i64::try_from(state.tasks.len()).unwrap() + 1);
    state.made.insert(idempotency_key.into(), id);
    let mut task = Task {
        id,
        name: new.name,
        description: new.description,
        image: new.image,
        job_id: JobId::new(id.get()),
        created_at: Some(LONG_AGO),
        status: RunStatus::Pending,
        finished_at: None,
        collaboration: link("collaboration", 1),
        study: None,
        algorithm_store: None,
        init_org: link("organization", 1),
        init_user: link("user", 1),
        parent: None,
        children: format!("/api/task?parent_id={id}"),
        runs: Some(Many::Link(format!("/api/run?task_id={id}"))),
        results: Many::Link(format!("/api/result?task_id={id}")),
        databases: new
            .databases
            .unwrap_or_default()
            .into_iter()
            .map(|database| TaskDatabase { label: database.label, parameters: "{}".into() })
            .collect(),
        manifest: new.manifest,
    };
    for organization in new.organizations {
        let mut run = Run {
            id: RunId::new(i64::try_from(state.runs.len()).unwrap() + 1),
            status: RunStatus::Pending,
            input: Some(organization.input),
            log: None,
            assigned_at: Some(LONG_AGO),
            started_at: None,
            finished_at: None,
            cleanup_at: None,
            blob_storage_used: false,
            organization: link("organization", organization.id.get()),
            task: link("task", id.get()).map(twinmesh_protocol::wire::One::Link),
            results: None,
            node: None,
            ports: Vec::new(),
            kill_requested: false,
        };
        match state.nodes {
            Nodes::Prompt => {
                let (status, result) = work(&task, &run, &state.organizations, state.encrypted);
                run.status = status;
                state.results.insert(run.id, result);
            }
            Nodes::Strict => {
                run.status = RunStatus::NotAllowed;
                run.log = Some("policy `images`: image `x` is not on the list\u{1b}[31m".into());
            }
            Nodes::Away => {}
        }
        state.runs.push(run);
    }
    task.status = task_status(state.runs.iter().filter(|run| of_task(run, id.get())).map(|run| run.status));
    state.tasks.push(task);
    id
}

/// Holds the answer until the task has ended, as coordinators do.
async fn held_status(server: &Server, task: i64) -> Response {
    loop {
        let changed = server.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        let status = server.state().tasks.iter().find(|item| item.id.get() == task).map(|task| task.status);
        match status {
            None => return problem(StatusCode::NOT_FOUND, "not_found", "Task not found"),
            Some(status) if status.is_finished() => return Json(json!({"status": status})).into_response(),
            Some(_) => {}
        }
        let _ = tokio::time::timeout(Duration::from_secs(20), changed).await;
    }
}

fn event_stream(server: &Server) -> Response {
    let mut state = server.state();
    if state.streams.is_empty() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "No more streams");
    }
    let text = state.streams.remove(0);
    ([("content-type", "text/event-stream")], Body::from(text)).into_response()
}
