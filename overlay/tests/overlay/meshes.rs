//! Job meshes: who gets in, at both ends.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use twinmesh_overlay::{
    Arrival, Arrivals, Credentials, DialError, JobMeshes, Overlay, Path, Paths,
    carrier::{Carrier, Splice},
    mesh::{MAX_OPENING_BYTES, MeshId, Refusal},
};
use twinmesh_protocol::{
    certificate::{CERTIFICATE_VERSION, NodeCertificate, SignedCertificate},
    id::{CollaborationId, NodeId, OrganizationId},
    key::{OrganizationKey, OrganizationPublicKey},
    signed::Signed,
    time::Time,
    wire::PeerRecord,
};

use crate::support::{node, open, within};

const PORT: u16 = 50_000;

/// The node of an organization: its id is also the seed of the node's key, and 100 more that of the organization's.
struct Member {
    id: u8,
    overlay: Overlay,
    meshes: JobMeshes,
    arrivals: tokio::sync::Mutex<Arrivals>,
    clock: Arc<AtomicI64>,
}

impl Member {
    async fn start(id: u8) -> Self {
        let (overlay, incoming) = node(id, Paths::Any, None).await;
        let clock = Arc::new(AtomicI64::new(1000));
        let seconds = clock.clone();
        let (meshes, arrivals) = JobMeshes::start(
            overlay.clone(),
            incoming,
            Credentials { organization_id: organization(id), certificate: certificate(id, id, id) },
            Arc::new(move || Time::from_micros(seconds.load(Ordering::Relaxed) * 1_000_000)),
        );
        Self { id, overlay, meshes, arrivals: arrivals.into(), clock }
    }

    fn opens(&self, mesh: &str, members: &[u8]) {
        let members: BTreeMap<OrganizationId, OrganizationPublicKey> =
            members.iter().map(|id| (organization(*id), organization_key(*id).public())).collect();
        self.meshes.open_mesh(mesh_id(mesh), CollaborationId::new(7), members);
    }

    fn record(&self) -> PeerRecord {
        self.record_with(certificate(self.id, self.id, self.id))
    }

    fn record_with(&self, certificate: SignedCertificate) -> PeerRecord {
        PeerRecord {
            node_id: NodeId::new(self.id.into()),
            organization_id: organization(self.id),
            certificate,
            addresses: self.overlay.listen_addresses().iter().map(ToString::to_string).collect(),
            status: Some("online".into()),
        }
    }

    async fn arrival(&self) -> Arrival {
        let mut arrivals = self.arrivals.lock().await;
        within("the arrival", arrivals.next()).await.unwrap()
    }

    async fn dials(&self, mesh: &str, other: &Member) -> Result<twinmesh_overlay::TwinStream, DialError> {
        let (mesh, record) = (mesh_id(mesh), other.record());
        within("the dial", self.meshes.dial(&mesh, organization(other.id), &record, PORT)).await
    }
}

fn organization(id: u8) -> OrganizationId {
    OrganizationId::new(id.into())
}

fn organization_key(id: u8) -> OrganizationKey {
    OrganizationKey::from_seed(&[100 + id; 32])
}

fn mesh_id(text: &str) -> MeshId {
    text.parse().unwrap()
}

fn certificate(id: u8, signer: u8, node: u8) -> SignedCertificate {
    let statement = NodeCertificate {
        version: CERTIFICATE_VERSION,
        organization_id: organization(id),
        collaboration_id: CollaborationId::new(7),
        node_key: OrganizationKey::from_seed(&[node; 32]).public(),
        issued_at: 0,
        not_after: 2000,
    };
    Signed::sign(&statement, &organization_key(signer)).unwrap()
}

fn refusal(result: Result<twinmesh_overlay::TwinStream, DialError>) -> Refusal {
    match result {
        Err(DialError::Refused { refusal, .. }) => refusal,
        other => panic!("expected a refusal by the other node, not {other:?}"),
    }
}

#[tokio::test]
async fn members_reach_each_other_and_know_whom_they_talk_to() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    let (dialled, accepted) = tokio::join!(a.dials("job-1", &b), async {
        let arrival = b.arrival().await;
        assert_eq!(arrival.admitted.mesh, mesh_id("job-1"));
        assert_eq!(arrival.admitted.organization_id, organization(1));
        assert_eq!(arrival.admitted.peer, a.overlay.peer_id());
        assert_eq!(arrival.admitted.port, PORT);
        arrival.accept().await.unwrap()
    });
    let (mut dialled, mut accepted) = (dialled.unwrap(), accepted);
    assert_eq!(dialled.path(), Path::DirectTcp);
    dialled.write_all(b"hello").await.unwrap();
    dialled.shutdown().await.unwrap();
    let mut text = String::new();
    within("the greeting", accepted.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "hello");
}

#[tokio::test]
async fn a_mesh_that_is_not_open_yet_is_a_refusal_that_may_pass() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    let error = a.dials("job-1", &b).await.unwrap_err();
    assert!(error.may_pass(), "{error}");
    assert_eq!(refusal(Err(error)), Refusal::MeshNotOpen { mesh: mesh_id("job-1") });
    // At one's own end it is an error of the caller.
    assert!(matches!(a.dials("job-2", &b).await, Err(DialError::NotTrusted { .. })));
}

#[tokio::test]
async fn the_node_says_whether_the_port_is_there() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    let (dialled, ()) = tokio::join!(a.dials("job-1", &b), async {
        let arrival = b.arrival().await;
        let port = arrival.admitted.port;
        arrival.refuse(Refusal::NoSuchPort { port }).await;
    });
    assert_eq!(refusal(dialled), Refusal::NoSuchPort { port: PORT });
}

#[tokio::test]
async fn both_ends_refuse_who_is_not_a_member() {
    let (a, b, c) = (Member::start(1).await, Member::start(2).await, Member::start(3).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    c.opens("job-1", &[1, 2, 3]);
    let expected = Refusal::NotAMember { mesh: mesh_id("job-1"), organization_id: organization(3) };
    assert_eq!(refusal(c.dials("job-1", &b).await), expected);
    match a.dials("job-1", &c).await {
        Err(DialError::NotTrusted { refusal, .. }) => assert_eq!(refusal, expected),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn both_ends_refuse_a_certificate_of_another_key() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    let not_signed = Refusal::NotSignedByPinnedKey { organization_id: organization(1) };
    let credentials = |certificate| Credentials { organization_id: organization(1), certificate };
    a.meshes.set_credentials(credentials(certificate(1, 3, 1)));
    assert_eq!(refusal(a.dials("job-1", &b).await), not_signed);
    a.meshes.set_credentials(credentials(certificate(1, 1, 9)));
    assert_eq!(refusal(a.dials("job-1", &b).await), Refusal::OtherNodeKey { organization_id: organization(1) });
    let forged = b.record_with(certificate(2, 3, 2));
    let dial = a.meshes.dial(&mesh_id("job-1"), organization(2), &forged, PORT).await;
    assert!(matches!(dial, Err(DialError::NotTrusted { .. })), "{dial:?}");
    // A certificate for a node that is not the one at the address: its key is never proven.
    let elsewhere = b.record_with(certificate(2, 2, 9));
    let dial = a.meshes.dial(&mesh_id("job-1"), organization(2), &elsewhere, PORT).await;
    assert!(matches!(dial, Err(DialError::Open { .. })), "{dial:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_by_the_clock_of_whoever_checks() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    b.clock.store(3000, Ordering::Relaxed);
    assert!(matches!(refusal(a.dials("job-1", &b).await), Refusal::Expired { .. }));
    match b.dials("job-1", &a).await {
        Err(DialError::NotTrusted { refusal: Refusal::Expired { .. }, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn closing_a_mesh_cuts_its_streams_and_only_these() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    for member in [&a, &b] {
        member.opens("job-1", &[1, 2]);
        member.opens("job-2", &[1, 2]);
    }
    let mut pairs = Vec::new();
    for mesh in ["job-1", "job-2"] {
        let (dialled, accepted) = tokio::join!(a.dials(mesh, &b), async { b.arrival().await.accept().await.unwrap() });
        pairs.push((dialled.unwrap(), accepted));
    }
    b.meshes.close_mesh(&mesh_id("job-1"));
    let mut byte = [0];
    let (mut dialled, mut accepted) = pairs.remove(0);
    assert!(within("the cut here", accepted.read(&mut byte)).await.is_err());
    drop(accepted);
    assert!(within("the cut there", dialled.read(&mut byte)).await.is_err());
    let (mut dialled, mut accepted) = pairs.remove(0);
    dialled.write_all(b"x").await.unwrap();
    dialled.flush().await.unwrap();
    within("the other mesh", accepted.read_exact(&mut byte)).await.unwrap();
    assert!(!b.meshes.is_open(&mesh_id("job-1")) && b.meshes.is_open(&mesh_id("job-2")));
}

#[tokio::test]
async fn an_opening_that_is_too_long_or_garbled_is_refused_by_name() {
    let (a, _a) = node(9, Paths::Any, None).await;
    let b = Member::start(2).await;
    let too_long = u32::try_from(MAX_OPENING_BYTES + 1).unwrap().to_be_bytes().to_vec();
    for opening in [too_long, b"\0\0\0\x02{}".to_vec()] {
        let mut stream = open(&a, b.overlay.peer_id(), &b.overlay.listen_addresses()).await;
        stream.write_all(&opening).await.unwrap();
        stream.flush().await.unwrap();
        let mut answer = Vec::new();
        within("the refusal", stream.read_to_end(&mut answer)).await.unwrap();
        let text = String::from_utf8_lossy(&answer[4..]).into_owned();
        assert!(text.starts_with(r#"{"refused":{"code":"malformed""#), "{text}");
    }
}

#[tokio::test]
async fn a_silent_opener_holds_nobody_up() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    let (silent, _silent) = node(9, Paths::Any, None).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = open(&silent, b.overlay.peer_id(), &b.overlay.listen_addresses()).await;
        stream.write_all(b"\0").await.unwrap();
        stream.flush().await.unwrap();
        held.push(stream);
    }
    let (dialled, _accepted) =
        tokio::join!(tokio::time::timeout(Duration::from_secs(5), a.dials("job-1", &b)), async {
            b.arrival().await.accept().await.unwrap()
        });
    dialled.expect("others must not wait for the silent ones").unwrap();
}

#[tokio::test]
async fn a_connection_is_spliced_from_run_to_run() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    let (mut run, gateway) = socket_pair().await;
    let (port, mut twin) = socket_pair().await;
    let (dialled, accepted) = tokio::join!(a.dials("job-1", &b), async { b.arrival().await.accept().await.unwrap() });
    let here = tokio::spawn(Splice.carry(gateway, dialled.unwrap()));
    let there = tokio::spawn(Splice.carry(port, accepted));
    run.write_all(&vec![1; 300_000]).await.unwrap();
    run.shutdown().await.unwrap();
    let mut question = Vec::new();
    within("the question", twin.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question.len(), 300_000);
    twin.write_all(b"answer").await.unwrap();
    twin.shutdown().await.unwrap();
    let mut answer = String::new();
    within("the answer", run.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "answer");
    let carried = within("the end", here).await.unwrap().unwrap();
    assert_eq!((carried.sent, carried.received), (300_000, 6));
    within("the end", there).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_sees_a_reset_when_its_twins_node_dies() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.opens("job-1", &[1, 2]);
    b.opens("job-1", &[1, 2]);
    let (mut run, gateway) = socket_pair().await;
    let (dialled, _accepted) = tokio::join!(a.dials("job-1", &b), async { b.arrival().await.accept().await.unwrap() });
    let carrying = tokio::spawn(Splice.carry(gateway, dialled.unwrap()));
    b.overlay.shutdown().await;
    let mut byte = [0];
    let error = within("the reset", run.read(&mut byte)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(within("the carrier's end", carrying).await.unwrap().is_err());
}

async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}
