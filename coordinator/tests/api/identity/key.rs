//! The public keys of organizations are kept, with who brought them.

use axum::http::Method;
use serde_json::{Value, json};
use twinmesh_protocol::key::OrganizationKey;

use crate::ledger::federation::{Federation, id};

fn fingerprints(answer: &Value) -> Vec<String> {
    let data = answer["data"].as_array().unwrap().iter();
    data.map(|key| key["fingerprint"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn every_key_that_an_organization_had_stays_known() {
    let federation = Federation::new(2, false).await;
    let member = &federation.members[0];
    federation.add_user("keeper", member.organization, &[6]).await;
    let keeper = federation.log_in("keeper").await;
    let path = format!("/organization/{}", member.organization);
    let first = member.key.public();
    let second = OrganizationKey::generate().public();
    let mut events = federation.follow(&federation.root, "latest").await;
    for (token, key) in [(&member.node_token, first), (&keeper, second), (&keeper, second), (&keeper, first)] {
        federation.patch(token, &path, json!({"public_key": key.to_api()})).await.expect(200);
    }
    // What others may not change leaves no trace.
    let other = json!({"public_key": OrganizationKey::generate().public().to_api()});
    federation.patch(&federation.root, &path, other).await.expect(401);
    let last = events.until(|event| event.kind == "key_changed").await;
    assert_eq!(last[0].data["organization_id"], member.organization);
    events.until(|event| event.kind == "key_changed").await;

    let keys = federation.get(&federation.members[1].researcher, &format!("{path}/key")).await.expect(200);
    assert_eq!(fingerprints(&keys), [first.fingerprint(), second.fingerprint(), first.fingerprint()]);
    let (current, before, oldest) = (&keys["data"][0], &keys["data"][1], &keys["data"][2]);
    assert_eq!((&current["type"], &current["replaced_at"]), (&json!("ed25519"), &Value::Null));
    assert_eq!(current["public_key"], first.to_api());
    assert_eq!(before["replaced_at"], current["set_at"]);
    assert_eq!(before["set_by"]["type"], "user");
    assert_eq!(oldest["set_by"], json!({"type": "node", "id": member.node}));
    let page = federation.get(&federation.root, &format!("{path}/key?per_page=1&page=2")).await;
    assert_eq!(page.headers["total-count"], "3");
    assert_eq!(fingerprints(&page.body), [second.fingerprint()]);
}

async fn node_token(federation: &Federation, answer: &Value) -> String {
    let body = json!({"api_key": answer["api_key"]});
    let pair = federation.ask(Method::POST, "/token/node", None, Some(body), &[]).await.expect(200);
    pair["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_node_replaces_a_key_only_if_its_api_key_was_given_to_a_member_who_may() {
    let federation = Federation::new(1, false).await;
    let (root, member) = (federation.root.as_str(), &federation.members[0]);
    let organization = format!("/organization/{}", member.organization);
    let body = json!({"name": "nodes", "rules": [3, 6], "organization_id": member.organization});
    let role = id(&federation.post(root, "/role", body).await.expect(201));
    federation.add_user("keeper", member.organization, &[6]).await;
    federation.add_user("technician", member.organization, &[role]).await;
    let (keeper, technician) = (federation.log_in("keeper").await, federation.log_in("technician").await);
    let replace = async |token: &str| {
        let key = OrganizationKey::generate().public();
        federation.patch(token, &organization, json!({"public_key": key.to_api()})).await
    };
    // `root`, who made the node, has its API key; its first key it brought all the same, and it may bring it again.
    let refused = replace(&member.node_token).await.expect(401);
    assert_eq!(refused["code"], "key_in_other_hands");
    assert!(refused["detail"].as_str().unwrap().contains("twinmesh key upload"), "{refused}");
    let same = json!({"public_key": member.key.public().to_api()});
    federation.patch(&member.node_token, &organization, same).await.expect(200);

    for (renewer, status) in [(root, 401), (&*keeper, 200), (&*technician, 401), (&*keeper, 200), (root, 401)] {
        let renewed = federation.post(renewer, "/recover/node", json!({"id": member.node})).await.expect(200);
        let token = node_token(&federation, &renewed).await;
        replace(&token).await.expect(status);
    }

    // The same where a node is made.
    for (name, maker, status) in [("second", &*keeper, 200), ("third", root, 401)] {
        let body = json!({"name": name, "organization_ids": [member.organization], "encrypted": false});
        let collaboration = id(&federation.post(root, "/collaboration", body).await.expect(200));
        let body = json!({"collaboration_id": collaboration, "organization_id": member.organization});
        let made = federation.post(maker, "/node", body).await.expect(201);
        replace(&node_token(&federation, &made).await).await.expect(status);
    }
}

#[tokio::test]
async fn keys_are_seen_by_whoever_sees_the_organization() {
    let federation = Federation::new(1, false).await;
    let key = OrganizationKey::generate().public();
    let body = json!({"name": "apart", "public_key": key.to_api()});
    let apart = id(&federation.post(&federation.root, "/organization", body).await.expect(201));
    let path = format!("/organization/{apart}/key");
    let keys = federation.get(&federation.root, &path).await.expect(200);
    assert_eq!(fingerprints(&keys), [key.fingerprint()]);
    assert_eq!(keys["data"][0]["set_by"], json!({"type": "user", "id": 1}));
    federation.get(&federation.members[0].researcher, &path).await.expect(401);
    federation.get(&federation.root, "/organization/99/key").await.expect(404);
    federation.ask(Method::GET, &path, None, None, &[]).await.expect(401);
}

#[tokio::test]
async fn keys_of_stock_clients_are_told_apart_too() {
    let federation = Federation::new(1, false).await;
    let pem = "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAn2Qhg0nXJ+Gk4SPQHiiO\nBxe9bTnUK1woldYUketgPAsy8rZQO/9kgksB86JVs1mLlk7hjVdFNa2uzeffhUFp\nTG8xNsbnkKGp49E47mxbgmueCym4B9FmnrxIONLdnGp3cLNeeVbzoS8Dwge6Wkxe\nX6u+P2VLdSzOzfxLkVKyLzsTxBEZKIy/Ii3eNGg94d/t0/ehF7yJ8tCy2IyVp/tk\nV5akiqJiOKTPIoZkmpnOhBz2ZHz6RvEPC4vKuq2IFsV3lB9yBQ5uxtHLe4a4D5QJ\n5FQ60MbvwvKV5iOFmo8xKXjywPwwxQ2zd1+f079sHgDoNK1GlI6g+UCKxnqRk1Ev\nWwIDAQAB\n-----END PUBLIC KEY-----\n";
    let key = twinmesh_protocol::payload::to_text(pem.as_bytes());
    let body = json!({"name": "stock", "public_key": key});
    let organization = id(&federation.post(&federation.root, "/organization", body).await.expect(201));
    let keys = federation.get(&federation.root, &format!("/organization/{organization}/key")).await.expect(200);
    assert_eq!(keys["data"][0]["type"], "rsa");
    assert_eq!(fingerprints(&keys)[0].split(' ').count(), 8);
}
