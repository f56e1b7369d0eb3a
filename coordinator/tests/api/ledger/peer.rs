use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use twinmesh_protocol::certificate::{CERTIFICATE_VERSION, NodeCertificate};
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::OrganizationKey;
use twinmesh_protocol::signed::Signed;

use super::federation::{Answer, Federation};

fn certificate(federation: &Federation, member: usize) -> NodeCertificate {
    NodeCertificate {
        version: CERTIFICATE_VERSION,
        organization_id: OrganizationId::new(federation.members[member].organization),
        collaboration_id: CollaborationId::new(federation.collaboration),
        node_key: OrganizationKey::from_seed(&[77; 32]).public(),
        issued_at: 1_700_000_000,
        not_after: 1_900_000_000,
    }
}

fn body(certificate: &NodeCertificate, key: &OrganizationKey) -> Value {
    json!({"certificate": Signed::sign(certificate, key).unwrap(), "addresses": ["/ip4/127.0.0.1/tcp/4001"]})
}

async fn publish(federation: &Federation, token: &str, node: i64, body: Value) -> Answer {
    federation.ask(Method::PUT, &format!("/node/{node}/peer"), Some(token), Some(body), &[]).await
}

#[tokio::test]
async fn a_node_tells_its_collaboration_how_it_is_reached() {
    let federation = Federation::new(2, false).await;
    let member = &federation.members[0];
    let good = certificate(&federation, 0);
    publish(&federation, &member.node_token, member.node, body(&good, &member.key)).await.expect(200);
    let path = format!("/peer?collaboration_id={}", federation.collaboration);
    for token in [&federation.members[1].node_token, &federation.members[1].researcher] {
        let peers = federation.get(token, &path).await.expect(200);
        assert_eq!(peers["data"].as_array().unwrap().len(), 1);
        assert_eq!(peers["data"][0]["node_id"], member.node);
        assert_eq!(peers["data"][0]["organization_id"], member.organization);
        assert_eq!(peers["data"][0]["addresses"], json!(["/ip4/127.0.0.1/tcp/4001"]));
        assert_eq!(peers["data"][0]["certificate"], body(&good, &member.key)["certificate"]);
    }
    let others = federation.add_organizations("other", 1).await;
    let (_, others) = federation.add_collaboration("others", &others, false).await;
    assert_eq!(federation.get(&others[0].node_token, &path).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(federation.get(&member.node_token, "/peer").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_certificate_that_its_organization_did_not_sign_is_refused() {
    let federation = Federation::new(2, false).await;
    let [member, other] = [0, 1].map(|at| &federation.members[at]);
    let good = certificate(&federation, 0);
    let expired = NodeCertificate { not_after: 1_700_000_001, ..good.clone() };
    let elsewhere = NodeCertificate { collaboration_id: CollaborationId::new(9), ..good.clone() };
    let others = certificate(&federation, 1);
    for (body, text) in [
        (body(&good, &other.key), "expected"),
        (body(&expired, &member.key), "expired"),
        (body(&elsewhere, &member.key), "collaboration 9"),
        (body(&others, &member.key), "organization"),
    ] {
        let answer = publish(&federation, &member.node_token, member.node, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{text}");
        assert!(answer.msg().contains(text), "{text}: {}", answer.msg());
    }
    let mut wrong = body(&good, &member.key);
    wrong["addresses"] = json!(["example.org:1"]);
    assert_eq!(publish(&federation, &member.node_token, member.node, wrong).await.status, StatusCode::BAD_REQUEST);
    for token in [&other.node_token, &federation.root] {
        let answer = publish(&federation, token, member.node, body(&good, &member.key)).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
}

#[tokio::test]
async fn the_meeting_point_is_told_and_keeps_its_identity() {
    let none = Federation::new(1, false).await;
    assert_eq!(none.get(&none.root, "/overlay").await.expect(200), json!({"relay": null, "relays": []}));

    let listen = |config: &mut twinmesh_coordinator::config::Config| {
        config.overlay.listen = vec!["/ip4/127.0.0.1/tcp/0".into()];
    };
    let federation = Federation::with(1, false, listen).await;
    let info = federation.get(&federation.members[0].node_token, "/overlay").await.expect(200);
    assert!(info["relay"]["peer_id"].is_string());
    let address = info["relay"]["addresses"][0].as_str().unwrap();
    assert!(address.starts_with("/ip4/127.0.0.1/tcp/") && !address.ends_with("/0"), "{address}");
    let place = json!({"peer_id": info["relay"]["peer_id"], "addresses": info["relay"]["addresses"]});
    assert_eq!(info["relays"], json!([place]));
    let member = &federation.members[0];
    let good = body(&certificate(&federation, 0), &member.key);
    publish(&federation, &member.node_token, member.node, good).await.expect(200);
    let key = federation.directory.path().join("relay.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}
