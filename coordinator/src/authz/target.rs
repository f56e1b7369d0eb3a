use std::collections::BTreeSet;

use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, RunId, UserId};

/// What a decision needs to know of the resource.
#[derive(Debug, Clone, Default)]
pub(crate) struct Target {
    /// Whose it is: the organization scope covers it for their members.
    pub(crate) organizations: BTreeSet<OrganizationId>,
    /// Where it is: the collaboration scope covers it for whoever takes part in one of them.
    pub(crate) collaborations: BTreeSet<CollaborationId>,
    /// The user it is, or who made it.
    pub(crate) owner: Option<UserId>,
    /// The node it is, or that works on it.
    pub(crate) node: Option<NodeId>,
    /// The run that made it.
    pub(crate) run: Option<RunId>,
    /// The role it is.
    pub(crate) role: Option<RoleId>,
    /// Whether it is built in.
    pub(crate) built_in: bool,
    /// Whether it is an organization without a public key.
    pub(crate) keyless: bool,
}

impl Target {
    /// Something that is nobody's in particular.
    pub(crate) fn anywhere() -> Self {
        Self::default()
    }

    /// An organization, or something that is an organization's in all of its collaborations.
    pub(crate) fn organization(id: OrganizationId, collaborations: impl IntoIterator<Item = CollaborationId>) -> Self {
        Self {
            organizations: BTreeSet::from([id]),
            collaborations: collaborations.into_iter().collect(),
            ..Self::default()
        }
    }

    /// A collaboration.
    pub(crate) fn collaboration(id: CollaborationId) -> Self {
        Self { collaborations: BTreeSet::from([id]), ..Self::default() }
    }

    /// Something that is an organization's within one collaboration: a task (the initiator's), a run, a node.
    pub(crate) fn organization_in(organization: OrganizationId, collaboration: CollaborationId) -> Self {
        Self::organization(organization, [collaboration])
    }

    /// … that a user made, or that is the user.
    pub(crate) fn owned_by(mut self, user: Option<UserId>) -> Self {
        self.owner = user;
        self
    }

    /// … that a node works on, or that is the node.
    pub(crate) fn at_node(mut self, node: Option<NodeId>) -> Self {
        self.node = node;
        self
    }

    /// … that a run's algorithm made.
    pub(crate) fn made_by_run(mut self, run: Option<RunId>) -> Self {
        self.run = run;
        self
    }
}
