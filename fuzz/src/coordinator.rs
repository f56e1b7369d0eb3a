//! The words that all share (`protocol`), and what the coordinator reads.

use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use twinmesh_coordinator::fuzzing;
use twinmesh_protocol::certificate::{SignedCertificate, verify_certificate};
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::{OrganizationKey, PrivateKey, PublicKey};
use twinmesh_protocol::manifest::{Nonce, SignedManifest};
use twinmesh_protocol::sealed::{self, Direction, SealContext};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{
    AlgorithmAddresses, Collaboration, ContainerToken, Event, Hello, KeyRecord, NewTask, Node, Organization,
    OverlayInfo, Page, PeerRecord, Problem, Run, RunResult, StatusAnswer, Task, TokenPair, UploadProgress, read_flag,
    read_repr_digest, write_repr_digest,
};
use twinmesh_protocol::{envelope as envelopes, environment, payload as payloads};

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("payload", payload),
    ("sealed", sealed),
    ("signed", signed),
    ("envelope", envelope),
    ("key", key),
    ("environment", environment),
    ("wire", wire),
    ("query", query),
    ("headers", headers),
    ("token", token),
    ("secrets", secrets),
    ("body", body),
    ("files", files),
    ("review", review),
];

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

/// A payload's text form.
pub fn payload(data: &[u8]) {
    let text = text(data);
    let _ = payloads::classify(text);
    let _ = payloads::classify_object(data);
    if let Ok(bytes) = payloads::from_text(text) {
        assert_eq!(payloads::from_text(&payloads::to_text(&bytes)).as_ref(), Ok(&bytes));
    }
}

/// A sealed payload: only what was sealed with this key opens, and nobody here has done so with these bytes.
pub fn sealed(data: &[u8]) {
    let (receiver, sender) = (OrganizationKey::from_seed(&[1; 32]), OrganizationKey::from_seed(&[2; 32]).public());
    let context = SealContext {
        direction: Direction::Input,
        collaboration_id: CollaborationId::new(1),
        sender: OrganizationId::new(2),
        receiver: OrganizationId::new(3),
        nonce: serde_json::from_str::<Nonce>("\"00000000000000000000000000000000\"")
            .unwrap_or_else(|_| Nonce::random()),
    };
    let _ = sealed::open(&receiver, &sender, &context, data);
    let _ = sealed::open_anonymous(&receiver, &context, data);
}

/// Signed statements.
pub fn signed(data: &[u8]) {
    let pinned = OrganizationKey::from_seed(&[3; 32]).public();
    if let Ok(manifest) = serde_json::from_slice::<SignedManifest>(data) {
        let _ = manifest.digest();
        let _ = manifest.verify(&pinned);
        let _ = manifest.read_unverified().map(|task| task.participants());
    }
    if let Ok(certificate) = serde_json::from_slice::<SignedCertificate>(data) {
        let _ = verify_certificate(&certificate, OrganizationId::new(1), &pinned, Time::from_micros(0));
    }
}

/// Envelopes for RSA keys. Anybody can make one, so some open; what opens as text is text.
pub fn envelope(data: &[u8]) {
    static KEY: OnceLock<Option<PrivateKey>> = OnceLock::new();
    let pem = include_str!("../../client/tests/api/rsa_private.pem");
    let Some(PrivateKey::Rsa(key)) = KEY.get_or_init(|| PrivateKey::from_pem(pem).ok()) else { return };
    let text = text(data);
    let _ = envelopes::open(key, text);
    if let Ok(content) = envelopes::open_text(key, text) {
        assert!(std::str::from_utf8(&content).is_ok());
    }
    let sealed = envelopes::seal(key.public(), data).map(|sealed| envelopes::open(key, &sealed));
    assert_eq!(sealed.ok().and_then(Result::ok).as_deref(), Some(data), "what is sealed opens as it was");
}

/// Keys.
pub fn key(data: &[u8]) {
    let text = text(data);
    let _ = PrivateKey::from_pem(text);
    let _ = PublicKey::from_pem(text);
    if let Ok(key) = PublicKey::from_api(text) {
        assert!(PublicKey::from_api(&key.to_api()).is_ok_and(|again| again.fingerprint() == key.fingerprint()));
    }
}

/// Variables of a run.
pub fn environment(data: &[u8]) {
    let text = text(data);
    let _ = environment::decode_value(text);
    assert_eq!(environment::decode_value(&environment::encode_value(text)).as_deref().ok(), Some(text));
}

/// What coordinators answer and nodes and clients read.
pub fn wire(data: &[u8]) {
    fn read<T: DeserializeOwned>(data: &[u8]) {
        let _ = serde_json::from_slice::<T>(data);
    }
    read::<AlgorithmAddresses>(data);
    read::<ContainerToken>(data);
    read::<Event>(data);
    read::<Hello>(data);
    read::<NewTask>(data);
    read::<OverlayInfo>(data);
    read::<PeerRecord>(data);
    read::<Problem>(data);
    read::<Page<Collaboration>>(data);
    read::<Page<KeyRecord>>(data);
    read::<Page<Node>>(data);
    read::<Page<Organization>>(data);
    read::<Page<Run>>(data);
    read::<Page<RunResult>>(data);
    read::<Page<Task>>(data);
    read::<StatusAnswer>(data);
    read::<TokenPair>(data);
    read::<UploadProgress>(data);
    let text = text(data);
    let _ = text.parse::<Time>();
    let _ = read_flag(text);
    if let Some(digest) = read_repr_digest(text) {
        assert_eq!(read_repr_digest(&write_repr_digest(digest)), Some(digest));
    }
}

/// A request's query and its place in the log.
pub fn query(data: &[u8]) {
    fuzzing::query(text(data));
}

/// A request's headers.
pub fn headers(data: &[u8]) {
    fuzzing::headers(text(data));
}

/// Codes, mailed tokens, and what users say of themselves.
pub fn secrets(data: &[u8]) {
    fuzzing::secrets(text(data));
}

/// Settings, and files to import.
pub fn files(data: &[u8]) {
    fuzzing::files(text(data));
}

/// What an algorithm store answers.
pub fn review(data: &[u8]) {
    fuzzing::review(data);
}

/// A token.
pub fn token(data: &[u8]) {
    fuzzing::token(text(data));
}

/// A request's body.
pub fn body(data: &[u8]) {
    fuzzing::body(data);
}
