//! A target for each decoder that sees the network: whatever comes in, it answers and never panics. What can be written
//! again reads as it was.

use serde::de::DeserializeOwned;
use twinmesh_coordinator::fuzzing;
use twinmesh_protocol::certificate::{SignedCertificate, verify_certificate};
use twinmesh_protocol::id::{CollaborationId, OrganizationId};
use twinmesh_protocol::key::{OrganizationKey, PrivateKey, PublicKey};
use twinmesh_protocol::manifest::{Nonce, SignedManifest};
use twinmesh_protocol::sealed::{self, Direction, SealContext};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{Event, Hello, NewTask, OverlayInfo, Page, PeerRecord, Problem, Run, Task, TokenPair};
use twinmesh_protocol::{environment, payload as payloads};

/// A target: its name, and what is thrown at.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("payload", payload),
    ("sealed", sealed),
    ("signed", signed),
    ("key", key),
    ("environment", environment),
    ("wire", wire),
    ("query", query),
    ("token", token),
    ("body", body),
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
    read::<Event>(data);
    read::<Hello>(data);
    read::<NewTask>(data);
    read::<OverlayInfo>(data);
    read::<PeerRecord>(data);
    read::<Problem>(data);
    read::<Page<Run>>(data);
    read::<Page<Task>>(data);
    read::<TokenPair>(data);
    let _ = text(data).parse::<Time>();
}

/// A request's query and its place in the log.
pub fn query(data: &[u8]) {
    fuzzing::query(text(data));
}

/// A token.
pub fn token(data: &[u8]) {
    fuzzing::token(text(data));
}

/// A request's body.
pub fn body(data: &[u8]) {
    fuzzing::body(data);
}
