//! Decoders of what peers and the coordinator say, for those who throw anything at them. Not part of the interface.
//!
//! What travels below streams (handshakes, multiplexing, relaying) libp2p decodes.

use std::collections::BTreeMap;

use futures::FutureExt as _;
use libp2p::{Multiaddr, PeerId};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use twinmesh_protocol::{
    id::{CollaborationId, OrganizationId},
    key::OrganizationPublicKey,
    time::Time,
    wire::PeerRecord,
};

use crate::{
    address::{MAX_PEER_ADDRESSES, RelayAddress, dialable, is_local, publishable},
    mesh::{Mesh, Meshes},
    opening::{Answer, MAX_ANSWER_BYTES, MAX_OPENING_BYTES, MeshId, Opening, read_whenever},
    path::Path,
    record::Records,
};

/// The first message on a stream, from either side: as it comes, and behind a length that is right.
///
/// Nobody may come in: none but `pinned` certifies nodes of the one organization, and the peer has another key.
///
/// # Panics
/// When somebody is let in, or what is read does not read the same again.
pub fn opening(bytes: &[u8], pinned: OrganizationPublicKey) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    for input in [bytes.to_vec(), [length.as_slice(), bytes].concat()] {
        again::<Answer>(&input, MAX_ANSWER_BYTES);
        if let Some(opening) = again::<Opening>(&input, MAX_OPENING_BYTES) {
            let meshes = meshes(&opening.mesh, pinned);
            assert!(meshes.admit(nobody(), &opening, Time::from_micros(0)).is_err(), "nobody is let in");
        }
    }
}

/// The bytes of a stream between twins.
///
/// # Panics
/// When more is read than came, or what is written does not read the same.
pub fn stream(bytes: &[u8]) {
    let mut received = Vec::new();
    let read = Records::new(bytes).read_to_end(&mut received).now_or_never();
    assert!(read.is_some() && received.len() <= bytes.len());

    let mut written = Vec::new();
    let mut records = Records::new(&mut written);
    let wrote = async {
        records.write_all(bytes).await?;
        records.shutdown().await
    };
    assert!(matches!(wrote.now_or_never(), Some(Ok(()))));
    let mut back = Vec::new();
    let read = Records::new(written.as_slice()).read_to_end(&mut back).now_or_never();
    assert!(matches!(read, Some(Ok(_))) && back == bytes, "what is written reads as it was");
}

/// What the coordinator tells of a peer and of its relay: a record as JSON, an id and addresses as lines, an address as
/// bytes.
///
/// # Panics
/// When addresses are taken that nobody should dial, or a made-up record is believed.
pub fn peer(bytes: &[u8], pinned: OrganizationPublicKey) {
    if let Ok(record) = serde_json::from_slice::<PeerRecord>(bytes)
        && let Ok(mesh) = "job-1".parse::<MeshId>()
    {
        let verified = meshes(&mesh, pinned).verify_peer(&mesh, OrganizationId::new(1), &record, Time::from_micros(0));
        if let Ok(verified) = verified {
            judge(&verified.addresses, verified.peer);
        }
        let addresses: Vec<Multiaddr> = record.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        judge(&addresses, nobody());
    }
    if let Ok(address) = Multiaddr::try_from(bytes.to_vec()) {
        judge(&[address], nobody());
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    if let Ok(relay) = RelayAddress::parse(lines.next().unwrap_or_default(), lines) {
        let _ = (relay.circuit(), relay.circuit_to(nobody()), relay.by_path(Path::Relayed));
        let texts: Vec<String> = relay.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(RelayAddress::parse(&relay.peer_id.to_string(), texts).as_ref(), Ok(&relay));
    }
}

fn judge(addresses: &[Multiaddr], peer: PeerId) {
    let taken = dialable(addresses, peer, false);
    assert!(taken.len() <= MAX_PEER_ADDRESSES && !taken.iter().any(is_local), "{taken:?}");
    assert!(taken.iter().all(|address| Path::of_address(address).is_direct()), "{taken:?}");
    let _ = publishable(addresses, peer);
}

fn meshes(mesh: &MeshId, pinned: OrganizationPublicKey) -> Meshes {
    let mut meshes = Meshes::default();
    let members = BTreeMap::from([(OrganizationId::new(1), pinned)]);
    meshes.open(mesh.clone(), Mesh { collaboration_id: CollaborationId::new(1), members });
    meshes
}

/// A peer whom nobody certified: the identity multihash of no bytes.
fn nobody() -> PeerId {
    PeerId::from_bytes(&[0, 0]).expect("two bytes that are a peer id")
}

fn again<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(input: &[u8], limit: usize) -> Option<T> {
    let read = read_whenever::<T>(&mut &*input, limit).now_or_never().expect("all bytes are there");
    let message = read.ok()?;
    let text = serde_json::to_vec(&message).expect("what was read can be written");
    assert_eq!(serde_json::from_slice::<T>(&text).ok().as_ref(), Some(&message));
    Some(message)
}
