//! A collaboration of organizations with RSA keys, asked as the stock client asks: through the real coordinator, with
//! envelopes and without manifests.

use camino::Utf8Path;
use serde_json::{Value, json};
use twinmesh_client::api::{ApiError, TaskFilter};
use twinmesh_netsim::data::GBSG2;
use twinmesh_netsim::enrolment::{DATABASE, Plan};
use twinmesh_netsim::in_process::InProcess;
use twinmesh_protocol::envelope;
use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::key::{PrivateKey, PublicKey};
use twinmesh_protocol::payload::{self, PayloadForm, classify};
use twinmesh_protocol::rsa::RsaKey;
use twinmesh_protocol::wire::{NewTask, RunResult, Task};

/// Made with `openssl genrsa -traditional 2048`, as vantage6's tools write keys.
const KEYS: [&str; 3] = [include_str!("rsa_1.pem"), include_str!("rsa_2.pem"), include_str!("rsa_3.pem")];

fn key(number: usize) -> RsaKey {
    match PrivateKey::from_pem(KEYS[number]).unwrap() {
        PrivateKey::Rsa(key) => key,
        PrivateKey::Ed25519(_) => panic!("the file holds an RSA key"),
    }
}

/// A federation whose hospitals have replaced the keys that they were given by RSA keys.
async fn federation(directory: &Utf8Path) -> InProcess {
    let mut plan = Plan::new(directory, GBSG2);
    assert_eq!(plan.nodes, KEYS.len());
    // `root` is organization 1.
    let pins: String =
        (0..KEYS.len()).map(|at| format!("{} = \"\"\"{}\"\"\"\n", at + 2, key(at).public().pem())).collect();
    for (number, text) in KEYS.iter().enumerate() {
        let file = directory.join(format!("rsa_{number}.pem"));
        std::fs::write(&file, text).unwrap();
        let extra = format!("private_key = \"{file}\"\n[policies]\nrequire_signed_tasks = false\n[pins]\n{pins}");
        plan.extra_configuration.insert(number, extra);
    }
    InProcess::start(&plan).await.unwrap()
}

/// Creates a task as the stock client does: reads each organization's key, encrypts to it, posts; then waits and reads the
/// results as it does.
async fn ask(federation: &InProcess, method: &str, organizations: &[OrganizationId], kwargs: Value) -> Vec<Value> {
    let content = json!({"method": method, "kwargs": kwargs}).to_string();
    let mut inputs = Vec::new();
    for id in organizations {
        let organization = federation.researcher.api().organization_get(*id).await.unwrap();
        let shown = PublicKey::from_api(&organization.public_key).unwrap();
        let PublicKey::Rsa(shown) = shown else { panic!("organization {id} shows another kind of key") };
        inputs.push(json!({"id": id, "input": envelope::seal(&shown, content.as_bytes()).unwrap()}));
    }
    let body = json!({"name": "stock", "image": twinmesh_algorithms::IMAGE, "description": "", "organizations": inputs,
        "collaboration_id": federation.collaboration, "databases": [{"label": DATABASE}]});
    let task = post(federation, method, body).await.unwrap();
    assert!(task.manifest.is_none());
    federation.researcher.wait(task.id).await.unwrap();
    let results = federation.researcher.api().result_list(task.id).await.unwrap();
    assert_eq!(results.len(), organizations.len());
    let open = |result: RunResult| {
        let text = result.result.unwrap_or_default();
        assert_eq!(classify(&text), PayloadForm::Vantage6Envelope);
        serde_json::from_slice(&envelope::open(&key(0), &text).unwrap()).unwrap()
    };
    results.into_iter().map(open).collect()
}

async fn post(federation: &InProcess, key: &str, body: Value) -> Result<Task, ApiError> {
    let new: NewTask = serde_json::from_value(body).unwrap();
    federation.researcher.api().task_create(&new, key).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_organizations_answer_a_stock_client_in_envelopes() {
    let home = tempfile::tempdir().unwrap();
    let federation = federation(Utf8Path::from_path(home.path()).unwrap()).await;
    let everybody: Vec<OrganizationId> = federation.members.iter().map(|member| member.organization).collect();

    let kwargs = json!({"columns": ["age"]});
    let rows_of = |answer: &Value| answer["rows"].as_u64().unwrap();
    let parts = ask(&federation, "summary_partial", &everybody, kwargs.clone()).await;
    let rows = GBSG2.trim_end().lines().count() as u64 - 1;
    assert_eq!(parts.iter().map(rows_of).sum::<u64>(), rows);

    // A central function asks the others by its node, in envelopes that nobody signs, and reads what they answer.
    let whole = ask(&federation, "summary", &everybody[1..2], kwargs.clone()).await;
    assert_eq!(rows_of(&whole[0]), rows);
    let tasks = federation.researcher.api().task_list(&TaskFilter::default()).await.unwrap();
    let children: Vec<&Task> = tasks.iter().filter(|task| task.parent.is_some()).collect();
    assert!(children.len() == 1 && children[0].manifest.is_none(), "{children:?}");

    // What is sent in the open is refused, as the contract says (A.8.1).
    let input = payload::to_text(json!({"method": "summary", "kwargs": kwargs}).to_string().as_bytes());
    let body = json!({"image": twinmesh_algorithms::IMAGE, "organizations": [{"id": everybody[0], "input": input}],
        "collaboration_id": federation.collaboration});
    let refused = post(&federation, "in the open", body).await.unwrap_err();
    assert_eq!(refused.status(), Some(400), "{refused}");
    federation.stop().await;
}
