//! Tasks, from sealing to opening.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use twinmesh_client::pins::PinStore;
use twinmesh_client::researcher::{Client, ClientError, Delegate, NewTaskRequest, RunError};
use twinmesh_client::{Api, ApiOptions};
use twinmesh_protocol::id::CollaborationId;
use twinmesh_protocol::key::{OrganizationKey, PrivateKey};
use twinmesh_protocol::payload::{self, PayloadForm, classify};
use twinmesh_protocol::status::RunStatus;
use twinmesh_protocol::time::Time;

use crate::server::{ALL, COLLABORATION, HOSPITAL_A, HOSPITAL_B, Nodes, Server, UNIVERSITY, key, seal_result};

async fn client_with(server: &Server, key: Option<OrganizationKey>, pins: PinStore) -> Client {
    client_of(server, key.map(PrivateKey::Ed25519), pins).await
}

/// With a key of either kind.
pub(crate) async fn client_of(server: &Server, key: Option<PrivateKey>, pins: PinStore) -> Client {
    let api = Api::new(&server.url, ApiOptions::default()).unwrap();
    api.log_in_user("ada", "correct", None).await.unwrap();
    Client::new(api, key, pins).await.unwrap().with_patience(Duration::from_secs(20))
}

async fn client(server: &Server) -> Client {
    client_with(server, Some(key(UNIVERSITY)), PinStore::in_memory()).await
}

pub(crate) fn request() -> NewTaskRequest {
    let mut request = NewTaskRequest::new(COLLABORATION, "twinmesh/builtin:0.1.0", "summary_partial");
    request.kwargs.insert("columns".into(), json!(["age"]));
    request
}

#[tokio::test]
async fn a_task_is_sealed_signed_run_opened_and_checked() {
    let server = Server::start().await;
    let client = client(&server).await;

    let task = client.task(request()).await.unwrap();
    assert_eq!(client.wait(task.id).await.unwrap(), RunStatus::Completed);
    let contents = client.results(task.id).await.unwrap().contents().unwrap();

    let values: Vec<Value> = contents.iter().map(|(_, content)| content.json().unwrap()).collect();
    assert_eq!(values, [json!({"n": 10}), json!({"n": 20}), json!({"n": 30})]);
    let state = server.state();
    for run in &state.runs {
        assert_eq!(classify(run.input.as_ref().unwrap()), PayloadForm::Sealed);
    }
    let manifest = task.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap();
    assert_eq!((manifest.initiator, &*manifest.function, manifest.delegation), (UNIVERSITY, "summary_partial", None));
}

#[tokio::test]
async fn a_central_function_may_ask_its_parts_of_everybody_and_no_more() {
    let server = Server::start().await;
    let client = client(&server).await;
    let mut central = request();
    central.function = "summary".into();
    central.organizations = vec![HOSPITAL_A];
    let task = client.task(central.clone()).await.unwrap();
    let manifest = task.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap();
    let delegation = manifest.delegation.unwrap();
    assert!(delegation.functions.contains("summary_partial"));
    assert_eq!(delegation.organizations, BTreeSet::from(ALL));

    central.delegation = Delegate::Nothing;
    let task = client.task(central).await.unwrap();
    assert!(task.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap().delegation.is_none());
}

#[tokio::test]
async fn a_task_whose_answer_is_lost_is_made_once() {
    let server = Server::start().await;
    let client = client(&server).await;
    server.state().nodes = Nodes::Away;
    server.state().busy = 1;
    server.state().lost_task_answers = 2;

    client.task(request()).await.unwrap();

    let state = server.state();
    let keys: BTreeSet<_> = state
        .seen
        .iter()
        .filter(|seen| seen.request == "POST /task")
        .map(|seen| seen.idempotency_key.clone())
        .collect();
    assert_eq!((keys.len(), state.tasks.len()), (1, 1));
    drop(state);
    assert_eq!(server.count("POST /task"), 3);
}

#[tokio::test]
async fn waiting_ends_when_the_last_run_does_and_tells_how_far_it_is() {
    let server = Server::start().await;
    let client = client(&server).await;
    server.state().nodes = Nodes::Away;
    let task = client.task(request()).await.unwrap();
    let mut told = Vec::new();

    let status = client.wait_with_progress(task.id, |progress| {
        told.push((progress.finished(), progress.runs.len()));
        server.run_everything();
    });

    assert_eq!(status.await.unwrap(), RunStatus::Completed);
    assert_eq!((told.first(), told.last()), (Some(&(0, 3)), Some(&(3, 3))));
}

#[tokio::test]
async fn an_altered_result_is_named_by_run_and_organization() {
    let server = Server::start().await;
    let client = client(&server).await;
    let task = client.task(request()).await.unwrap();
    {
        let mut state = server.state();
        let text = state.results.values_mut().last().unwrap();
        let mut bytes = payload::from_text(text).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        *text = payload::to_text(&bytes);
    }

    let results = client.results(task.id).await.unwrap();

    assert!(results.runs[0].outcome.is_ok() && results.runs[1].outcome.is_ok());
    let error = results.contents().unwrap_err();
    assert_eq!(error.to_string(), "result of run 3 from organization `hospital-b` was altered or not made by it");
}

#[tokio::test]
async fn a_result_of_another_organization_or_task_is_refused() {
    let server = Server::start().await;
    let client = client(&server).await;
    let task = client.task(request()).await.unwrap();
    let other = client.task(request()).await.unwrap();
    let is_tampered = |outcome: &Result<_, _>| matches!(outcome, Err(RunError::Tampered { .. }));

    // Two organizations' results exchanged.
    let honest = server.state().results.clone();
    {
        let mut state = server.state();
        let ids: Vec<_> = state.results.keys().copied().collect();
        let (two, three) = (honest[&ids[1]].clone(), honest[&ids[2]].clone());
        state.results.insert(ids[1], three);
        state.results.insert(ids[2], two);
        // The result of the other task.
        let six = honest[&ids[3]].clone();
        state.results.insert(ids[0], six);
    }
    let results = client.results(task.id).await.unwrap();
    assert!(results.runs.iter().all(|run| is_tampered(&run.outcome)));

    // Made by somebody who has only public keys, and in the open.
    let manifest = other.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap();
    {
        let mut state = server.state();
        let ids: Vec<_> = state.results.keys().copied().collect();
        let forged = seal_result(&manifest, HOSPITAL_A, &OrganizationKey::generate(), b"{\"n\": 1}");
        state.results.insert(ids[4], forged);
        state.results.insert(ids[5], payload::to_text(b"{\"n\": 1}"));
    }
    let results = client.results(other.id).await.unwrap();
    assert!(results.runs[0].outcome.is_ok());
    assert!(results.runs[1..].iter().all(|run| is_tampered(&run.outcome)));
}

#[tokio::test]
async fn a_manifest_of_another_task_and_a_hidden_run_are_noticed() {
    let server = Server::start().await;
    let client = client(&server).await;
    let task = client.task(request()).await.unwrap();
    server.state().runs.remove(1);
    let error = client.results(task.id).await.unwrap_err();
    assert!(matches!(&error, ClientError::OtherRuns { organization, found: 0, .. } if organization == "hospital-a"));

    let forged = {
        let signed = server.state().tasks[0].manifest.clone().unwrap();
        let manifest = signed.read_unverified().unwrap();
        twinmesh_protocol::signed::Signed::sign(&manifest, &OrganizationKey::generate()).unwrap()
    };
    server.state().tasks[0].manifest = Some(forged);
    let error = client.results(task.id).await.unwrap_err();
    assert!(matches!(error, ClientError::ForeignManifest { .. }), "{error}");

    server.state().tasks[0].manifest = None;
    let error = client.results(task.id).await.unwrap_err();
    assert!(matches!(error, ClientError::NoManifest { .. }), "{error}");
}

#[tokio::test]
async fn results_shown_as_those_of_a_plain_task_are_refused() {
    let server = Server::start().await;
    let task = client(&server).await.task(request()).await.unwrap();
    // All sealing and signing is gone, as far as the coordinator shows.
    let forge = |collaboration: Option<i64>| {
        let mut state = server.state();
        state.encrypted = false;
        state.tasks[0].manifest = None;
        state.tasks[0].collaboration = collaboration.map(|id| twinmesh_protocol::wire::Link {
            id,
            link: format!("/api/collaboration/{id}"),
            methods: vec!["GET".into()],
        });
        for text in state.results.values_mut() {
            *text = payload::to_text(b"{\"n\": 1}");
        }
    };
    // A client that has seen nothing before, as on another machine.
    let fresh = client(&server).await;
    forge(None);
    let error = fresh.results(task.id).await.unwrap_err();
    assert!(matches!(error, ClientError::NoCollaboration { .. }), "{error}");
    forge(Some(1));
    let error = fresh.results(task.id).await.unwrap_err();
    assert!(matches!(&error, ClientError::Unsigned { collaboration, .. } if collaboration == "trial"), "{error}");
    assert!(error.hint().unwrap().contains("--collaboration"));
    // The caller knows where it belongs.
    let elsewhere = fresh.results_in(task.id, Some(CollaborationId::new(2))).await.unwrap_err();
    assert!(matches!(elsewhere, ClientError::OtherCollaboration { .. }), "{elsewhere}");
    assert_eq!(fresh.results_in(task.id, Some(COLLABORATION)).await.unwrap().runs.len(), 3);
}

#[tokio::test]
async fn a_task_made_here_is_never_shown_unsealed() {
    let server = Server::start().await;
    let client = client(&server).await;
    let task = client.task(request()).await.unwrap();
    server.state().tasks[0].manifest = None;
    let error = client.results(task.id).await.unwrap_err();
    assert!(matches!(error, ClientError::NoManifest { .. }), "{error}");
    server.state().tasks[0].collaboration = None;
    let error = client.results(task.id).await.unwrap_err();
    assert!(matches!(error, ClientError::NoCollaboration { .. }), "{error}");
}

#[tokio::test]
async fn an_older_task_of_ours_does_not_pass_for_a_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let pins = || PinStore::open(directory.path().join("pins.json")).unwrap();
    let server = Server::start().await;
    let client = client_with(&server, Some(key(UNIVERSITY)), pins()).await;
    let (older, newer) = (client.task(request()).await.unwrap(), client.task(request()).await.unwrap());
    assert!(client.results(newer.id).await.unwrap().is_made_here);
    {
        let mut state = server.state();
        state.tasks[1].manifest = older.manifest.clone();
        let ids: Vec<_> = state.results.keys().copied().collect();
        for at in 0..3 {
            let text = state.results[&ids[at]].clone();
            state.results.insert(ids[at + 3], text);
        }
    }
    let later = client_with(&server, Some(key(UNIVERSITY)), pins()).await;
    for client in [client, later] {
        let error = client.results(newer.id).await.unwrap_err();
        assert!(matches!(error, ClientError::OtherManifest { .. }), "{error}");
    }
    // Elsewhere nobody can know, and is told so.
    let elsewhere = client_with(&server, Some(key(UNIVERSITY)), PinStore::in_memory()).await;
    assert!(!elsewhere.results(newer.id).await.unwrap().is_made_here);
}

#[tokio::test]
async fn a_number_that_was_given_before_is_refused() {
    let server = Server::start().await;
    let client = client(&server).await;
    client.task(request()).await.unwrap();
    server.state().tasks.clear();
    let error = client.task(request()).await.unwrap_err().to_string();
    assert!(error.contains("answered with task 1, which is another one made here before"), "{error}");
}

#[tokio::test]
async fn a_run_of_somebody_who_was_not_asked_is_noticed() {
    let server = Server::start().await;
    let client = client(&server).await;
    let mut single = request();
    single.organizations = vec![HOSPITAL_A];
    let task = client.task(single).await.unwrap();
    {
        let mut state = server.state();
        let mut foreign = state.runs[0].clone();
        foreign.id = twinmesh_protocol::id::RunId::new(99);
        foreign.organization.as_mut().unwrap().id = HOSPITAL_B.get();
        let manifest = task.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap();
        let result = seal_result(&manifest, HOSPITAL_B, &key(HOSPITAL_B), b"{\"n\": 1}");
        state.results.insert(foreign.id, result);
        state.runs.push(foreign);
    }
    let error = client.results(task.id).await.unwrap_err();
    assert!(matches!(&error, ClientError::ForeignRun { organization, .. } if organization == "hospital-b"), "{error}");
}

#[tokio::test]
async fn an_invented_organization_gets_nothing_until_a_person_pins_it() {
    let server = Server::start().await;
    let client = client(&server).await;
    client.task(request()).await.unwrap();
    let invented = twinmesh_protocol::id::OrganizationId::new(4);
    {
        let mut state = server.state();
        let mut organization = state.organizations[2].clone();
        (organization.id, organization.name) = (invented, "hospital-c".into());
        organization.public_key = key(invented).public().to_api();
        state.organizations.push(organization);
    }
    let mut central = request();
    central.organizations = vec![HOSPITAL_A];
    central.function = "summary".into();
    for request in [request(), central.clone()] {
        let error = client.task(request).await.unwrap_err().to_string();
        let command =
            format!("twinmesh organization pin hospital-c --fingerprint '{}'", key(invented).public().fingerprint());
        assert!(error.contains("`hospital-c`") && error.contains(&command), "{error}");
    }
    assert_eq!(server.count("POST /task"), 1);

    // Without a key it is left out of what a central function may ask.
    let shown = std::mem::take(&mut server.state().organizations[3].public_key);
    let task = client.task(central).await.unwrap();
    let manifest = task.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap();
    assert_eq!(manifest.delegation.unwrap().organizations, BTreeSet::from(ALL));

    server.state().organizations[3].public_key = shown;
    client.pins().set(invented, "hospital-c", key(invented).public(), Time::from_micros(0)).unwrap();
    client.task(request()).await.unwrap();
}

#[tokio::test]
async fn an_exchanged_key_is_refused_before_anything_is_sealed() {
    let server = Server::start().await;
    let mut pins = PinStore::in_memory();
    pins.set(HOSPITAL_B, "hospital-b", OrganizationKey::generate().public(), Time::from_micros(0)).unwrap();
    let client = client_with(&server, Some(key(UNIVERSITY)), pins).await;

    let error = client.task(request()).await.unwrap_err();

    assert!(error.to_string().contains("`hospital-b`"), "{error}");
    assert!(error.to_string().contains(&key(HOSPITAL_B).public().fingerprint()), "{error}");
    assert_eq!(server.count("POST /task"), 0);
}

#[tokio::test]
async fn keys_that_do_not_fit_are_explained() {
    let server = Server::start().await;
    let stranger = client_with(&server, Some(OrganizationKey::generate()), PinStore::in_memory()).await;
    let error = stranger.task(request()).await.unwrap_err();
    assert!(matches!(error, ClientError::OwnKeyDiffers { .. }), "{error}");
    assert!(error.hint().unwrap().contains("key upload"));

    let keyless = client_with(&server, None, PinStore::in_memory()).await;
    let error = keyless.task(request()).await.unwrap_err();
    assert!(matches!(error, ClientError::NoKey { .. }), "{error}");

    let client = client(&server).await;
    let rsa = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAJv8ZpB5hEK7qxP9K3v43hUS5fGT4waK\ne7ix4Z4mu5UBv+cw7WSFAt0Vaag0sAbsPzU8Hhsrj/qPABvfB8asUwcCAwEAAQ==\n-----END PUBLIC KEY-----\n";
    for (public_key, words) in [
        (payload::to_text(rsa.as_bytes()), "cannot be used"),
        (String::new(), "has no public key"),
        ("nonsense".into(), "cannot be used"),
    ] {
        server.state().organizations[1].public_key = public_key;
        let error = client.task(request()).await.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("`hospital-a`"), "{error}");
    }
}

#[tokio::test]
async fn a_collaboration_shown_as_plain_gets_no_input_in_the_open_once_it_was_encrypted() {
    let server = Server::start().await;
    let client = client(&server).await;
    client.task(request()).await.unwrap();
    server.state().encrypted = false;
    let error = client.task(request()).await.unwrap_err();
    assert!(error.to_string().contains("not encrypted"), "{error}");
    assert_eq!(server.count("POST /task"), 1);
}

#[tokio::test]
async fn a_plain_collaboration_needs_no_key() {
    let server = Server::start().await;
    server.state().encrypted = false;
    let client = client_with(&server, None, PinStore::in_memory()).await;
    let task = client.task(request()).await.unwrap();
    assert!(task.manifest.is_none());
    let contents = client.results(task.id).await.unwrap().contents().unwrap();
    assert_eq!(contents.len(), 3);
    let input = payload::from_text(server.state().runs[0].input.as_ref().unwrap()).unwrap();
    let input: Value = serde_json::from_slice(&input).unwrap();
    assert_eq!(input, json!({"method": "summary_partial", "args": [], "kwargs": {"columns": ["age"]}}));
}

#[tokio::test]
async fn a_refused_run_tells_status_and_log() {
    let server = Server::start().await;
    let client = client(&server).await;
    server.state().nodes = Nodes::Strict;
    let task = client.task(request()).await.unwrap();
    assert_eq!(client.wait(task.id).await.unwrap(), RunStatus::NotAllowed);
    let error = client.results(task.id).await.unwrap().contents().unwrap_err().to_string();
    assert!(error.contains("not allowed") && error.contains("policy `images`"), "{error}");
}

#[tokio::test]
async fn unknown_and_repeated_organizations_are_refused_by_name() {
    let server = Server::start().await;
    let client = client(&server).await;
    let mut wrong = request();
    wrong.organizations = vec![twinmesh_protocol::id::OrganizationId::new(9)];
    let error = client.task(wrong.clone()).await.unwrap_err().to_string();
    assert!(error.contains('9') && error.contains("university, hospital-a, hospital-b"), "{error}");
    wrong.organizations = vec![HOSPITAL_A, HOSPITAL_A];
    let error = client.task(wrong).await.unwrap_err().to_string();
    assert!(error.contains("hospital-a") && error.contains("more than once"), "{error}");
}
