//! What a run can get out of its gateway, and what a dishonest coordinator can get in.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
};

use serde_json::{Value, json};
use twinmesh_algorithms::sdk::{Host, control::Control, gateway::GatewayError, stream::Stream};
use twinmesh_node::OnStop;
use twinmesh_protocol::{id::TaskId, payload};

use crate::{
    Hospital,
    coordinator::{Coordinator, HOME, Lie},
    may_call,
};

/// Makes two subtasks and answers their results, or why there are none.
pub(crate) fn ask_twice(host: &Host) -> Value {
    let ask = |n: i64| {
        let task = host.gateway().create_subtask("echo", &json!({"n": n}), &[HOME])?;
        read(host, task)
    };
    ask(1).and_then(|first| Ok(json!([first, ask(2)?]))).unwrap_or_else(|error| json!(error.to_string()))
}

/// Reads the results of a task that it is told of.
pub(crate) fn steal(host: &Host) -> Value {
    let task = TaskId::new(host.input().kwargs["task"].as_i64().unwrap());
    read(host, task).unwrap_or_else(|error| json!(error.to_string()))
}

fn read(host: &Host, task: TaskId) -> Result<Value, GatewayError> {
    let results = host.gateway().results::<Value>(task)?;
    Ok(results.into_iter().map(|result| result.value).collect())
}

/// Asks the gateway for each target and answers with the status codes.
pub(crate) fn ask_raw(host: &Host, control: &Control) -> Result<Value, String> {
    let token = std::fs::read_to_string(host.variable("TOKEN_FILE").unwrap()).map_err(|error| error.to_string())?;
    let targets = host.input().kwargs["targets"].as_array().unwrap();
    let ask = |target: &Value| {
        let mut stream = control.gateway().map_err(|error| error.to_string())?;
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n",
            target.as_str().unwrap()
        );
        let mut answer = String::new();
        stream.write_all(request.as_bytes()).map_err(|error| error.to_string())?;
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        answer.get(9..12).map(str::to_owned).ok_or_else(|| format!("no answer: {answer}"))
    };
    Ok(json!(targets.iter().map(ask).collect::<Result<Vec<String>, String>>()?))
}

/// Sends one request for a subtask three times, as if its answer were lost, and one without a key two times.
pub(crate) fn ask_again(host: &Host, control: &Control) -> Result<Value, String> {
    let token = std::fs::read_to_string(host.variable("TOKEN_FILE").unwrap()).map_err(|error| error.to_string())?;
    let input = payload::to_text(br#"{"method": "echo", "args": [], "kwargs": {}}"#);
    let body = json!({"image": host.claims().image, "organizations": [{"id": HOME, "input": input}]}).to_string();
    let ask = |key: &str| {
        let mut stream = control.gateway().map_err(|error| error.to_string())?;
        let head = format!(
            "POST /task HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{key}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).map_err(|error| error.to_string())?;
        Ok::<_, String>(stream)
    };
    let read = |mut stream: Stream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let task: Value = serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))?;
        Ok::<_, String>(task["id"].clone())
    };
    let (first, second) = (ask("idempotency-key: k\r\n")?, ask("idempotency-key: k\r\n")?);
    let mut tasks = vec![read(first)?, read(second)?, read(ask("idempotency-key: k\r\n")?)?];
    tasks.extend([read(ask("")?)?, read(ask("")?)?]);
    Ok(json!(tasks))
}

/// What a function answers that may call `echo` and `rows`.
async fn run(coordinator: &Coordinator, method: &str, kwargs: Value) -> Value {
    let mut draft = coordinator.draft(method);
    draft.kwargs = kwargs;
    draft.delegation = may_call(&["echo", "rows"]);
    let run = coordinator.post(&draft);
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    let text = report["result"].as_str().unwrap();
    if coordinator.world_is_encrypted() {
        return coordinator.open(run, text);
    }
    serde_json::from_slice(&payload::from_text(text).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reads_the_results_of_its_own_subtasks_only() {
    for encrypted in [true, false] {
        let hospital = Hospital::new(encrypted).await;
        let node = hospital.start().await;
        let coordinator = &hospital.coordinator;
        run(coordinator, "central", json!({"call": "rows"})).await;
        // The second task is the first run's subtask, whose result was sealed to this organization.
        let answer = run(coordinator, "steal", json!({"task": 2})).await;
        assert!(answer.as_str().is_some_and(|text| text.contains("403")), "{answer}");
        let targets = ["/result?task_id=2", "/result/101", "/result", "/result?task_id=99"];
        let answers = run(coordinator, "raw", json!({"targets": targets})).await;
        assert_eq!(answers, json!(["403", "403", "400", "403"]));
        node.shutdown(OnStop::KillRuns).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_subtasks_never_reaches_a_central_function() {
    for (lie, reason) in [
        (Lie::Unsealed, "not sealed"),
        (Lie::Swapped, "of which it is not"),
        (Lie::Dropped, "lists runs of none"),
        (Lie::Doubled, "lists runs of 1, 1"),
        (Lie::Misplaced, "lists runs of 2"),
        (Lie::Withheld, "is missing"),
        (Lie::Remade, "another subtask"),
    ] {
        let hospital = Hospital::new(true).await;
        let node = hospital.start().await;
        let coordinator = &hospital.coordinator;
        coordinator.world().lie = Some(lie);
        let answer = run(coordinator, "central_twice", json!({})).await;
        assert!(answer.as_str().is_some_and(|text| text.contains(reason)), "{lie:?}: {answer}");
        node.shutdown(OnStop::KillRuns).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subtasks_and_their_results_belong_together() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    assert_eq!(run(coordinator, "central_twice", json!({})).await, json!([[{"n": 1}], [{"n": 2}]]));
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_key_makes_one_subtask_however_often_it_is_sent() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    assert_eq!(run(coordinator, "again", json!({})).await, json!([2, 2, 2, 3, 4]));
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_run_writes_reaches_the_coordinator_in_clear() {
    let hospital = Hospital::new(true).await;
    let node = hospital.start().await;
    let coordinator = &hospital.coordinator;
    run(coordinator, "central", json!({"call": "rows"})).await;
    let asked = coordinator.world().asked[0].clone();
    assert_eq!(asked["name"], "subtask");
    let keys: BTreeSet<&str> = asked.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["collaboration_id", "databases", "image", "manifest", "name", "organizations"].into());
    let targets = [
        "/organization?name=secret",
        "/organization?collaboration_id=secret",
        "/task/1?secret=1",
        "/version?secret",
        "/task/01",
        "/organization?collaboration_id=1",
    ];
    let answers = run(coordinator, "raw", json!({"targets": targets})).await;
    assert_eq!(answers, json!(["400", "400", "400", "400", "403", "200"]));
    node.shutdown(OnStop::KillRuns).await;
}
