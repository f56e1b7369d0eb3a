//! An organization whose key is RSA, vantage6's own kind, with tasks as stock clients and nodes write them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use twinmesh_node::OnStop;
use twinmesh_protocol::{
    digest::Digest,
    envelope,
    key::{PrivateKey, PublicKey},
    manifest::{Receiver, TaskManifest},
    payload::{self, PayloadForm, classify},
    rsa::RsaKey,
    sealed::{Direction, SealContext, open_anonymous},
    signed::Signed,
};

use crate::{
    Hospital,
    coordinator::{COLLABORATION, Coordinator, Draft, HOME, Lie, RESEARCHER, wait_for},
    may_call,
};

const HOME_KEY: &str = include_str!("rsa_home.pem");
const RESEARCHER_KEY: &str = include_str!("rsa_researcher.pem");
/// What the administrator of such a node has to say.
const UNSIGNED: &str = "[policies]\nrequire_signed_tasks = false\n";

fn rsa(text: &str) -> RsaKey {
    match PrivateKey::from_pem(text).unwrap() {
        PrivateKey::Rsa(key) => key,
        PrivateKey::Ed25519(_) => unreachable!("the file holds an RSA key"),
    }
}

fn public(text: &str) -> String {
    PublicKey::Rsa(rsa(text).public().clone()).to_api()
}

/// A hospital with an RSA key, and a researcher whose organization has one.
async fn hospital() -> Hospital {
    let hospital = Hospital::new(true).await;
    std::fs::write(hospital.path("key.pem"), HOME_KEY).unwrap();
    hospital.coordinator.world().keys.insert(RESEARCHER.get(), public(RESEARCHER_KEY));
    hospital
}

/// A task as the stock client makes it: an envelope to the executing organization, and nothing signed.
fn post(coordinator: &Coordinator, method: &str, kwargs: &Value) -> i64 {
    let content = json!({"method": method, "args": [], "kwargs": kwargs}).to_string();
    post_input(coordinator, &envelope::seal(rsa(HOME_KEY).public(), content.as_bytes()).unwrap())
}

fn post_input(coordinator: &Coordinator, input: &str) -> i64 {
    let (task, ..) = coordinator.build(&Draft { sign_with: None, ..coordinator.draft("any") });
    coordinator.record(task, input, None)
}

/// What a run answered, as the researcher reads it.
async fn answer(coordinator: &Coordinator, run: i64) -> Value {
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    let content = envelope::open(&rsa(RESEARCHER_KEY), report["result"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&content).unwrap()
}

/// Why a run was refused.
async fn refusal(coordinator: &Coordinator, run: i64) -> String {
    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "not allowed", "{report}");
    report["log"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_a_stock_client_is_run_where_the_policy_says_so() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    // As somebody else's tool may have written it: the same key in other bytes.
    let other_text = STANDARD.encode(rsa(HOME_KEY).public().pem().trim_end());
    coordinator.world().keys.insert(HOME.get(), other_text);
    let node = hospital.start_with(UNSIGNED).await;
    assert_eq!(coordinator.world().keys[&HOME.get()], public(HOME_KEY), "ours byte for byte");

    let run = post(coordinator, "echo", &json!({"n": 1}));
    assert_eq!(answer(coordinator, run).await, json!({"n": 1}));
    // The browser's input comes in base64 once more.
    let content = STANDARD.encode(r#"{"method": "echo", "kwargs": {"n": 2}}"#);
    let run = post_input(coordinator, &envelope::seal(rsa(HOME_KEY).public(), content.as_bytes()).unwrap());
    assert_eq!(answer(coordinator, run).await, json!({"n": 2}));
    let status = wait_for("the status", || node.status().ok().filter(|status| status.ready)).await;
    assert!(status.overlay.is_none() && !status.keys.registered, "an RSA key certifies no node");
    assert_eq!(status.keys.organization, Some(rsa(HOME_KEY).public().fingerprint()));
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_nobody_signed_is_refused_unless_the_policy_allows_it() {
    let hospital = hospital().await;
    let node = hospital.start().await;
    let run = post(&hospital.coordinator, "echo", &json!({}));
    let log = refusal(&hospital.coordinator, run).await;
    assert!(log.contains("not signed") && log.contains("policies.require_signed_tasks"), "{log}");
    assert_eq!(hospital.starts(), 0);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_unsigned_is_believed_of_who_has_an_ed25519_key() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let ed25519 = coordinator.state.researcher_key.public();
    coordinator.world().keys.insert(RESEARCHER.get(), ed25519.to_api());
    let node = hospital.start_with(UNSIGNED).await;
    for shown in [ed25519.to_api(), public(RESEARCHER_KEY)] {
        coordinator.world().keys.insert(RESEARCHER.get(), shown);
        let run = post(coordinator, "echo", &json!({}));
        let log = refusal(coordinator, run).await;
        assert!(log.contains("key pinned for organization 2 is Ed25519"), "{log}");
    }
    assert_eq!(hospital.starts(), 0);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_could_open_is_not_worked_out() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let node = hospital.start_with(UNSIGNED).await;
    let pinned = rsa(RESEARCHER_KEY).public().fingerprint();
    coordinator.world().keys.insert(RESEARCHER.get(), public(HOME_KEY));
    let run = post(coordinator, "echo", &json!({}));
    let log = refusal(coordinator, run).await;
    let shown = rsa(HOME_KEY).public().fingerprint();
    assert!(log.contains(&pinned) && log.contains(&shown) && log.contains("replace the pin"), "{log}");
    assert_eq!(hospital.starts(), 0);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ed25519_node_runs_nothing_unsigned_whatever_its_policy_says() {
    let hospital = Hospital::new(true).await;
    let coordinator = &hospital.coordinator;
    coordinator.world().keys.insert(RESEARCHER.get(), public(RESEARCHER_KEY));
    let node = hospital.start_with(UNSIGNED).await;
    let run = coordinator.post(&Draft { sign_with: None, ..coordinator.draft("echo") });
    let log = refusal(coordinator, run).await;
    assert!(log.contains("not signed") && log.contains("whose key is Ed25519"), "{log}");
    // Nor does a signature count that the pinned key cannot have made.
    let run = coordinator.post(&coordinator.draft("echo"));
    let log = refusal(coordinator, run).await;
    assert!(log.contains("key pinned for organization 2 is RSA"), "{log}");
    assert_eq!(hospital.starts(), 0);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_task_needs_no_leniency_and_its_answer_opens_for_who_signed() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let key = coordinator.state.researcher_key.clone();
    coordinator.world().keys.insert(RESEARCHER.get(), key.public().to_api());
    let node = hospital.start().await;
    let (task, _, signed) = coordinator.build(&coordinator.draft("echo"));
    let input = envelope::seal(rsa(HOME_KEY).public(), br#"{"method": "echo", "kwargs": {"n": 3}}"#).unwrap();
    let receivers = vec![Receiver { organization_id: HOME, input_sha256: Digest::of(input.as_bytes()) }];
    let manifest = TaskManifest { receivers, ..signed.unwrap().read_unverified().unwrap() };
    let signed = Signed::sign(&manifest, &key).unwrap();
    let run = coordinator.record(task.clone(), &input, Some(&signed));

    let report = coordinator.finished(run).await;
    assert_eq!(report["status"], "completed", "{report}");
    let context = SealContext {
        direction: Direction::Result,
        collaboration_id: COLLABORATION,
        sender: HOME,
        receiver: RESEARCHER,
        nonce: manifest.nonce,
    };
    let sealed = payload::from_text(report["result"].as_str().unwrap()).unwrap();
    let content: Value = serde_json::from_slice(&open_anonymous(&key, &context, &sealed).unwrap()).unwrap();
    assert_eq!(content, json!({"n": 3}));

    // Another envelope in its place is not what was signed.
    let other = envelope::seal(rsa(HOME_KEY).public(), br#"{"method": "echo", "kwargs": {"n": 4}}"#).unwrap();
    let run = coordinator.record(task, &other, Some(&signed));
    let log = refusal(coordinator, run).await;
    assert!(log.contains("not the one that was signed"), "{log}");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_central_function_asks_in_envelopes_and_reads_what_comes_back() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let node = hospital.start_with(UNSIGNED).await;
    let run = post(coordinator, "central", &json!({"call": "rows"}));
    assert_eq!(answer(coordinator, run).await, json!([2]));
    let asked = coordinator.world().asked[0].clone();
    assert!(asked["manifest"].is_null());
    let input = asked["organizations"][0]["input"].as_str().unwrap();
    assert_eq!(classify(input), PayloadForm::Vantage6Envelope);
    let run = post(coordinator, "central_twice", &json!({}));
    assert_eq!(answer(coordinator, run).await, json!([[{"n": 1}], [{"n": 2}]]));
    // Somebody else's subtask stays theirs.
    let run = post(coordinator, "steal", &json!({"task": 2}));
    assert!(answer(coordinator, run).await.as_str().unwrap().contains("403"));
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subtask_of_a_signed_task_stays_within_it_although_nobody_signs_it() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let key = coordinator.state.researcher_key.clone();
    coordinator.world().keys.insert(RESEARCHER.get(), key.public().to_api());
    let node = hospital.start_with(UNSIGNED).await;
    for (call, status) in [("rows", "completed"), ("echo", "crashed")] {
        let (task, _, signed) =
            coordinator.build(&Draft { delegation: may_call(&["rows"]), ..coordinator.draft("central") });
        let content = json!({"method": "central", "kwargs": {"call": call}}).to_string();
        let input = envelope::seal(rsa(HOME_KEY).public(), content.as_bytes()).unwrap();
        let receivers = vec![Receiver { organization_id: HOME, input_sha256: Digest::of(input.as_bytes()) }];
        let manifest = TaskManifest { receivers, ..signed.unwrap().read_unverified().unwrap() };
        let run = coordinator.record(task, &input, Some(&Signed::sign(&manifest, &key).unwrap()));
        let report = coordinator.finished(run).await;
        assert_eq!(report["status"], status, "{call}: {report}");
    }
    assert_eq!(coordinator.world().asked.len(), 1, "what was not granted is not asked");
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lies_that_show_do_not_reach_a_central_function() {
    for (lie, reason) in [
        (Lie::Unsealed, "not sealed"),
        (Lie::Dropped, "lists runs of none"),
        (Lie::Doubled, "lists runs of 1, 1"),
        (Lie::Withheld, "is missing"),
    ] {
        let hospital = hospital().await;
        let node = hospital.start_with(UNSIGNED).await;
        let coordinator = &hospital.coordinator;
        coordinator.world().lie = Some(lie);
        let run = post(coordinator, "central_twice", &json!({}));
        let answer = answer(coordinator, run).await;
        assert!(answer.as_str().is_some_and(|text| text.contains(reason)), "{lie:?}: {answer}");
        node.shutdown(OnStop::KillRuns).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_opened_is_refused_in_the_same_words_whatever_is_wrong() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let node = hospital.start_with(UNSIGNED).await;
    let honest = envelope::seal(rsa(HOME_KEY).public(), br#"{"method": "echo", "kwargs": {"text": "a longer text"}}"#);
    let honest = honest.unwrap();
    let parts: Vec<&str> = honest.split('$').collect();
    let mut encrypted = STANDARD.decode(parts[0]).unwrap();
    encrypted[100] ^= 1;
    let foreign = envelope::seal(rsa(RESEARCHER_KEY).public(), br#"{"method": "echo"}"#).unwrap();
    let other = envelope::seal(rsa(HOME_KEY).public(), &[0xff; 60]).unwrap();
    let spoiled = [
        // No valid padding, made for another key, and a good key around garbage.
        format!("{}${}${}", STANDARD.encode(encrypted), parts[1], parts[2]),
        foreign,
        other,
    ];
    let mut logs = Vec::new();
    for input in &spoiled {
        let run = post_input(coordinator, input);
        logs.push(refusal(coordinator, run).await);
    }
    assert!(logs.iter().all(|log| log.contains("cannot be opened with the RSA key") && *log == logs[0]), "{logs:?}");
    for (reason, input) in [
        ("not sealed", payload::to_text(b"{}")),
        ("key is RSA", {
            let (_, sealed, _) = coordinator.build(&coordinator.draft("echo"));
            sealed
        }),
    ] {
        let run = post_input(coordinator, &input);
        let log = refusal(coordinator, run).await;
        assert!(log.contains(reason), "{log}");
    }
    assert_eq!(hospital.starts(), 0);
    node.shutdown(OnStop::KillRuns).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fingerprint_pins_an_rsa_key_like_any_other() {
    let hospital = hospital().await;
    let coordinator = &hospital.coordinator;
    let fingerprint = rsa(RESEARCHER_KEY).public().fingerprint();
    let node = hospital.start_with(&format!("{UNSIGNED}[pins]\n2 = \"{fingerprint}\"\n")).await;
    let run = post(coordinator, "echo", &json!({"n": 5}));
    assert_eq!(answer(coordinator, run).await, json!({"n": 5}));
    node.shutdown(OnStop::KillRuns).await;

    let other = rsa(HOME_KEY).public().fingerprint();
    let node = hospital.start_with(&format!("{UNSIGNED}[pins]\n2 = \"{other}\"\n")).await;
    let run = post(coordinator, "echo", &json!({}));
    let log = refusal(coordinator, run).await;
    assert!(log.contains("pins") && log.contains(&fingerprint), "{log}");
    node.shutdown(OnStop::KillRuns).await;
}
