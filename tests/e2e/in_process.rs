//! A federation within this process: the same ledger, keys, sealing and overlay, with algorithms as threads.

use camino::Utf8Path;
use serde_json::{Value, json};
use twinmesh_client::researcher::NewTaskRequest;
use twinmesh_netsim::data::{GBSG2, gbsg2_reference};
use twinmesh_netsim::enrolment::{DATABASE, Plan};
use twinmesh_netsim::in_process::{InProcess, ThreadRun};
use twinmesh_protocol::environment::decode_value;
use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::wire::NewTaskDatabase;

const FORMULA: &str = "cens ~ age + tsize + pnodes + horTh";

async fn ask(federation: &InProcess, function: &str, organizations: &[OrganizationId], kwargs: Value) -> Vec<Value> {
    let Value::Object(kwargs) = kwargs else { panic!("arguments are given by name") };
    let request = NewTaskRequest {
        organizations: organizations.to_vec(),
        kwargs,
        databases: vec![NewTaskDatabase { label: DATABASE.into(), ..NewTaskDatabase::default() }],
        ..NewTaskRequest::new(federation.collaboration, twinmesh_algorithms::IMAGE, function)
    };
    let task = federation.researcher.task(request).await.unwrap();
    federation.researcher.wait(task.id).await.unwrap();
    let results = federation.researcher.results(task.id).await.unwrap();
    results.contents().unwrap().into_iter().map(|(_, content)| content.json().unwrap()).collect()
}

async fn central_and_twins(encrypted: bool) {
    let home = tempfile::tempdir().unwrap();
    let plan = Plan { encrypted, ..Plan::new(Utf8Path::from_path(home.path()).unwrap(), GBSG2) };
    let federation = InProcess::start(&plan).await.unwrap();
    let everybody: Vec<OrganizationId> = federation.members.iter().map(|member| member.organization).collect();
    let pooled = gbsg2_reference()["logistic cens ~ age+tsize+pnodes+horTh"]["deviance"].as_f64().unwrap();
    for (function, organizations) in [("logistic", &everybody[1..2]), ("logistic_twin", &everybody[..])] {
        for fit in ask(&federation, function, organizations, json!({"formula": FORMULA})).await {
            let deviance = fit["deviance"].as_f64().unwrap();
            assert!((deviance - pooled).abs() < 1e-9 * pooled, "{function}: {deviance}");
        }
    }
    for total in ask(&federation, "secure_sum_twin", &everybody, json!({"column": "pnodes"})).await {
        assert_eq!(total["total"], 3437);
    }
    federation.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_federation_works_within_one_process() {
    central_and_twins(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_federation_works_within_one_process() {
    central_and_twins(false).await;
}

/// Answers with what it was asked, as `{"said": …}`.
fn echo(run: ThreadRun) -> Result<Vec<u8>, String> {
    let path = run.environment.get("INPUT_FILE").ok_or("no input")?;
    let path = decode_value(path).map_err(|error| error.to_string())?;
    let input = std::fs::read(path).map_err(|error| error.to_string())?;
    let input: Value = serde_json::from_slice(&input).map_err(|error| error.to_string())?;
    Ok(json!({"said": input["kwargs"]["say"]}).to_string().into_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_inputs_and_results_go_by_the_object_store_and_small_ones_in_the_row() {
    for encrypted in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let directory = Utf8Path::from_path(home.path()).unwrap();
        let plan = Plan { encrypted, ..Plan::new(directory, GBSG2) };
        let federation = InProcess::start_with(&plan, echo).await.unwrap();
        let everybody: Vec<OrganizationId> = federation.members.iter().map(|member| member.organization).collect();
        for (length, large) in [(10, false), (5 << 20, true)] {
            let said = "x".repeat(length);
            let request = NewTaskRequest {
                organizations: everybody.clone(),
                kwargs: serde_json::Map::from_iter([("say".to_owned(), said.clone().into())]),
                ..NewTaskRequest::new(federation.collaboration, twinmesh_algorithms::IMAGE, "summary_partial")
            };
            let task = federation.researcher.task(request).await.unwrap();
            federation.researcher.wait(task.id).await.unwrap();
            for run in federation.root.run_list(task.id).await.unwrap() {
                assert_eq!(run.blob_storage_used, large, "{:?}", run.log);
                let result = federation.root.result_get(run.id).await.unwrap();
                assert_eq!(result.blob_storage_used, large);
                assert!(result.result.unwrap().len() < 1000);
            }
            let results = federation.researcher.results(task.id).await.unwrap().contents().unwrap();
            assert_eq!(results.len(), everybody.len());
            for (_, content) in results {
                assert!(content.json::<Value>().unwrap() == json!({"said": said}), "what was said comes back");
            }
        }
        federation.stop().await;
        // What was delivered is not kept.
        let left: Vec<_> = spooled(home.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The files in nodes' spools.
fn spooled(directory: &std::path::Path) -> impl Iterator<Item = std::path::PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.parent().is_some_and(|parent| parent.ends_with("spool")) {
                found.push(path);
            }
        }
    }
    found.into_iter()
}
