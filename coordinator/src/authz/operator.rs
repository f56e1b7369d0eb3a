//! Whoever sits at the machine.

use std::collections::BTreeSet;

use twinmesh_protocol::id::{OrganizationId, UserId};

use super::actor::{Actor, Who};
use super::role::{ROLES, ROOT};

/// Somebody who could as well write into the database: they have every rule, and may act for a user.
pub(crate) fn operator(for_user: Option<UserId>) -> Actor {
    let root = ROLES.iter().find(|role| role.id == ROOT);
    Actor {
        who: Who::User { id: for_user.unwrap_or(UserId::new(0)), roles: BTreeSet::from([ROOT]) },
        organization: OrganizationId::new(0),
        collaborations: BTreeSet::new(),
        rules: root.map(super::role::BuiltInRole::rules).unwrap_or_default(),
    }
}
