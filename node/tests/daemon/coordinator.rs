//! A scripted coordinator: just enough of the interface, all of it in memory.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, StatusCode},
    middleware::{self, Next},
    response::{IntoResponse, Response, Sse, sse::Event},
    routing::{delete, get, post, put},
};
use futures::{Stream, StreamExt as _};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use twinmesh_protocol::{
    digest::Digest,
    id::{CollaborationId, OrganizationId},
    key::{OrganizationKey, OrganizationPublicKey},
    manifest::{Delegation, MANIFEST_VERSION, Nonce, Receiver, SignedManifest, TaskManifest},
    payload,
    sealed::{self, Direction, SealContext},
    signed::Signed,
    wire::TaskDatabase,
};

pub(crate) const COLLABORATION: CollaborationId = CollaborationId::new(1);
/// The node's organization.
pub(crate) const HOME: OrganizationId = OrganizationId::new(1);
/// Who asks.
pub(crate) const RESEARCHER: OrganizationId = OrganizationId::new(2);

/// A handle to the coordinator.
#[derive(Clone)]
pub(crate) struct Coordinator {
    pub(crate) url: String,
    pub(crate) state: Arc<Shared>,
}

pub(crate) struct Shared {
    world: Mutex<World>,
    events: broadcast::Sender<String>,
    down: AtomicBool,
    tokens_held: AtomicBool,
    tokens_asked: AtomicBool,
    /// How often the open runs were listed.
    lists: AtomicUsize,
    pub(crate) home_key: OrganizationKey,
    pub(crate) researcher_key: OrganizationKey,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) tasks: BTreeMap<i64, Value>,
    pub(crate) runs: BTreeMap<i64, Value>,
    /// Every report about a run, in order.
    pub(crate) patches: Vec<(i64, Value)>,
    pub(crate) keys: BTreeMap<i64, String>,
    pub(crate) ports: Vec<Value>,
    /// The bodies of `POST /task`.
    pub(crate) asked: Vec<Value>,
    pub(crate) lie: Option<Lie>,
    idempotency: BTreeMap<String, i64>,
    sequence: i64,
    encrypted: bool,
    /// The nodes that are registered with the overlay, besides this one.
    pub(crate) peers: Vec<Value>,
    /// Whether keys that are there stay.
    pub(crate) keys_stay: bool,
    /// Whether the researcher's organization is not in the collaboration yet.
    pub(crate) is_small: bool,
}

/// What a dishonest coordinator may try on a central function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The tasks' manifests are withheld and the results replaced by others that are not sealed.
    Unsealed,
    /// Whatever is asked about the third task is answered about the second.
    Swapped,
    /// There are no runs.
    Dropped,
    /// Each run is there twice.
    Doubled,
    /// Runs are said to be another organization's.
    Misplaced,
    /// The results are gone.
    Withheld,
    /// Each task that is made is said to be the second.
    Remade,
}

/// A task to be made, and ways to spoil it.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) method: String,
    pub(crate) kwargs: Value,
    pub(crate) databases: Vec<String>,
    pub(crate) image: String,
    pub(crate) sign_with: Option<OrganizationKey>,
    pub(crate) seal_to: OrganizationPublicKey,
    pub(crate) delegation: Option<Delegation>,
    pub(crate) not_after: i64,
}

impl Coordinator {
    pub(crate) async fn start(encrypted: bool) -> Self {
        let (events, _) = broadcast::channel(256);
        let state = Arc::new(Shared {
            world: Mutex::new(World { encrypted, ..World::default() }),
            events,
            down: AtomicBool::new(false),
            tokens_held: AtomicBool::new(false),
            tokens_asked: AtomicBool::new(false),
            lists: AtomicUsize::new(0),
            home_key: OrganizationKey::from_seed(&[1; 32]),
            researcher_key: OrganizationKey::from_seed(&[2; 32]),
        });
        state.world().keys.insert(RESEARCHER.get(), state.researcher_key.public().to_api());
        let router = Router::new()
            .route("/api/token/node", post(log_in))
            .route("/api/token/container", post(container_token))
            .route("/api/node/{id}", get(node))
            .route("/api/node/{id}/peer", put(|| async { Json(json!({"msg": "ok"})) }))
            .route("/api/peer", get(peers))
            .route("/api/overlay", get(|| async { Json(json!({"relay": null})) }))
            .route("/api/collaboration/{id}", get(collaboration))
            .route("/api/organization", get(organizations))
            .route("/api/organization/{id}", get(organization).patch(organization_update))
            .route("/api/event", get(follow))
            .route("/api/run", get(runs))
            .route("/api/run/{id}", get(run).patch(report))
            .route("/api/result", get(results))
            .route("/api/result/{id}", get(result))
            .route("/api/task", post(task_create))
            .route("/api/task/{id}", get(task))
            .route("/api/task/{id}/status", get(task_status))
            .route("/api/port", post(port))
            .route("/api/port", delete(|| async { Json(json!({"msg": "ok"})) }))
            .layer(middleware::from_fn_with_state(state.clone(), only_when_up))
            .with_state(state.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, state }
    }

    /// Goes away, or comes back.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
        // Wakes the event streams, which look whether they still stand.
        let _ = self.state.events.send(String::new());
    }

    /// Lets requests for tokens wait, or answers them.
    pub(crate) fn hold_tokens(&self, hold: bool) {
        self.state.tokens_held.store(hold, Ordering::SeqCst);
    }

    pub(crate) fn asked_for_tokens(&self) -> bool {
        self.state.tokens_asked.load(Ordering::SeqCst)
    }

    pub(crate) fn lists(&self) -> usize {
        self.state.lists.load(Ordering::SeqCst)
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.state.world()
    }

    pub(crate) fn world_is_encrypted(&self) -> bool {
        self.world().encrypted
    }

    pub(crate) fn draft(&self, method: &str) -> Draft {
        Draft {
            method: method.into(),
            kwargs: json!({}),
            databases: vec!["default".into()],
            image: twinmesh_algorithms::IMAGE.into(),
            sign_with: Some(self.state.researcher_key.clone()),
            seal_to: self.state.home_key.public(),
            delegation: None,
            not_after: now() + 3600,
        }
    }

    /// Records a task for the node and tells of it; returns the run.
    pub(crate) fn post(&self, draft: &Draft) -> i64 {
        let (task, input, manifest) = self.build(draft);
        self.record(task, &input, manifest.as_ref())
    }

    /// The task, its input's text, and what was signed.
    pub(crate) fn build(&self, draft: &Draft) -> (Value, String, Option<SignedManifest>) {
        let nonce = Nonce::random();
        let content = json!({"method": draft.method, "args": [], "kwargs": draft.kwargs}).to_string();
        let encrypted = self.world().encrypted;
        let input = if encrypted {
            let context = SealContext {
                direction: Direction::Input,
                collaboration_id: COLLABORATION,
                sender: RESEARCHER,
                receiver: HOME,
                nonce,
            };
            let key = &self.state.researcher_key;
            payload::to_text(&sealed::seal(key, &draft.seal_to, &context, content.as_bytes()).unwrap())
        } else {
            payload::to_text(content.as_bytes())
        };
        let manifest = draft.sign_with.as_ref().map(|key| {
            let manifest = TaskManifest {
                version: MANIFEST_VERSION,
                collaboration_id: COLLABORATION,
                image: draft.image.clone(),
                function: draft.method.clone(),
                databases: draft
                    .databases
                    .iter()
                    .map(|label| TaskDatabase { label: label.clone(), parameters: "{}".into() })
                    .collect(),
                receivers: vec![Receiver { organization_id: HOME, input_sha256: Digest::of(input.as_bytes()) }],
                initiator: RESEARCHER,
                user_id: None,
                parent: None,
                delegation: draft.delegation.clone(),
                nonce,
                issued_at: now(),
                not_after: draft.not_after,
            };
            Signed::sign(&manifest, key).unwrap()
        });
        let databases: Vec<Value> =
            draft.databases.iter().map(|label| json!({"label": label, "parameters": "{}"})).collect();
        let task =
            json!({"image": draft.image, "databases": databases, "init_org": link(RESEARCHER.get()), "parent": null});
        (task, input, manifest)
    }

    /// Records a task as it is.
    pub(crate) fn record(&self, task: Value, input: &str, manifest: Option<&SignedManifest>) -> i64 {
        self.state.record(task, input, manifest)
    }

    /// The run's report of its end, once there is one.
    pub(crate) async fn finished(&self, run: i64) -> Value {
        wait_for("the run to finish", || {
            let world = self.world();
            let is_final = |patch: &Value| patch["finished_at"].is_string();
            world.patches.iter().find(|(id, patch)| *id == run && is_final(patch)).map(|(_, patch)| patch.clone())
        })
        .await
    }

    /// Opens the result of a run as the researcher.
    pub(crate) fn open(&self, run: i64, text: &str) -> Value {
        let task = self.world().runs[&run]["task"]["id"].as_i64().unwrap();
        let manifest: SignedManifest = serde_json::from_value(self.world().tasks[&task]["manifest"].clone()).unwrap();
        let context = SealContext {
            direction: Direction::Result,
            collaboration_id: COLLABORATION,
            sender: HOME,
            receiver: RESEARCHER,
            nonce: manifest.read_unverified().unwrap().nonce,
        };
        let sealed = payload::from_text(text).unwrap();
        let content =
            sealed::open(&self.state.researcher_key, &self.state.home_key.public(), &context, &sealed).unwrap();
        serde_json::from_slice(&content).unwrap()
    }

    /// Asks for the end of a run that the node has taken up, as `POST /kill/task` does.
    pub(crate) fn ask_to_kill(&self, run: i64) {
        self.world().runs.get_mut(&run).unwrap()["kill_requested"] = json!(true);
        self.state.tell("kill_requested", json!({"run_id": run}));
    }

    /// Ends a run that the node has not taken up, as `POST /kill/task` does.
    pub(crate) fn kill(&self, run: i64) {
        self.world().runs.get_mut(&run).unwrap()["status"] = json!("killed by user");
        self.state.tell("kill_requested", json!({"run_id": run}));
    }
}

pub(crate) fn now() -> i64 {
    chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::UNIX_EPOCH + since_epoch()).timestamp()
}

fn since_epoch() -> Duration {
    #[expect(clippy::disallowed_methods, reason = "a test is a shell")]
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

/// Waits for a condition, with a deadline.
pub(crate) async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn link(id: i64) -> Value {
    json!({"id": id, "link": format!("/api/x/{id}"), "methods": ["GET"]})
}

type App = State<Arc<Shared>>;

impl Shared {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn tell(&self, kind: &str, mut data: Value) {
        let sequence = {
            let mut world = self.world();
            world.sequence += 1;
            world.sequence
        };
        data["sequence"] = json!(sequence);
        data["time"] = json!("2026-11-23T00:00:00.000000");
        data["kind"] = json!(kind);
        let _ = self.events.send(data.to_string());
    }

    fn record(&self, mut task: Value, input: &str, manifest: Option<&SignedManifest>) -> i64 {
        let run = {
            let mut world = self.world();
            let id = i64::try_from(world.tasks.len()).unwrap() + 1;
            let run = i64::try_from(world.runs.len()).unwrap() + 100;
            for (key, value) in [
                ("id", json!(id)),
                ("job_id", json!(1)),
                ("status", json!("pending")),
                ("name", json!("")),
                ("collaboration", link(COLLABORATION.get())),
                ("init_user", link(7)),
                ("children", json!("/api/task")),
                ("runs", json!("/api/run")),
                ("results", json!("/api/result")),
                ("manifest", json!(manifest)),
            ] {
                task[key] = value;
            }
            world.tasks.insert(id, task.clone());
            world.runs.insert(
                run,
                json!({"id": run, "status": "pending", "input": input, "blob_storage_used": false,
                    "organization": link(HOME.get()), "task": task, "ports": [], "result": null}),
            );
            run
        };
        self.tell("run_assigned", json!({"run_id": run, "node_id": 1, "job_id": 1}));
        run
    }
}

async fn only_when_up(State(state): App, request: Request, next: Next) -> Response {
    if state.down.load(Ordering::SeqCst) {
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"msg": "away", "status": 503}))).into_response();
    }
    next.run(request).await
}

fn problem(status: u16, msg: &str) -> Response {
    (StatusCode::from_u16(status).unwrap(), Json(json!({"msg": msg, "status": status}))).into_response()
}

async fn log_in(Json(body): Json<Value>) -> Response {
    if body["api_key"] != "the-key" {
        return problem(401, "Api key is not recognized!");
    }
    Json(json!({"access_token": "a", "refresh_token": "r", "refresh_url": "/api/token/refresh", "node_url": "/api/node/1"}))
        .into_response()
}

async fn container_token(State(state): App, Json(body): Json<Value>) -> Json<Value> {
    state.tokens_asked.store(true, Ordering::SeqCst);
    while state.tokens_held.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    use base64::Engine as _;
    let claims = json!({"sub": {"client_type": "container", "image": body["image"], "databases": [{"label": "default"}],
        "node_id": 1, "collaboration_id": 1, "organization_id": 1, "study_id": null, "store_id": null,
        "task_id": body["task_id"]}});
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
    Json(json!({"container_token": format!("h.{text}.s")}))
}

async fn node() -> Json<Value> {
    Json(json!({"id": 1, "name": "n", "type": "node", "organization": link(1), "collaboration": link(1)}))
}

async fn collaboration(State(state): App) -> Json<Value> {
    let encrypted = state.world().encrypted;
    Json(json!({"id": 1, "name": "trial", "encrypted": encrypted, "organizations": "/x", "nodes": "", "tasks": "",
        "studies": "", "algorithm_stores": ""}))
}

async fn organization(State(state): App, Path(id): Path<i64>) -> Json<Value> {
    let key = state.world().keys.get(&id).cloned().unwrap_or_default();
    Json(json!({"id": id, "name": format!("hospital-{id}"), "public_key": key, "collaborations": "", "nodes": "",
        "users": "", "tasks": "", "runs": "", "studies": ""}))
}

async fn organizations(state: App) -> Json<Value> {
    let Json(first) = organization(state.clone(), Path(1)).await;
    if state.world().is_small {
        return page(vec![first]);
    }
    let Json(second) = organization(state, Path(2)).await;
    page(vec![first, second])
}

async fn organization_update(state: App, Path(id): Path<i64>, Json(body): Json<Value>) -> (StatusCode, Json<Value>) {
    if state.world().keys_stay {
        let problem = json!({"msg": "You lack the permission to do that!", "code": "key_in_other_hands"});
        return (StatusCode::UNAUTHORIZED, Json(problem));
    }
    if let Some(key) = body["public_key"].as_str() {
        state.world().keys.insert(id, key.into());
    }
    (StatusCode::OK, organization(state, Path(id)).await)
}

async fn peers(State(state): App) -> Json<Value> {
    Json(json!({"data": state.world().peers}))
}

async fn follow(State(state): App) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let sequence = state.world().sequence;
    let hello =
        Event::default().event("hello").id(sequence.to_string()).data(json!({"sequence": sequence}).to_string());
    let events = BroadcastStream::new(state.events.subscribe())
        .take_while(move |_| {
            let up = !state.down.load(Ordering::SeqCst);
            async move { up }
        })
        .filter_map(|text| async move {
            let text = text.ok().filter(|text| !text.is_empty())?;
            Some(Ok(Event::default().data(text)))
        });
    Sse::new(futures::stream::once(async move { Ok(hello) }).chain(events))
}

fn page(items: Vec<Value>) -> Json<Value> {
    Json(json!({"data": items, "links": {}}))
}

async fn runs(State(state): App, Query(query): Query<BTreeMap<String, String>>) -> Json<Value> {
    state.lists.fetch_add(usize::from(query.contains_key("state")), Ordering::SeqCst);
    let world = state.world();
    let lie = world.lie.filter(|_| query.contains_key("task_id"));
    let is_open = |run: &Value| matches!(run["status"].as_str(), Some("pending" | "active" | "initializing"));
    let task = query.get("task_id").and_then(|id| id.parse::<i64>().ok());
    let task = task.map(|task| if lie == Some(Lie::Swapped) && task == 3 { 2 } else { task });
    let mut runs: Vec<Value> = world
        .runs
        .values()
        .filter(|run| !query.contains_key("state") || is_open(run))
        .filter(|run| task.is_none_or(|task| run["task"]["id"] == task))
        .cloned()
        .collect();
    match lie {
        Some(Lie::Dropped) => runs.clear(),
        Some(Lie::Doubled) => {
            let mut again = runs.clone();
            for run in &mut again {
                run["id"] = json!(run["id"].as_i64().unwrap() + 1000);
            }
            runs.extend(again);
        }
        Some(Lie::Misplaced) => runs.iter_mut().for_each(|run| run["organization"] = link(RESEARCHER.get())),
        _ => {}
    }
    page(runs)
}

async fn run(State(state): App, Path(id): Path<i64>) -> Response {
    state.world().runs.get(&id).map_or_else(|| problem(404, "no such run"), |run| Json(run.clone()).into_response())
}

async fn report(State(state): App, Path(id): Path<i64>, Json(patch): Json<Value>) -> Response {
    {
        let mut world = state.world();
        let Some(run) = world.runs.get_mut(&id) else { return problem(404, "no such run") };
        if !matches!(run["status"].as_str(), Some("pending" | "active" | "initializing")) {
            return problem(400, "Cannot update an already finished algorithm run!");
        }
        for key in ["status", "result", "log"] {
            if !patch[key].is_null() {
                run[key] = patch[key].clone();
            }
        }
        world.patches.push((id, patch.clone()));
    }
    state.tell("run_status", json!({"run_id": id, "status": patch["status"]}));
    run(State(state), Path(id)).await
}

async fn results(state: App, query: Query<BTreeMap<String, String>>) -> Json<Value> {
    let lie = state.world().lie;
    let Json(mut list) = runs(state, query).await;
    for run in list["data"].as_array_mut().unwrap() {
        *run = result_of(run);
        match lie {
            Some(Lie::Unsealed) => run["result"] = json!(payload::to_text(b"666")),
            Some(Lie::Withheld) => run["result"] = Value::Null,
            _ => {}
        }
    }
    list.into()
}

async fn result(State(state): App, Path(id): Path<i64>) -> Response {
    state.world().runs.get(&id).map_or_else(|| problem(404, "no such run"), |run| Json(result_of(run)).into_response())
}

fn result_of(run: &Value) -> Value {
    json!({"id": run["id"], "result": run["result"], "blob_storage_used": false,
        "run": link(run["id"].as_i64().unwrap()), "task": link(run["task"]["id"].as_i64().unwrap())})
}

/// A subtask, made by the container of a run.
async fn task_create(State(state): App, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    let known = state.world().idempotency.get(&key).copied();
    state.world().asked.push(body.clone());
    let id = match known {
        Some(id) => id,
        None => {
            let manifest: Option<SignedManifest> = serde_json::from_value(body["manifest"].clone()).unwrap();
            let databases: Vec<Value> = body["databases"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|database| json!({"label": database["label"], "parameters": "{}"}))
                .collect();
            // The last task of a user's.
            let parent = state.world().tasks.iter().rfind(|(_, task)| task["parent"].is_null()).map(|(id, _)| *id);
            let task = json!({"image": body["image"], "databases": databases, "init_org": link(HOME.get()),
                "parent": link(parent.unwrap())});
            let input = body["organizations"][0]["input"].as_str().unwrap();
            let run = state.record(task, input, manifest.as_ref());
            let id = state.world().runs[&run]["task"]["id"].as_i64().unwrap();
            state.world().idempotency.insert(key, id);
            id
        }
    };
    let world = state.world();
    let id = if world.lie == Some(Lie::Remade) { 2 } else { id };
    (StatusCode::CREATED, Json(world.tasks[&id].clone())).into_response()
}

async fn task(State(state): App, Path(id): Path<i64>) -> Response {
    let world = state.world();
    let Some(mut task) = world.tasks.get(&id).cloned() else { return problem(404, "no such task") };
    if world.lie == Some(Lie::Unsealed) && !task["parent"].is_null() {
        task["manifest"] = Value::Null;
    }
    Json(task).into_response()
}

async fn task_status(State(state): App, Path(id): Path<i64>) -> Json<Value> {
    let world = state.world();
    let status = world.runs.values().find(|run| run["task"]["id"] == id).map(|run| run["status"].clone());
    Json(json!({"status": status}))
}

async fn port(State(state): App, Json(body): Json<Value>) -> Response {
    let mut world = state.world();
    world.ports.push(body.clone());
    let id = world.ports.len();
    (StatusCode::CREATED, Json(json!({"id": id, "port": body["port"], "label": body["label"]}))).into_response()
}
