//! Where an organization's node is found in the overlay.

use std::net::Ipv4Addr;

use crate::id::OrganizationId;

/// The shared address space the overlay uses, `100.64.0.0/10` (RFC 6598).
pub const OVERLAY_NETWORK: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);

/// The length of the overlay's network prefix in bits.
pub const OVERLAY_PREFIX_BITS: u32 = 10;

/// The first external port of a run; internal ports and outgoing connections stay below (contract D.7).
pub const FIRST_EXTERNAL_PORT: u16 = 49_152;

/// The IPv4 address under which algorithm twins see an organization's node.
///
/// It is the network `100.64.0.0/10` plus the organization's id, so it is the same for all runs of a node in a job
/// (contract D.7), needs no allocation, and no one can claim another organization's: who answers at an address
/// proves the organization by its certificate. Within a job every organization has one node.
///
/// `None` for ids of 2^22 and above, which the network has no room for.
#[must_use]
pub fn overlay_address(organization: OrganizationId) -> Option<Ipv4Addr> {
    let host = u32::try_from(organization.get()).ok()?;
    (host > 0 && host < (1 << (32 - OVERLAY_PREFIX_BITS)) - 1)
        .then(|| Ipv4Addr::from(u32::from(OVERLAY_NETWORK) + host))
}

/// The organization whose node has this overlay address, if it is one.
#[must_use]
pub fn overlay_organization(address: Ipv4Addr) -> Option<OrganizationId> {
    let host = u32::from(address).checked_sub(u32::from(OVERLAY_NETWORK))?;
    let organization = OrganizationId::new(i64::from(host));
    (overlay_address(organization) == Some(address)).then_some(organization)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_and_organization_are_each_others_inverse() {
        for id in [1, 2, 255, 256, 65_536, (1 << 22) - 2] {
            let organization = OrganizationId::new(id);
            let address = overlay_address(organization).unwrap();
            assert_eq!(overlay_organization(address), Some(organization));
        }
        assert_eq!(overlay_address(OrganizationId::new(1)), Some(Ipv4Addr::new(100, 64, 0, 1)));
    }

    #[test]
    fn what_lies_outside_the_network_is_no_organization() {
        for address in [Ipv4Addr::LOCALHOST, OVERLAY_NETWORK, Ipv4Addr::new(100, 128, 0, 0), Ipv4Addr::BROADCAST] {
            assert_eq!(overlay_organization(address), None, "{address}");
        }
        for id in [0, -1, 1 << 22, i64::MAX] {
            assert_eq!(overlay_address(OrganizationId::new(id)), None, "{id}");
        }
    }
}
