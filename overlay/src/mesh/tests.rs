use proptest::prelude::*;
use twinmesh_protocol::{
    certificate::{CERTIFICATE_VERSION, NodeCertificate},
    id::NodeId,
    key::OrganizationKey,
    signed::Signed,
};

use super::*;

const HOUR: i64 = 3600;

fn key(seed: u8) -> OrganizationKey {
    OrganizationKey::from_seed(&[seed; 32])
}

fn organization(id: i64) -> OrganizationId {
    OrganizationId::new(id)
}

fn now() -> Time {
    Time::from_micros(1_000 * HOUR * 1_000_000)
}

fn mesh_id(text: &str) -> MeshId {
    text.parse().unwrap()
}

/// Organizations 1 and 2 with keys 1 and 2, whose nodes have keys 101 and 102.
fn meshes() -> Meshes {
    let mut meshes = Meshes::default();
    let members = [1, 2].map(|id: u8| (organization(id.into()), key(id).public())).into();
    assert!(meshes.open(mesh_id("job-1"), Mesh { collaboration_id: CollaborationId::new(7), members }));
    meshes
}

fn statement(id: u8) -> NodeCertificate {
    NodeCertificate {
        version: CERTIFICATE_VERSION,
        organization_id: organization(id.into()),
        collaboration_id: CollaborationId::new(7),
        node_key: key(100 + id).public(),
        issued_at: 999 * HOUR,
        not_after: 1_001 * HOUR,
    }
}

fn opening(certificate: &NodeCertificate, signer: u8) -> Opening {
    Opening {
        mesh: mesh_id("job-1"),
        organization_id: certificate.organization_id,
        certificate: Signed::sign(certificate, &key(signer)).unwrap(),
        port: 50_000,
    }
}

fn peer(seed: u8) -> PeerId {
    peer_id(&key(seed).public()).unwrap()
}

fn record(opening: &Opening) -> PeerRecord {
    PeerRecord {
        node_id: NodeId::new(1),
        organization_id: opening.organization_id,
        certificate: opening.certificate.clone(),
        addresses: vec!["/ip4/192.0.2.1/tcp/1".into(), "garbage".into()],
        status: None,
    }
}

#[test]
fn a_members_node_is_admitted() {
    let opening = opening(&statement(2), 2);
    let admitted = meshes().admit(peer(102), &opening, now()).unwrap();
    assert_eq!((admitted.organization_id, admitted.peer, admitted.port), (organization(2), peer(102), 50_000));
}

#[test]
fn a_peer_record_of_a_member_is_trusted_and_its_bad_addresses_left_out() {
    let meshes = meshes();
    let record = record(&opening(&statement(2), 2));
    let verified = meshes.verify_peer(&mesh_id("job-1"), organization(2), &record, now()).unwrap();
    assert_eq!((verified.peer, verified.addresses.len()), (peer(102), 1));
}

#[test]
fn each_flaw_has_its_own_refusal_at_both_ends() {
    let id = organization(2);
    let good = statement(2);
    let flaws: Vec<(Opening, Refusal)> = vec![
        (Opening { mesh: mesh_id("job-2"), ..opening(&good, 2) }, Refusal::MeshNotOpen { mesh: mesh_id("job-2") }),
        (opening(&statement(3), 3), Refusal::NotAMember { mesh: mesh_id("job-1"), organization_id: organization(3) }),
        (opening(&good, 3), Refusal::NotSignedByPinnedKey { organization_id: id }),
        (
            Opening { organization_id: organization(1), ..opening(&good, 1) },
            Refusal::OtherOrganization { found: id, expected: organization(1) },
        ),
        (
            opening(&NodeCertificate { collaboration_id: CollaborationId::new(8), ..good.clone() }, 2),
            Refusal::OtherCollaboration { organization_id: id },
        ),
        (
            opening(&NodeCertificate { not_after: 999 * HOUR, ..good.clone() }, 2),
            Refusal::Expired { organization_id: id, not_after: "1970-02-11T15:00:00.000Z".into() },
        ),
        (opening(&NodeCertificate { version: 9, ..good.clone() }, 2), Refusal::CertificateVersion { version: 9 }),
    ];
    let meshes = meshes();
    for (opening, refusal) in flaws {
        assert_eq!(meshes.admit(peer(102), &opening, now()), Err(refusal.clone()));
        let verified = meshes.verify_peer(&opening.mesh, opening.organization_id, &record(&opening), now());
        assert_eq!(verified, Err(refusal));
    }
}

#[test]
fn another_node_with_a_copied_certificate_is_refused() {
    let opening = opening(&statement(2), 2);
    let refusal = meshes().admit(peer(101), &opening, now()).unwrap_err();
    assert_eq!(refusal, Refusal::OtherNodeKey { organization_id: organization(2) });
}

#[test]
fn a_closed_mesh_admits_nobody() {
    let mut meshes = meshes();
    let opening = opening(&statement(2), 2);
    assert!(meshes.close(&mesh_id("job-1")) && !meshes.close(&mesh_id("job-1")));
    let refusal = meshes.admit(peer(102), &opening, now()).unwrap_err();
    assert!(refusal.may_pass() && matches!(refusal, Refusal::MeshNotOpen { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whoever is admitted is exactly the node that a member's pinned key certified for this collaboration and time,
    /// whatever was opened and closed before.
    #[test]
    fn nobody_but_a_certified_node_of_a_member_gets_in(
        operations in prop::collection::vec((0_u8..3, 0_u8..3, prop::collection::btree_set(1_u8..5, 0..4)), 0..12),
        wanted in 0_u8..3,
        claimed in 1_u8..5,
        named in 1_u8..5,
        signer in 1_u8..5,
        node in 1_u8..5,
        remote in 1_u8..5,
        collaboration in 7_i64..9,
        not_after in 999_i64..1002,
    ) {
        let mut meshes = Meshes::default();
        let mut model: BTreeMap<u8, std::collections::BTreeSet<u8>> = BTreeMap::new();
        for (operation, mesh, members) in operations {
            let id = mesh_id(&format!("job-{mesh}"));
            if operation == 0 {
                prop_assert_eq!(meshes.close(&id), model.remove(&mesh).is_some());
            } else {
                let keys = members.iter().map(|id| (organization((*id).into()), key(*id).public())).collect();
                let was_closed = meshes.open(id, Mesh { collaboration_id: CollaborationId::new(7), members: keys });
                prop_assert_eq!(was_closed, model.insert(mesh, members).is_none());
            }
        }
        let certificate = NodeCertificate {
            organization_id: organization(named.into()),
            collaboration_id: CollaborationId::new(collaboration),
            node_key: key(100 + node).public(),
            not_after: not_after * HOUR,
            ..statement(1)
        };
        let opening = Opening {
            mesh: mesh_id(&format!("job-{wanted}")),
            organization_id: organization(claimed.into()),
            certificate: Signed::sign(&certificate, &key(signer)).unwrap(),
            port: 1,
        };
        let expected = model.get(&wanted).is_some_and(|members| members.contains(&claimed))
            && signer == claimed
            && named == claimed
            && collaboration == 7
            && not_after >= 1000;
        let admitted = meshes.admit(peer(100 + remote), &opening, now());
        prop_assert_eq!(admitted.is_ok(), expected && node == remote);
        let verified = meshes.verify_peer(&opening.mesh, opening.organization_id, &record(&opening), now());
        prop_assert_eq!(verified.is_ok(), expected);
    }
}
