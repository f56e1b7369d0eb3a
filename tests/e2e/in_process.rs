//! A federation within this process: the same ledger, keys, sealing and overlay, with algorithms as threads.

use camino::Utf8Path;
use serde_json::{Value, json};
use twinmesh_client::researcher::NewTaskRequest;
use twinmesh_netsim::data::{GBSG2, gbsg2_reference};
use twinmesh_netsim::enrolment::{DATABASE, Plan};
use twinmesh_netsim::in_process::InProcess;
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
