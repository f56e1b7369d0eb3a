//! Algorithm stores, played by a server of the test's own (contract A.11).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use twinmesh_coordinator::config::{Config, Size, Span};

use super::federation::{Federation, IMAGE, id, ids, plain, sealed};
use super::task::{encrypted_body, manifest, sign};

const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const REVIEWED: &str =
    "registry.example.org/image@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How a store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Well,
    /// Refuses to list servers; its algorithms are for everybody.
    RefusesButPublic,
    RefusesAndPrivate,
    SendsElsewhere,
    TalksTooMuch,
    NoJson,
    NeverAnswers,
}

/// What a store was asked.
#[derive(Debug, Clone)]
struct Asked {
    line: String,
    server_urls: [Option<String>; 2],
    authorization: Option<String>,
    body: Value,
}

#[derive(Clone)]
struct Shared {
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

pub(crate) struct AlgorithmStore {
    pub(crate) url: String,
    shared: Shared,
    server: JoinHandle<()>,
}

impl AlgorithmStore {
    pub(crate) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/api", listener.local_addr().unwrap());
        let shared = Shared { manner: Arc::new(Mutex::new(manner)), asked: Arc::default() };
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, shared, server }
    }

    fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// What it was asked since last time.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).collect()
    }

    async fn link(&self, federation: &Federation, collaboration: Value) -> i64 {
        let answer = federation.post(&federation.root, "/algorithmstore", self.body(collaboration)).await;
        id(&answer.expect(201))
    }

    pub(crate) fn body(&self, collaboration: Value) -> Value {
        json!({
            "name": "store", "algorithm_store_url": self.url, "server_url": "https://coordinator.example.org",
            "collaboration_id": collaboration, "force": true,
        })
    }
}

impl Drop for AlgorithmStore {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body: Bytes = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| parts.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = parts.uri.path().to_owned();
    shared.asked.lock().unwrap().push(Asked {
        line: format!("{} {}", parts.method, parts.uri),
        server_urls: [header("server_url"), header("server-url")],
        authorization: header("authorization"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let manner = *shared.manner.lock().unwrap();
    match (manner, path.as_str()) {
        (Manner::RefusesButPublic, "/api/policy/public") => Json(json!({"algorithm_view": "public"})).into_response(),
        (Manner::RefusesAndPrivate, "/api/policy/public") => Json(json!({"algorithm_view": "private"})).into_response(),
        (Manner::RefusesButPublic | Manner::RefusesAndPrivate, _) => {
            (StatusCode::FORBIDDEN, Json(json!({"msg": "You may not do that"}))).into_response()
        }
        (Manner::SendsElsewhere, _) => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://127.0.0.1:1/api")]).into_response()
        }
        (Manner::TalksTooMuch, _) => Json(json!({"data": ["x".repeat(100_000)]})).into_response(),
        (Manner::NoJson, _) => "<html>".into_response(),
        (Manner::NeverAnswers, _) => std::future::pending().await,
        (Manner::Well, "/api/algorithm") => {
            let query = parts.uri.query().unwrap_or_default();
            let known = query.contains("image%3A1") || query.contains("image%40sha256");
            let data =
                if known { json!([{"image": "registry.example.org/image", "digest": DIGEST}]) } else { json!([]) };
            Json(json!({"data": data, "links": {}})).into_response()
        }
        (Manner::Well, "/api/vantage6-server") if parts.method == Method::POST => {
            (StatusCode::CREATED, Json(json!({"id": 5}))).into_response()
        }
        (Manner::Well, "/api/vantage6-server") => Json(json!([{"id": 5}])).into_response(),
        (Manner::Well, _) => Json(json!({"msg": "done"})).into_response(),
    }
}

/// Two organizations in collaboration 1; organization 4 in collaboration 2.
async fn federation(settings: impl FnOnce(&mut Config)) -> Federation {
    let federation = Federation::with(2, false, |config| {
        config.algorithm_stores.allow_local = true;
        settings(config);
    })
    .await;
    let apart = federation.add_organizations("apart", 1).await;
    federation.add_collaboration("other", &apart, false).await;
    federation.add_user("apart", apart[0], &[7]).await;
    federation.add_user("chief", federation.members[0].organization, &[7]).await;
    federation
}

#[tokio::test]
async fn a_store_is_linked_changed_and_unlinked_as_the_stock_client_asks() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let root = federation.root.as_str();

    // The stock client sends a list of one.
    let link = federation.post(root, "/algorithmstore", store.body(json!([1]))).await.expect(201);
    assert_eq!(link["url"], store.url);
    assert_eq!(link["collaborations"], format!("/api/collaboration?algorithm_store_id={}", id(&link)));
    let asked = store.asked();
    assert_eq!(asked[0].line, "POST /api/vantage6-server");
    assert_eq!(asked[0].body, json!({"url": "https://coordinator.example.org/api", "force": true}));
    let ours = Some("https://coordinator.example.org/api".to_owned());
    assert_eq!(asked[0].server_urls, [ours.clone(), ours]);
    check_introduction(&federation, asked[0].authorization.as_deref(), "root").await;
    let path = format!("/algorithmstore/{}", id(&link));

    let again = federation.post(root, "/algorithmstore", store.body(json!(1))).await;
    assert_eq!(again.msg(), "Algorithm store is already available for this collaboration");
    again.expect(400);
    let found = federation.get(root, &format!("/collaboration?algorithm_store_id={}", id(&link))).await.expect(200);
    assert_eq!(ids(&found), [1]);
    let linked = federation.get(root, "/collaboration/1").await.expect(200)["algorithm_stores"].clone();
    assert_eq!(linked, "/api/algorithmstore?collaboration_id=1");

    federation.patch(root, &path, json!({"name": "renamed"})).await.expect(200);
    let to_all = federation.patch(root, &path, json!({"name": null, "collaboration_id": null})).await.expect(200);
    assert_eq!((&to_all["name"], &to_all["collaborations"]), (&json!("renamed"), &Value::Null));
    let found = federation.get(root, &format!("/collaboration?algorithm_store_id={}", id(&link))).await.expect(200);
    assert_eq!(ids(&found), [1, 2]);
    federation.post(root, "/algorithmstore", store.body(json!(2))).await.expect(400);
    let back = federation.patch(root, &path, json!({"collaboration_id": [2]})).await.expect(200);
    assert!(back["collaborations"].is_string());
    federation.patch(root, &path, json!({"algorithm_store_url": "https://x"})).await.expect(400);
    federation.patch(root, &path, json!({"collaboration_id": 99})).await.expect(404);
    federation.patch(root, &path, json!({"collaboration_id": [1, 2]})).await.expect(400);
    assert_eq!(store.lines(), [""; 0], "a store is asked about its link only");

    federation.delete(root, &path).await.expect(200);
    let asked = store.asked();
    for asked in &asked {
        check_introduction(&federation, asked.authorization.as_deref(), "root").await;
    }
    let query = "url=https%3A%2F%2Fcoordinator.example.org%2Fapi";
    let expected = [format!("GET /api/vantage6-server?{query}"), format!("DELETE /api/vantage6-server/5?{query}")];
    assert_eq!(asked.into_iter().map(|asked| asked.line).collect::<Vec<_>>(), expected);
    federation.get(root, &path).await.expect(404);
}

/// Whoever linked a store chose where tokens go: what goes there says whose it is, for minutes, and nothing else.
async fn check_introduction(federation: &Federation, authorization: Option<&str>, username: &str) {
    let token = authorization.unwrap().strip_prefix("Bearer ").unwrap();
    let known = federation.post(token, "/token/user/validate", Value::Null).await.expect(200);
    assert_eq!(known["username"], username);
    for path in ["/user", "/task", "/collaboration/1", "/event"] {
        assert_eq!(federation.get(token, path).await.expect(422)["code"], "token_kind", "{path}");
    }
    for path in ["/token/refresh", "/token/node/validate", "/task"] {
        let body = federation.task_body(&[0]);
        assert_eq!(federation.post(token, path, body).await.expect(422)["code"], "token_kind", "{path}");
    }
}

#[tokio::test]
async fn what_a_store_was_shown_is_worth_nothing_after_five_minutes() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    store.link(&federation, json!(1)).await;
    let authorization = store.asked()[0].authorization.clone();
    check_introduction(&federation, authorization.as_deref(), "root").await;
    federation.pass(Duration::from_secs(301));
    let token = authorization.as_deref().and_then(|text| text.strip_prefix("Bearer ")).unwrap();
    let late = federation.post(token, "/token/user/validate", Value::Null).await.expect(401);
    assert_eq!(late["code"], "token_expired");
    federation.post(&federation.root, "/token/user/validate", Value::Null).await.expect(200);
}

#[tokio::test]
async fn stores_on_this_machine_are_the_operators_to_allow() {
    let federation = Federation::new(1, false).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    for force in [true, false] {
        let mut body = store.body(json!(1));
        body["force"] = force.into();
        let answer = federation.post(&federation.root, "/algorithmstore", body).await;
        assert!(answer.msg().contains("`algorithm_stores.allow_local`"), "{}", answer.msg());
        answer.expect(400);
    }
    assert_eq!(store.lines(), [""; 0]);
}

#[tokio::test]
async fn a_collaboration_goes_whose_store_vouched_for_tasks_elsewhere() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let root = federation.root.as_str();
    let link = store.link(&federation, json!(1)).await;
    let mut body = federation.task_body(&[0]);
    body["store_id"] = link.into();
    let task = id(&federation.post(&federation.members[0].researcher, "/task", body).await.expect(201));
    federation.patch(root, &format!("/algorithmstore/{link}"), json!({"collaboration_id": 2})).await.expect(200);
    federation.delete(root, "/collaboration/2?delete_dependents=true").await.expect(200);
    federation.get(root, &format!("/algorithmstore/{link}")).await.expect(404);
    let task = federation.get(root, &format!("/task/{task}")).await.expect(200);
    assert_eq!((&task["algorithm_store"], &task["image"]), (&Value::Null, &json!(REVIEWED)));
}

#[tokio::test]
async fn a_store_for_all_collaborations_is_seen_one_by_one_as_in_lists() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let (ours, all) = (store.link(&federation, json!(1)).await, AlgorithmStore::start(Manner::Well).await);
    let all = all.link(&federation, Value::Null).await;
    let outside = federation.add_organizations("outside", 1).await;
    federation.add_user("outside", outside[0], &[5]).await;
    let outsider = federation.log_in("outside").await;
    assert_eq!(ids(&federation.get(&outsider, "/algorithmstore").await.expect(200)), [all]);
    federation.get(&outsider, &format!("/algorithmstore/{all}")).await.expect(200);
    federation.get(&outsider, &format!("/algorithmstore/{ours}")).await.expect(401);
}

#[tokio::test]
async fn a_link_to_all_collaborations_takes_the_place_of_others() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let first = store.link(&federation, json!(1)).await;
    let second = store.link(&federation, json!(2)).await;
    let mut body = federation.task_body(&[0]);
    body["store_id"] = first.into();
    let task = id(&federation.post(&federation.members[0].researcher, "/task", body).await.expect(201));
    store.asked();

    // The other link still needs us on the store's list.
    federation.delete(&federation.root, &format!("/algorithmstore/{second}")).await.expect(200);
    assert_eq!(store.lines(), [""; 0]);
    let all = store.link(&federation, Value::Null).await;
    let listed = federation.get(&federation.root, "/algorithmstore").await.expect(200);
    assert_eq!(ids(&listed), [all]);
    let found = federation.get(&federation.root, &format!("/task?store_id={all}")).await.expect(200);
    assert_eq!(ids(&found), [task]);
    assert_eq!(found["data"][0]["algorithm_store"]["link"], format!("/api/algorithmstore/{all}"));

    federation.delete(&federation.root, &format!("/algorithmstore/{all}")).await.expect(200);
    let task = federation.get(&federation.root, &format!("/task/{task}")).await.expect(200);
    assert_eq!((&task["algorithm_store"], &task["image"]), (&Value::Null, &json!(REVIEWED)));
}

#[tokio::test]
async fn stores_are_seen_and_changed_by_the_rules_of_collaborations() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let (researcher, node) = (&federation.members[0].researcher, &federation.members[0].node_token);
    let (chief, apart) = (federation.log_in("chief").await, federation.log_in("apart").await);

    federation.post(researcher, "/algorithmstore", store.body(json!(1))).await.expect(401);
    federation.post(&apart, "/algorithmstore", store.body(json!(1))).await.expect(401);
    federation.post(&chief, "/algorithmstore", store.body(Value::Null)).await.expect(401);
    federation.post(node, "/algorithmstore", store.body(json!(1))).await.expect(401);
    federation.post(&chief, "/algorithmstore", store.body(json!(99))).await.expect(404);
    assert_eq!(store.lines(), [""; 0], "nobody makes us ask who may not");
    let link = id(&federation.post(&chief, "/algorithmstore", store.body(json!([1]))).await.expect(201));
    let path = format!("/algorithmstore/{link}");

    for token in [researcher, node, &chief, &federation.root] {
        federation.get(token, &path).await.expect(200);
        assert_eq!(ids(&federation.get(token, "/algorithmstore").await.expect(200)), [link]);
    }
    federation.get(&apart, &path).await.expect(401);
    assert_eq!(ids(&federation.get(&apart, "/algorithmstore").await.expect(200)), [0; 0]);
    federation.get(&apart, "/algorithmstore?collaboration_id=1").await.expect(401);
    federation.get(researcher, "/algorithmstore?collaboration_id=99").await.expect(404);
    for (query, expected) in [
        ("collaboration_id=1", vec![link]),
        ("collaboration_id=2", vec![]),
        ("name=sto%25", vec![link]),
        ("name=x", vec![]),
        ("url=http://127%25/api", vec![link]),
        ("sort=-url,name", vec![link]),
    ] {
        let listed = federation.get(&federation.root, &format!("/algorithmstore?{query}")).await.expect(200);
        assert_eq!(ids(&listed), expected, "{query}");
    }
    federation.patch(researcher, &path, json!({"name": "x"})).await.expect(401);
    federation.patch(&apart, &path, json!({"name": "x"})).await.expect(401);
    federation.patch(&chief, &path, json!({"collaboration_id": 2})).await.expect(401);
    federation.patch(&chief, &path, json!({"collaboration_id": null})).await.expect(401);
    federation.delete(&apart, &path).await.expect(401);
    federation.patch(&federation.root, &path, json!({"collaboration_id": null})).await.expect(200);
    federation.get(&apart, &path).await.expect(200);
    federation.patch(&chief, &path, json!({"name": "x"})).await.expect(401);
    federation.delete(&chief, &path).await.expect(401);
}

#[tokio::test]
async fn a_task_gets_the_image_that_its_store_reviewed() {
    let federation = federation(|_| {}).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let link = store.link(&federation, json!(1)).await;
    let foreign = store.link(&federation, json!(2)).await;
    store.asked();
    let researcher = federation.members[0].researcher.as_str();
    let body = |store: i64, image: &str| {
        let mut body = federation.task_body(&[0, 1]);
        body["store_id"] = store.into();
        body["image"] = image.into();
        body
    };
    federation.post(researcher, "/task", body(99, IMAGE)).await.expect(400);
    federation.post(researcher, "/task", body(foreign, IMAGE)).await.expect(403);
    assert_eq!(store.lines(), [""; 0], "a store is not asked about what is refused anyway");
    let unknown = federation.post(researcher, "/task", body(link, "registry.example.org/other:1")).await;
    assert!(unknown.msg().contains("no algorithm with image `registry.example.org/other:1`"), "{}", unknown.msg());
    unknown.expect(400);
    store.asked();

    let key = [("idempotency-key", "once")];
    let ask = || federation.ask(Method::POST, "/task", Some(researcher), Some(body(link, IMAGE)), &key);
    let task = ask().await.expect(201);
    assert_eq!(task["image"], REVIEWED);
    assert_eq!(task["algorithm_store"]["id"], link);
    let asked = store.asked();
    assert_eq!(asked[0].line, "GET /api/algorithm?image=registry.example.org%2Fimage%3A1");
    let name = format!("main-{}", federation.members[0].organization);
    check_introduction(&federation, asked[0].authorization.as_deref(), &name).await;
    assert_eq!(asked[0].server_urls[1].as_deref(), Some("https://coordinator.example.org/api"));
    assert_eq!(id(&ask().await.expect(200)), id(&task));
    assert_eq!(store.lines(), [""; 0], "a repeated request asks nobody");

    let token = json!({"task_id": id(&task), "image": REVIEWED});
    let token = federation.post(&federation.members[0].node_token, "/token/container", token).await.expect(200);
    let container = token["container_token"].as_str().unwrap();
    let body = json!({
        "image": REVIEWED, "collaboration_id": 1, "store_id": link,
        "organizations": [{"id": federation.members[1].organization, "input": plain()}],
    });
    let subtask = federation.post(container, "/task", body).await.expect(201);
    assert_eq!((&subtask["image"], &subtask["algorithm_store"]["id"]), (&json!(REVIEWED), &json!(link)));
    assert_eq!(store.lines(), [""; 0], "a subtask has what its parent has");
}

#[tokio::test]
async fn a_signed_task_must_name_the_image_that_its_store_reviewed() {
    let federation = Federation::with(2, true, |config| config.algorithm_stores.allow_local = true).await;
    let store = AlgorithmStore::start(Manner::Well).await;
    let link = store.link(&federation, json!(1)).await;
    let asking = &federation.members[0];
    let inputs = vec![(federation.members[1].organization, sealed())];
    let signed = manifest(&federation, &inputs);
    let mut body = encrypted_body(&federation, &inputs, sign(&signed, &asking.key));
    body["store_id"] = link.into();
    let refused = federation.post(&asking.researcher, "/task", body.clone()).await;
    assert!(refused.msg().contains(REVIEWED) && refused.msg().contains("sign it"), "{}", refused.msg());
    refused.expect(400);

    let mut signed = signed;
    signed.image = format!("{IMAGE}@{DIGEST}");
    body["image"] = signed.image.clone().into();
    body["manifest"] = sign(&signed, &asking.key);
    // With its tag it is not yet what was reviewed.
    federation.post(&asking.researcher, "/task", body.clone()).await.expect(400);
    signed.image = REVIEWED.into();
    body["image"] = signed.image.clone().into();
    body["manifest"] = sign(&signed, &asking.key);
    let task = federation.post(&asking.researcher, "/task", body.clone()).await.expect(201);
    assert_eq!((&task["image"], &task["manifest"]), (&json!(REVIEWED), &body["manifest"]));
    store.asked();
    assert_eq!(id(&federation.post(&asking.researcher, "/task", body).await.expect(200)), id(&task));
    assert_eq!(store.lines(), [""; 0]);
}

#[tokio::test]
async fn a_store_that_does_not_do_what_it_is_asked_is_not_linked() {
    let federation = federation(|config| {
        config.algorithm_stores.timeout = Span(Duration::from_millis(300));
        config.algorithm_stores.answer = Size(4096);
    })
    .await;
    let root = federation.root.as_str();
    for (manner, words) in [
        (Manner::RefusesAndPrivate, "You may not do that"),
        (Manner::SendsElsewhere, "sends us elsewhere"),
        (Manner::TalksTooMuch, "longer than 4096 bytes"),
        (Manner::NeverAnswers, "cannot be reached"),
    ] {
        let store = AlgorithmStore::start(manner).await;
        let answer = federation.post(root, "/algorithmstore", store.body(json!(1))).await;
        assert!(answer.msg().contains(words), "{manner:?}: {}", answer.msg());
        answer.expect(400);
        assert_eq!(store.asked()[0].line, "POST /api/vantage6-server");
    }
    let closed = AlgorithmStore::start(Manner::Well).await;
    let body = closed.body(json!(1));
    drop(closed);
    let answer = federation.post(root, "/algorithmstore", body).await;
    assert!(answer.msg().contains("cannot be reached"), "{}", answer.msg());
    assert_eq!(ids(&federation.get(root, "/algorithmstore").await.expect(200)), [0; 0]);

    let store = AlgorithmStore::start(Manner::RefusesButPublic).await;
    let link = store.link(&federation, json!(1)).await;
    for manner in [Manner::NoJson, Manner::TalksTooMuch, Manner::SendsElsewhere, Manner::NeverAnswers] {
        store.behave(manner);
        let mut body = federation.task_body(&[0]);
        body["store_id"] = link.into();
        federation.post(&federation.members[0].researcher, "/task", body).await.expect(400);
    }
    let answer = federation.delete(root, &format!("/algorithmstore/{link}")).await;
    assert!(answer.body["detail"].as_str().unwrap().contains("force=true"), "{}", answer.body);
    answer.expect(400);
    federation.delete(root, &format!("/algorithmstore/{link}?force=true")).await.expect(200);
}

#[tokio::test]
async fn what_this_machine_asks_is_bounded() {
    let federation = federation(|_| {}).await;
    let root = federation.root.as_str();
    let store = AlgorithmStore::start(Manner::Well).await;
    let with = |field: &str, value: Value| {
        let mut body = store.body(json!(1));
        body[field] = value;
        body
    };
    for (body, words) in [
        (with("force", json!(false)), "'force' flag"),
        (with("force", Value::Null), "'force' flag"),
        (with("algorithm_store_url", json!("file:///etc/passwd")), "is not the address"),
        (with("algorithm_store_url", json!("http://169.254.169.254/latest")), "is refused"),
        (with("algorithm_store_url", json!("http://user:secret@127.0.0.1/api")), "is not the address"),
        (with("server_url", Value::Null), "'server_url' key is required"),
        (with("server_url", json!("nonsense")), "'server_url' key is required"),
        (with("name", json!("")), "incorrect"),
        (with("colour", json!("")), "incorrect"),
    ] {
        let answer = federation.post(root, "/algorithmstore", body.clone()).await;
        assert!(answer.msg().contains(words), "{body}: {}", answer.msg());
        answer.expect(400);
    }
    assert_eq!(store.lines(), [""; 0]);

    let strict = Federation::with(1, false, |config| {
        config.algorithm_stores.allow_local = true;
        config.algorithm_stores.hosts = vec!["store.example.org".into()];
        config.algorithm_stores.server_url = Some("https://ours.example.org".into());
    })
    .await;
    let answer = strict.post(&strict.root, "/algorithmstore", store.body(json!(1))).await;
    assert!(answer.msg().contains("among the hosts"), "{}", answer.msg());
    answer.expect(400);
    assert_eq!(store.lines(), [""; 0]);
}
