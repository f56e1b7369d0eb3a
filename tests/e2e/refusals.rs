//! What a coordinator that lies, a wrong key and other mishaps lead to: each has its clear, named outcome.

use std::time::Duration;

use serde_json::json;
use sqlx::SqlitePool;
use twinmesh_client::api::{Api, ApiError, ApiOptions};
use twinmesh_client::researcher::{NewTaskRequest, RunError, TaskResults};
use twinmesh_netsim::federation::{DATABASE, RESEARCHER};
use twinmesh_protocol::digest::Digest;
use twinmesh_protocol::id::{CollaborationId, OrganizationId, TaskId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::manifest::{MANIFEST_VERSION, Nonce, Receiver, TaskManifest};
use twinmesh_protocol::payload;
use twinmesh_protocol::sealed::{Direction, SealContext, seal};
use twinmesh_protocol::signed::Signed;
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::wire::{NewTask, NewTaskDatabase, NewTaskOrganization, TaskDatabase};

use crate::lab::{Lab, only};

/// A coordinator that alters a task between the researcher and the node, in each way that matters.
#[tokio::test]
async fn a_lying_coordinator_is_refused_by_the_nodes_and_the_reason_is_named() {
    let mut lab = Lab::start().await;
    let database = lab.coordinator_database().await;
    lies(&mut lab, &database).await;
    database.close().await;
    lab.end().await;
}

async fn lies(lab: &mut Lab, database: &SqlitePool) {
    let first = lab.post_small().await;
    assert!(only(lab.finish(first.id).await)["columns"]["age"]["count"].is_number(), "an honest task is run");

    let alter: [(&str, &'static str); 5] = [
        ("not signed", "UPDATE task SET manifest = NULL, manifest_digest = NULL WHERE id = $1"),
        ("image", "UPDATE task SET image = 'evil/image:1' WHERE id = $1"),
        // Another signed task's manifest, to make this one look signed.
        (
            "not the one that was signed",
            "UPDATE task SET manifest = (SELECT manifest FROM task WHERE id = (SELECT min(id) FROM task)) WHERE id = $1",
        ),
        ("what is asked of them", "UPDATE task_database SET parameters = '{\"query\":\"all\"}' WHERE task_id = $1"),
        (
            "not the one that was signed",
            "UPDATE run SET input = (SELECT input FROM run WHERE id = (SELECT min(id) FROM run)) WHERE task_id = $1",
        ),
    ];
    for (reason, statement) in alter {
        lab.kill_node(0).await;
        let task = lab.post_small().await;
        let changed = sqlx::query(statement).bind(task.id.get()).execute(database).await.unwrap().rows_affected();
        assert_eq!(changed, 1, "{statement}");
        lab.start_node(0);
        refused(lab, task.id, reason).await;
    }

    // One letter of the signed bytes.
    lab.kill_node(0).await;
    let task = lab.post_small().await;
    let mut signed = serde_json::to_value(task.manifest.as_ref().unwrap()).unwrap();
    let body = payload::from_text(signed["body"].as_str().unwrap()).unwrap();
    let body = String::from_utf8(body).unwrap().replace("summary_partial", "summary_pertial");
    signed["body"] = payload::to_text(body.as_bytes()).into();
    let edit = sqlx::query("UPDATE task SET manifest = $2 WHERE id = $1").bind(task.id.get()).bind(signed.to_string());
    edit.execute(database).await.unwrap();
    lab.start_node(0);
    refused(lab, task.id, "altered or forged").await;

    // A run that was carried out and delivered, as if it never had been.
    lab.kill_node(0).await;
    let statement = "UPDATE run SET status = 'pending', started_at = NULL, finished_at = NULL, result = NULL, log = NULL WHERE task_id = $1";
    assert_eq!(sqlx::query(statement).bind(first.id.get()).execute(database).await.unwrap().rows_affected(), 1);
    lab.start_node(0);
    refused(lab, first.id, "accepted before").await;

    // The same signed task again, under another number.
    for statement in [
        "INSERT INTO task (name, image, collaboration_id, job_id, init_org_id, init_user_id, created_at, manifest) SELECT name, image, collaboration_id, job_id, init_org_id, init_user_id, created_at, manifest FROM task WHERE id = $1",
        "INSERT INTO task_database (task_id, label, parameters) SELECT (SELECT max(id) FROM task), label, parameters FROM task_database WHERE task_id = $1",
        "INSERT INTO run (task_id, organization_id, status, assigned_at, input) SELECT (SELECT max(id) FROM task), organization_id, 'pending', assigned_at, input FROM run WHERE task_id = $1",
    ] {
        assert_eq!(sqlx::query(statement).bind(first.id.get()).execute(database).await.unwrap().rows_affected(), 1);
    }
    let (copy,): (i64,) = sqlx::query_as("SELECT max(id) FROM task").fetch_one(database).await.unwrap();
    lab.kill_node(0).await;
    lab.start_node(0);
    let text = refusal_of_run(lab, database, copy).await;
    assert!(text.contains("accepted before"), "{text}");
}

/// The log of a run that was refused, read where the coordinator keeps it.
async fn refusal_of_run(lab: &Lab, database: &SqlitePool, task: i64) -> String {
    lab.federation.researcher.wait(TaskId::new(task)).await.unwrap();
    let (status, log): (String, Option<String>) =
        sqlx::query_as("SELECT status, log FROM run WHERE task_id = $1").bind(task).fetch_one(database).await.unwrap();
    assert_eq!(status, RunStatus::NotAllowed.as_str(), "{log:?}");
    log.unwrap_or_default()
}

async fn refused(lab: &Lab, task: TaskId, reason: &str) {
    lab.federation.researcher.wait(task).await.unwrap();
    let runs = lab.federation.researcher.api().run_list(task).await.unwrap();
    let log = runs[0].log.clone().unwrap_or_default();
    assert_eq!(runs[0].status, RunStatus::NotAllowed, "{reason}: {log}");
    assert!(log.contains(reason), "`{reason}` is not named in: {log}");
}

#[tokio::test]
async fn a_result_altered_in_the_database_is_noticed_by_the_researcher() {
    let lab = Lab::start().await;
    let database = lab.coordinator_database().await;
    let task = lab.post_small().await;
    let other = lab.post_small().await;
    assert!(lab.finish(task.id).await.contents().is_ok());
    assert!(lab.finish(other.id).await.contents().is_ok());
    for statement in [
        // A result of the same organization for another task.
        "UPDATE run SET result = (SELECT result FROM run WHERE task_id != $1 LIMIT 1) WHERE task_id = $1",
        "UPDATE run SET result = 'eyJtZWFuIjogNDJ9' WHERE task_id = $1",
    ] {
        sqlx::query(statement).bind(task.id.get()).execute(&database).await.unwrap();
        let error = first_error(lab.federation.researcher.results(task.id).await.unwrap());
        assert!(error.contains("altered") && error.contains("hospital-1"), "{error}");
    }
    database.close().await;
    lab.end().await;
}

fn first_error(results: TaskResults) -> String {
    let error: RunError = results.contents().expect_err("a result that was altered is not handed out");
    error.to_string()
}

#[tokio::test]
async fn an_input_sealed_to_another_organization_is_named() {
    let lab = Lab::start().await;
    let [asker, other] = [0, 1].map(|at| &lab.federation.hospitals[at]);
    let task = post_by_hand(&lab, &asker.key, &other.key).await;
    lab.federation.researcher.wait(task).await.unwrap();
    let runs = lab.federation.researcher.api().run_list(task).await.unwrap();
    assert_eq!(runs[0].status, RunStatus::NotAllowed, "{:?}", runs[0].log);
    let log = runs[0].log.clone().unwrap_or_default();
    assert!(log.contains("cannot be opened") && log.contains("sealed to another organization"), "{log}");
    lab.end().await;
}

/// A properly signed task for the first hospital whose input is sealed to somebody else.
async fn post_by_hand(lab: &Lab, signer: &OrganizationKey, sealed_to: &OrganizationKey) -> TaskId {
    let organization = lab.federation.hospitals[0].organization;
    let collaboration: CollaborationId = lab.federation.collaboration;
    let nonce = Nonce::random();
    let context = SealContext {
        direction: Direction::Input,
        collaboration_id: collaboration,
        sender: organization,
        receiver: organization,
        nonce,
    };
    let content = br#"{"method": "summary_partial", "kwargs": {"columns": ["age"]}}"#;
    let input = payload::to_text(&seal(signer, &sealed_to.public(), &context, content).unwrap());
    let now = now_seconds();
    let manifest = TaskManifest {
        version: MANIFEST_VERSION,
        collaboration_id: collaboration,
        image: twinmesh_algorithms::IMAGE.into(),
        function: "summary_partial".into(),
        databases: vec![TaskDatabase { label: DATABASE.into(), parameters: "{}".into() }],
        receivers: vec![Receiver { organization_id: organization, input_sha256: Digest::of(input.as_bytes()) }],
        initiator: organization,
        user_id: None,
        parent: None,
        delegation: None,
        nonce,
        issued_at: now,
        not_after: now + 600,
    };
    let new = NewTask {
        name: None,
        description: None,
        image: manifest.image.clone(),
        collaboration_id: Some(collaboration),
        study_id: None,
        store_id: None,
        server_url: None,
        organizations: vec![NewTaskOrganization { id: organization, input }],
        databases: Some(vec![NewTaskDatabase { label: DATABASE.into(), ..NewTaskDatabase::default() }]),
        manifest: Some(Signed::sign(&manifest, signer).unwrap()),
    };
    lab.federation.researcher.api().task_create(&new, "by-hand").await.unwrap().id
}

#[expect(clippy::disallowed_methods, reason = "a test is a shell")]
fn now_seconds() -> i64 {
    chrono::Utc::now().timestamp()
}

#[tokio::test]
async fn a_node_that_pinned_another_key_refuses_the_asker() {
    let stranger = OrganizationKey::generate().public().to_pem();
    let lab = Lab::with(|plan| {
        // Hospital 1 asks (organization 2, after `root`); hospital 2 pinned another key for it.
        plan.extra_configuration.insert(1, format!("[pins]\n2 = \"\"\"{stranger}\"\"\"\n"));
    })
    .await;
    assert_eq!(lab.organizations()[0], OrganizationId::new(2));
    let task = lab.post("summary_partial", Some(1), json!({"columns": ["age"]})).await;
    refused(&lab, task.id, "pin").await;
    lab.end().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_organization_are_named() {
    let lab = Lab::start().await;
    let api = Api::new(&lab.federation.url, ApiOptions::default()).unwrap();
    let error = api.log_in_user(RESEARCHER, "wrong", None).await.unwrap_err();
    assert_eq!(error.status(), Some(401));
    let unknown_user = api.log_in_user("nobody", "wrong", None).await.unwrap_err();
    assert_eq!(error.to_string(), unknown_user.to_string(), "the answer does not tell which of the two is wrong");

    let request = NewTaskRequest {
        organizations: vec![OrganizationId::new(999)],
        ..NewTaskRequest::new(lab.federation.collaboration, twinmesh_algorithms::IMAGE, "summary")
    };
    let error = lab.federation.researcher.task(request).await.unwrap_err().to_string();
    assert!(error.contains("999"), "{error}");
    lab.end().await;
}

#[tokio::test]
async fn a_full_disk_at_the_node_is_named_and_passes() {
    let mut lab = Lab::with(|plan| {
        plan.extra_configuration.insert(0, "[runtime.limits]\njournal = \"256KiB\"\n".into());
    })
    .await;
    // Fills the journal: each accepted run takes some of it for good.
    let mut ended = None;
    for _ in 0..400 {
        let task = lab.post_small().await;
        lab.federation.researcher.wait(task.id).await.unwrap();
        let runs = lab.federation.researcher.api().run_list(task.id).await.unwrap();
        if runs[0].status != RunStatus::Completed {
            ended = runs.into_iter().next();
            break;
        }
    }
    let run = ended.expect("the journal fills up");
    assert_eq!(run.status, RunStatus::Failed, "{:?}", run.log);
    assert!(run.log.clone().unwrap_or_default().contains("disk is full"), "{:?}", run.log);

    // Room again: the node goes on without help, and the journal is whole.
    let configuration = lab.federation.directory().join("hospital-1.toml");
    let text = std::fs::read_to_string(&configuration).unwrap().replace("256KiB", "64MiB");
    std::fs::write(&configuration, text).unwrap();
    lab.federation.hospitals[0].daemon.stop().await.unwrap();
    lab.start_node(0);
    let task = lab.post_small().await;
    assert!(lab.finish(task.id).await.contents().is_ok());
    let journal = lab.journal(0).await;
    let (check,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&journal).await.unwrap();
    assert_eq!(check, "ok");
    journal.close().await;
    lab.end().await;
}

#[tokio::test]
async fn a_coordinator_that_is_away_for_half_a_minute_costs_time_only() {
    let mut lab = Lab::start().await;
    let task = lab.post("logistic", Some(0), json!({"formula": "cens ~ age + horTh"})).await;
    lab.federation.instances[0].daemon.kill().await.unwrap();
    // The half minute is what the story is about, not a way to wait for something.
    tokio::time::sleep(Duration::from_secs(30)).await;
    lab.federation.instances[0].restart().await.unwrap();
    let fit = only(lab.finish(task.id).await);
    assert!(fit["deviance"].as_f64().unwrap() > 0.0);
    let status = lab.federation.researcher.api().task_get(task.id).await.unwrap().status;
    assert_eq!(status, RunStatus::Completed);
    let health = lab.federation.researcher.api().health().await;
    assert!(matches!(health, Ok(true)), "{:?}", health.map_err(|error: ApiError| error.to_string()));
    lab.end().await;
}
