//! The log: for programs too, and without what must not be told.

use std::time::Duration;

use serde_json::{Value, json};

use super::{PASSWORD, program};
use crate::database::database;

#[tokio::test]
async fn lines_are_objects_with_request_ids_and_hold_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = program(directory.path(), &["start", "--log", "trace"]).await;
    command.env("COORDINATOR__LOG_FORMAT", "json").env("TWINMESH_ROOT_PASSWORD", PASSWORD);
    let path = directory.path().join("log");
    let mut started = command.stderr(std::fs::File::create(&path).unwrap()).spawn().unwrap();
    let ready = directory.path().join("coordinator.json");
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !ready.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.expect("the coordinator becomes ready");
    let told: Value = serde_json::from_slice(&std::fs::read(&ready).unwrap()).unwrap();
    let client = reqwest_client();
    let url = |path: &str| format!("{}{path}", told["url"].as_str().unwrap());

    let wrong = "Wrong-Horse-2";
    for password in [wrong, PASSWORD] {
        let body = json!({"username": "root", "password": password});
        client.post(url("/token/user")).json(&body).send().await.unwrap();
    }
    let tokens: Value = client
        .post(url("/token/user"))
        .json(&json!({"username": "root", "password": PASSWORD}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let (token, refresh) = (tokens["access_token"].as_str().unwrap(), tokens["refresh_token"].as_str().unwrap());
    let made = |path: &'static str, body: Value| client.post(url(path)).bearer_auth(token).json(&body).send();
    let organization: Value = made("/organization", json!({"name": "hospital"})).await.unwrap().json().await.unwrap();
    let id = organization["id"].as_i64().unwrap();
    let collaboration = json!({"name": "study", "organization_ids": [1, id], "encrypted": false});
    let collaboration: Value = made("/collaboration", collaboration).await.unwrap().json().await.unwrap();
    let node = json!({"organization_id": id, "collaboration_id": collaboration["id"]});
    let node: Value = made("/node", node).await.unwrap().json().await.unwrap();
    let key = node["api_key"].as_str().unwrap();
    client.post(url("/token/node")).json(&json!({"api_key": key})).send().await.unwrap();
    // The payload in clear, as a plain collaboration has it.
    let input = "cGF0aWVudC00NzExLWlzLWlsbA==";
    let task = json!({
        "name": "ask", "image": "twinmesh/builtin:0.1.0", "collaboration_id": collaboration["id"],
        "organizations": [{"id": id, "input": input}],
    });
    let task = made("/task", task).await.unwrap();
    assert_eq!(task.status(), 201);
    let request_id = task.headers()["x-request-id"].to_str().unwrap().to_owned();
    client.post(url("/token/refresh")).bearer_auth(refresh).send().await.unwrap();

    let pid = started.id().unwrap().to_string();
    let asked = tokio::process::Command::new("sh").args(["-c", &format!("kill -TERM {pid}")]).status().await.unwrap();
    assert!(asked.success());
    started.wait().await.unwrap();
    let log = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> =
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
    let created = lines.iter().find(|line| line["message"] == "task created").expect("the task is told of");
    assert_eq!(created["level"], "INFO");
    assert!(created["task.id"].is_string() && created["timestamp"].is_string(), "{created}");
    let spans = created["spans"].as_array().unwrap();
    assert!(spans.iter().any(|span| span["request.id"] == request_id.as_str()), "{created}");
    let access = lines.iter().find(|line| line["target"] == "twinmesh_coordinator::access" && line["status"] == 201);
    assert!(access.unwrap()["duration_ms"].is_number());

    let database = database(directory.path()).await.url.map(|url| url.reveal().to_owned());
    let mut secrets = vec![PASSWORD, wrong, token, refresh, key, input, "patient-4711"];
    secrets.extend(database.as_deref().and_then(|url| url.split([':', '@']).nth(2)));
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "the log holds a secret");
    }
}

fn reqwest_client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}
