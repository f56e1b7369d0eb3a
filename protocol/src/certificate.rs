//! Which node speaks for an organization.
//!
//! The organization's key signs its node's Ed25519 key, which is the node's libp2p identity. Peers that pinned the
//! organization's key can thus tell its node from anybody else's without asking the coordinator.

use serde::{Deserialize, Serialize};

use crate::id::{CollaborationId, OrganizationId};
use crate::key::OrganizationPublicKey;
use crate::signed::{Signed, SignedError, Statement};
use crate::time::Time;

/// The version of the certificate's form.
pub const CERTIFICATE_VERSION: u32 = 1;

/// An organization's word that this key is its node's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeCertificate {
    /// [`CERTIFICATE_VERSION`].
    pub version: u32,
    /// Who signs, and for whom the node speaks.
    pub organization_id: OrganizationId,
    /// Where the node belongs.
    pub collaboration_id: CollaborationId,
    /// The node's Ed25519 key.
    pub node_key: OrganizationPublicKey,
    /// When it was signed, in seconds since 1970.
    pub issued_at: i64,
    /// After when it is void, in seconds since 1970.
    pub not_after: i64,
}

impl Statement for NodeCertificate {
    const DOMAIN: &'static str = "twinmesh/node-certificate/1";
    const NOUN: &'static str = "node certificate";
}

/// A node certificate with its signature.
pub type SignedCertificate = Signed<NodeCertificate>;

/// Why a node certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The signature.
    #[error(transparent)]
    Signature(#[from] SignedError),
    /// A form this release does not know.
    #[error("the node certificate has version {found}, known is {CERTIFICATE_VERSION}: update the older side")]
    Version {
        /// The version found.
        found: u32,
    },
    /// It is for another organization.
    #[error("the node certificate is for organization {found}, expected is {expected}")]
    OtherOrganization {
        /// The organization in the certificate.
        found: OrganizationId,
        /// The organization expected.
        expected: OrganizationId,
    },
    /// It is for another key.
    #[error("the node certificate is for another node key")]
    OtherNode,
    /// Too late.
    #[error("the node certificate expired at {0}")]
    Expired(String),
}

/// Verifies that `organization`, whose pinned key this is, certified a node, and returns the certificate.
///
/// # Errors
/// When the signature, version, organization or time does not fit.
pub fn verify_certificate(
    certificate: &SignedCertificate,
    organization: OrganizationId,
    pinned: &OrganizationPublicKey,
    now: Time,
) -> Result<NodeCertificate, CertificateError> {
    let statement = certificate.verify(pinned)?;
    if statement.version != CERTIFICATE_VERSION {
        return Err(CertificateError::Version { found: statement.version });
    }
    if statement.organization_id != organization {
        return Err(CertificateError::OtherOrganization { found: statement.organization_id, expected: organization });
    }
    if now.seconds() > statement.not_after {
        let end = Time::from_micros(statement.not_after.saturating_mul(1_000_000));
        return Err(CertificateError::Expired(end.to_rfc3339()));
    }
    Ok(statement)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::OrganizationKey;

    #[test]
    fn a_certificate_holds_for_one_organization_key_and_time() {
        let organization = OrganizationKey::from_seed(&[1; 32]);
        let node = OrganizationKey::from_seed(&[2; 32]);
        let certificate = NodeCertificate {
            version: CERTIFICATE_VERSION,
            organization_id: OrganizationId::new(4),
            collaboration_id: CollaborationId::new(1),
            node_key: node.public(),
            issued_at: 100,
            not_after: 200,
        };
        let signed = Signed::sign(&certificate, &organization).unwrap();
        let verify = |id, key: &OrganizationKey, seconds: i64| {
            let now = Time::from_micros(seconds * 1_000_000);
            verify_certificate(&signed, OrganizationId::new(id), &key.public(), now)
        };
        assert_eq!(verify(4, &organization, 150), Ok(certificate));
        assert!(matches!(verify(5, &organization, 150), Err(CertificateError::OtherOrganization { .. })));
        assert!(matches!(verify(4, &node, 150), Err(CertificateError::Signature(_))));
        assert!(matches!(verify(4, &organization, 201), Err(CertificateError::Expired(_))));
    }
}
