//! Organizations whose key is RSA, vantage6's own kind, alone and among others.

use serde_json::{Value, json};
use twinmesh_client::pins::{PinError, PinStore};
use twinmesh_client::researcher::{ClientError, Delegate, RunError};
use twinmesh_protocol::envelope;
use twinmesh_protocol::id::OrganizationId;
use twinmesh_protocol::key::{PrivateKey, PublicKey};
use twinmesh_protocol::payload::{PayloadForm, classify};

use crate::researcher::{client_of, request};
use crate::server::{ALL, HOSPITAL_A, HOSPITAL_B, Server, UNIVERSITY, key, rsa_key, seal_result_anonymously};

/// Shows the RSA key for these organizations.
fn show_rsa(server: &Server, organizations: &[OrganizationId]) {
    let text = PublicKey::Rsa(rsa_key().public().clone()).to_api();
    for organization in server.state().organizations.iter_mut().filter(|shown| organizations.contains(&shown.id)) {
        organization.public_key.clone_from(&text);
    }
}

#[tokio::test]
async fn a_member_with_an_rsa_key_gets_the_envelope_and_what_it_answers_proves_nothing() {
    let server = Server::start().await;
    show_rsa(&server, &[HOSPITAL_A]);
    let client = client_of(&server, Some(key(UNIVERSITY).into()), PinStore::in_memory()).await;

    let task = client.task(request()).await.unwrap();
    client.wait(task.id).await.unwrap();
    let results = client.results(task.id).await.unwrap();

    let forms: Vec<_> = server.state().runs.iter().map(|run| classify(run.input.as_ref().unwrap())).collect();
    assert_eq!(forms, [PayloadForm::Sealed, PayloadForm::Vantage6Envelope, PayloadForm::Sealed]);
    let proven: Vec<_> = results.runs.iter().map(|run| (run.organization_id, run.is_proven)).collect();
    assert_eq!(proven, [(UNIVERSITY, true), (HOSPITAL_A, false), (HOSPITAL_B, true)]);
    assert!(results.is_encrypted);
    let values: Vec<Value> =
        results.contents().unwrap().into_iter().map(|(_, content)| content.json().unwrap()).collect();
    assert_eq!(values, [json!({"n": 10}), json!({"n": 20}), json!({"n": 30})]);
}

#[tokio::test]
async fn an_organization_with_an_rsa_key_asks_others_of_its_kind_without_signing() {
    let server = Server::start().await;
    show_rsa(&server, &ALL);
    let client = client_of(&server, Some(PrivateKey::Rsa(rsa_key())), PinStore::in_memory()).await;

    let task = client.task(request()).await.unwrap();
    client.wait(task.id).await.unwrap();
    let results = client.results(task.id).await.unwrap();

    assert!(task.manifest.is_none() && results.is_made_here && results.is_encrypted);
    assert!(results.runs.iter().all(|run| run.outcome.is_ok() && !run.is_proven));
    // What was made for another key is told apart from what was made for ours.
    let (_, foreign) = (results, seal_for_nobody());
    *server.state().results.values_mut().next().unwrap() = foreign;
    let results = client.results(task.id).await.unwrap();
    assert!(matches!(results.runs[0].outcome, Err(RunError::Envelope { .. })));
    // Shown in the open it is refused as well.
    server.state().results.values_mut().for_each(|text| *text = twinmesh_protocol::payload::to_text(b"{}"));
    let results = client.results(task.id).await.unwrap();
    assert!(results.runs.iter().all(|run| matches!(run.outcome, Err(RunError::Envelope { .. }))));
}

/// An envelope whose key part is no ciphertext of ours.
fn seal_for_nobody() -> String {
    let envelope = envelope::seal(rsa_key().public(), b"{}").unwrap();
    let (first, rest) = envelope.split_at(1);
    format!("{}{rest}", if first == "A" { "B" } else { "A" })
}

#[tokio::test]
async fn an_rsa_key_shown_in_place_of_a_pinned_one_is_refused() {
    let server = Server::start().await;
    let client = client_of(&server, Some(key(UNIVERSITY).into()), PinStore::in_memory()).await;
    let task = client.task(request()).await.unwrap();
    show_rsa(&server, &[HOSPITAL_A]);

    let error = client.task(request()).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Pin(PinError::Mismatch { organization, .. }) if organization == "hospital-a")
    );
    assert_eq!(server.count("POST /task"), 1, "nothing was sent");

    // Nor does an answer pass that anybody could have sealed, though that is how organizations with RSA keys answer.
    let manifest = task.manifest.unwrap().verify(&key(UNIVERSITY).public()).unwrap();
    let forged = seal_result_anonymously(&manifest, HOSPITAL_A, b"{\"n\": 1}");
    let id =
        server.state().runs.iter().find(|run| run.organization.as_ref().unwrap().id == HOSPITAL_A.get()).unwrap().id;
    server.state().results.insert(id, forged);
    let results = client.results(task.id).await.unwrap();
    assert!(matches!(results.runs[1].outcome, Err(RunError::Tampered { .. })));
    assert!(results.runs[0].is_proven && !results.runs[1].is_proven);
}

#[tokio::test]
async fn what_needs_a_signature_is_not_asked_with_an_rsa_key() {
    let server = Server::start().await;
    show_rsa(&server, &[UNIVERSITY, HOSPITAL_A]);
    let client = client_of(&server, Some(PrivateKey::Rsa(rsa_key())), PinStore::in_memory()).await;
    let error = client.task(request()).await.unwrap_err();
    assert!(matches!(&error, ClientError::NeedsSignature { organization } if organization == "hospital-b"), "{error}");
    let mut limited = request();
    limited.organizations = vec![HOSPITAL_A];
    limited.delegation = Delegate::Nothing;
    let error = client.task(limited.clone()).await.unwrap_err();
    assert!(matches!(error, ClientError::Delegation), "{error}");
    assert_eq!(server.count("POST /task"), 0);
    limited.delegation = Delegate::ByConvention;
    client.task(limited).await.unwrap();
}

#[tokio::test]
async fn a_task_signed_before_the_key_became_rsa_is_named() {
    let server = Server::start().await;
    let before = client_of(&server, Some(key(UNIVERSITY).into()), PinStore::in_memory()).await;
    let task = before.task(request()).await.unwrap();
    show_rsa(&server, &[UNIVERSITY]);
    let after = client_of(&server, Some(PrivateKey::Rsa(rsa_key())), PinStore::in_memory()).await;
    let error = after.results(task.id).await.unwrap_err();
    assert!(matches!(error, ClientError::SignedBefore { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--key"));
}
