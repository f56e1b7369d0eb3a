//! Which meshes are open at this node, and who may enter them.
//!
//! A core without IO, clock or randomness. A mesh is one job's part of the overlay: its members are the organizations
//! that take part in the job, each known by the key that this node has pinned for it. A node is admitted because a
//! member's key certified its key, and the connection has proven that it holds that key; never because of who says so.

use std::collections::{BTreeMap, btree_map::Entry};

use libp2p::{Multiaddr, PeerId, identity};
use twinmesh_protocol::{
    certificate::{CertificateError, SignedCertificate, verify_certificate},
    id::{CollaborationId, OrganizationId},
    key::OrganizationPublicKey,
    time::Time,
    wire::PeerRecord,
};

pub use crate::opening::{InvalidMeshId, MAX_OPENING_BYTES, MeshId, Opening, Refusal};

/// The members of one mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// Where the job belongs; a certificate for another collaboration does not count.
    pub collaboration_id: CollaborationId,
    /// The organizations in the job, each with the key that this node has pinned for it.
    pub members: BTreeMap<OrganizationId, OrganizationPublicKey>,
}

/// Someone who may enter a mesh, and what they want there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admitted {
    /// The mesh.
    pub mesh: MeshId,
    /// The organization that the node has been proven to speak for.
    pub organization_id: OrganizationId,
    /// The node.
    pub peer: PeerId,
    /// The external port of this node that is wanted.
    pub port: u16,
}

/// A node that has been found to be a member's, and where to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedPeer {
    /// Its libp2p identity, from the certificate.
    pub peer: PeerId,
    /// Where it says it listens.
    pub addresses: Vec<Multiaddr>,
}

/// The meshes that are open at this node.
#[derive(Debug, Clone, Default)]
pub struct Meshes {
    open: BTreeMap<MeshId, Mesh>,
}

impl Meshes {
    /// Opens a mesh, or changes the members of an open one. Says whether it was closed before.
    pub fn open(&mut self, id: MeshId, mesh: Mesh) -> bool {
        match self.open.entry(id) {
            Entry::Vacant(entry) => {
                entry.insert(mesh);
                true
            }
            Entry::Occupied(mut entry) => {
                entry.insert(mesh);
                false
            }
        }
    }

    /// Closes a mesh; from then on nobody is admitted to it. Says whether it was open.
    pub fn close(&mut self, id: &MeshId) -> bool {
        self.open.remove(id).is_some()
    }

    /// Whether the mesh is open.
    #[must_use]
    pub fn is_open(&self, id: &MeshId) -> bool {
        self.open.contains_key(id)
    }

    /// Decides whether a stream that `remote` opened may enter.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] to answer with.
    pub fn admit(&self, remote: PeerId, opening: &Opening, now: Time) -> Result<Admitted, Refusal> {
        let peer = self.verify(&opening.mesh, opening.organization_id, &opening.certificate, now)?;
        if peer != remote {
            return Err(Refusal::OtherNodeKey { organization_id: opening.organization_id });
        }
        Ok(Admitted { mesh: opening.mesh.clone(), organization_id: opening.organization_id, peer, port: opening.port })
    }

    /// Decides whether the node of a peer record is the member's it is said to be, before anything is sent to it. That
    /// it holds the certified key is proven when the connection is made.
    ///
    /// Addresses that cannot be read are left out.
    ///
    /// # Errors
    ///
    /// The [`Refusal`] that the node would meet if it came to us.
    pub fn verify_peer(
        &self,
        mesh: &MeshId,
        organization: OrganizationId,
        record: &PeerRecord,
        now: Time,
    ) -> Result<VerifiedPeer, Refusal> {
        let peer = self.verify(mesh, organization, &record.certificate, now)?;
        let addresses = record.addresses.iter().filter_map(|address| address.parse().ok()).collect();
        Ok(VerifiedPeer { peer, addresses })
    }

    /// The node that the organization certified, if it is a member and the certificate holds.
    fn verify(
        &self,
        id: &MeshId,
        organization: OrganizationId,
        certificate: &SignedCertificate,
        now: Time,
    ) -> Result<PeerId, Refusal> {
        let mesh = self.open.get(id).ok_or_else(|| Refusal::MeshNotOpen { mesh: id.clone() })?;
        let pinned = mesh
            .members
            .get(&organization)
            .ok_or_else(|| Refusal::NotAMember { mesh: id.clone(), organization_id: organization })?;
        let statement = verify_certificate(certificate, organization, pinned, now).map_err(|error| match error {
            CertificateError::Signature(_) => Refusal::NotSignedByPinnedKey { organization_id: organization },
            CertificateError::Version { found } => Refusal::CertificateVersion { version: found },
            CertificateError::OtherOrganization { found, expected } => Refusal::OtherOrganization { found, expected },
            CertificateError::OtherNode => Refusal::OtherNodeKey { organization_id: organization },
            CertificateError::Expired(not_after) => Refusal::Expired { organization_id: organization, not_after },
        })?;
        if statement.collaboration_id != mesh.collaboration_id {
            return Err(Refusal::OtherCollaboration { organization_id: organization });
        }
        peer_id(&statement.node_key).ok_or(Refusal::OtherNodeKey { organization_id: organization })
    }
}

/// The libp2p identity of an Ed25519 key; `None` for bytes that libp2p takes for no key.
#[must_use]
pub fn peer_id(key: &OrganizationPublicKey) -> Option<PeerId> {
    let key = identity::ed25519::PublicKey::try_from_bytes(&key.to_bytes()).ok()?;
    Some(identity::PublicKey::from(key).to_peer_id())
}

#[cfg(test)]
mod tests;
