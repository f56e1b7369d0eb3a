//! Decoders of what runs, the coordinator and other organizations say, for those who throw anything at them. Not part of
//! the interface.

use std::os::fd::AsFd as _;

use rustix::net::{RecvFlags, SendFlags};
use twinmesh_protocol::{
    digest::Digest,
    id::{CollaborationId, OrganizationId},
    manifest::{MANIFEST_VERSION, Nonce, Receiver, TaskManifest},
    payload,
};

use crate::{
    admission::check_method,
    gateway,
    sandbox::{
        control::Channel,
        message::{self, Report, Request},
    },
};

/// What a run asks of its gateway.
///
/// # Panics
/// When words of the run's own would go on to the coordinator.
pub fn request(bytes: &[u8]) {
    gateway::fuzzing::request(bytes);
}

/// What the coordinator answers to a run's questions.
///
/// # Panics
/// When other runs are believed than those that were asked for.
pub fn answer(bytes: &[u8]) {
    gateway::fuzzing::answer(bytes, &manifest());
}

/// A packet on the control channel of a run: it is answered, or the run asks for nothing more.
///
/// # Panics
/// When it is neither.
pub fn control(bytes: &[u8]) {
    let _ = serde_json::from_slice::<Request>(bytes);
    let _ = serde_json::from_slice::<Report>(bytes);
    let Ok((run, agent)) = message::packet_pair() else { return };
    let sent = rustix::net::send(&run, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    let mut channel = Channel::new(agent, true);
    channel.hear(None);
    if sent.is_err() || bytes.is_empty() {
        return;
    }
    let mut answer = [0; 4096];
    let answered = rustix::net::recv(run.as_fd(), &mut answer[..], RecvFlags::DONTWAIT);
    assert!(answered.is_ok_and(|(length, _)| length > 0) || channel.descriptor().is_none(), "no answer");
}

/// An input: an object from the store, and what it calls.
///
/// # Panics
/// When an object's text is that of another.
pub fn input(bytes: &[u8]) {
    let _ = check_method(bytes, &manifest());
    let Ok(text) = payload::text_from_object(bytes.to_vec()) else { return };
    if let Ok(content) = payload::from_text(&text) {
        let _ = check_method(&content, &manifest());
        assert_eq!(payload::object_from_text(&text).as_deref(), Ok(bytes), "an object's text is that object's");
    }
}

fn manifest() -> TaskManifest {
    let receiver = |id| Receiver { organization_id: OrganizationId::new(id), input_sha256: Digest::of(b"") };
    TaskManifest {
        version: MANIFEST_VERSION,
        collaboration_id: CollaborationId::new(1),
        image: "image".into(),
        function: "m".into(),
        databases: Vec::new(),
        receivers: vec![receiver(1), receiver(2)],
        initiator: OrganizationId::new(1),
        user_id: None,
        parent: None,
        delegation: None,
        nonce: Nonce::new([7; 16]),
        issued_at: 0,
        not_after: 0,
    }
}
