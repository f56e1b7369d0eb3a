//! The built-in roles of the contract (A.4.2) under the ids that a fresh stock server gives them.

use twinmesh_protocol::id::{RoleId, RuleId};

use super::rule::{RULES, RuleSet};

/// A built-in role. It belongs to no organization and cannot be changed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BuiltInRole {
    /// Its id.
    pub(crate) id: RoleId,
    /// Its name, reserved.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) description: &'static str,
    extends: &'static [&'static [u8]],
}

impl BuiltInRole {
    /// Its rules.
    pub(crate) fn rules(&self) -> RuleSet {
        if self.id == ROOT {
            return RULES.iter().map(|rule| RuleId::new(rule.id.into())).collect();
        }
        self.extends.iter().flat_map(|ids| ids.iter()).map(|id| RuleId::new((*id).into())).collect()
    }
}

/// The role of the first user: every rule.
pub(crate) const ROOT: RoleId = RoleId::new(1);

const CONTAINER_RULES: &[u8] = &[3, 14, 21, 22, 29, 39, 69, 77];
const VIEWER_RULES: &[u8] = &[2, 3, 14, 21, 22, 29, 39, 44, 51, 55, 58, 69, 70, 71, 77];
const ORGANIZATION_ADMIN_RULES: &[u8] = &[6, 9, 24, 47, 50, 54, 61, 64, 67, 73];
const COLLABORATION_ADMIN_RULES: &[u8] = &[8, 11, 16, 20, 25, 33, 36, 43, 46, 49, 57, 74, 78, 80, 83, 85];

/// The built-in roles, by id.
pub(crate) const ROLES: [BuiltInRole; 7] = [
    BuiltInRole { id: ROOT, name: "Root", description: "Everything", extends: &[] },
    BuiltInRole {
        id: RoleId::new(2),
        name: "container",
        description: "What an algorithm may see while it runs",
        extends: &[CONTAINER_RULES],
    },
    BuiltInRole {
        id: RoleId::new(3),
        name: "node",
        description: "What a node may see, and its own organization's public key",
        extends: &[CONTAINER_RULES, &[6, 24]],
    },
    BuiltInRole {
        id: RoleId::new(4),
        name: "Viewer",
        description: "Sees own collaborations and manages the own account",
        extends: &[VIEWER_RULES],
    },
    BuiltInRole {
        id: RoleId::new(5),
        name: "Researcher",
        description: "Creates tasks in own collaborations",
        extends: &[VIEWER_RULES, &[33, 36]],
    },
    BuiltInRole {
        id: RoleId::new(6),
        name: "Organization Admin",
        description: "Manages users, roles, nodes and data of the own organization",
        extends: &[VIEWER_RULES, ORGANIZATION_ADMIN_RULES],
    },
    BuiltInRole {
        id: RoleId::new(7),
        name: "Collaboration Admin",
        description: "Manages nodes, users, studies and settings of own collaborations",
        extends: &[VIEWER_RULES, ORGANIZATION_ADMIN_RULES, COLLABORATION_ADMIN_RULES],
    },
];

/// The rules of every node.
pub(crate) fn node_rules() -> RuleSet {
    ROLES[2].rules()
}

/// The rules of every container.
pub(crate) fn container_rules() -> RuleSet {
    ROLES[1].rules()
}

/// Whether the name belongs to a built-in role.
pub(crate) fn is_reserved(name: &str) -> bool {
    ROLES.iter().any(|role| role.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_the_rules_of_the_contract() {
        let ids = |at: usize| ROLES[at].rules().ids().map(RuleId::get).collect::<Vec<_>>();
        assert_eq!(ids(0), (1..=86).collect::<Vec<_>>());
        assert_eq!(ids(1), [3, 14, 21, 22, 29, 39, 69, 77]);
        assert_eq!(ids(2), [3, 6, 14, 21, 22, 24, 29, 39, 69, 77]);
        assert_eq!(ids(3), [2, 3, 14, 21, 22, 29, 39, 44, 51, 55, 58, 69, 70, 71, 77]);
        assert_eq!(ids(4).len(), 17);
        assert_eq!(ids(5).len(), 25);
        assert_eq!(ids(6).len(), 41);
        assert!(ROLES.iter().enumerate().all(|(at, role)| role.id.get() == at as i64 + 1));
    }
}
