use std::collections::BTreeSet;

use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, RunId, TaskId, UserId};

use super::rule::RuleSet;

/// The kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A person.
    User,
    /// An organization's daemon.
    Node,
    /// An algorithm, by the token of its run.
    Container,
}

/// Who asks, with everything a decision needs to know of them.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    /// Who exactly.
    pub(crate) who: Who,
    /// Their organization.
    pub(crate) organization: OrganizationId,
    /// A user's: those of the organization. A node's or container's: its own.
    pub(crate) collaborations: BTreeSet<CollaborationId>,
    /// What they may do.
    pub(crate) rules: RuleSet,
}

/// Who exactly.
#[derive(Debug, Clone)]
pub(crate) enum Who {
    /// A person.
    User {
        /// Their id.
        id: UserId,
        /// Their roles.
        roles: BTreeSet<RoleId>,
    },
    /// An organization's daemon.
    Node {
        /// Its id.
        id: NodeId,
        /// Its collaboration.
        collaboration: CollaborationId,
        /// Whether its API key was handed to a member who may replace the organization's public key.
        in_own_hands: bool,
    },
    /// An algorithm.
    Container(Container),
}

/// An algorithm that runs.
#[derive(Debug, Clone)]
pub(crate) struct Container {
    /// Its run, which is not finished.
    pub(crate) run: RunId,
    /// Its task.
    pub(crate) task: TaskId,
    /// Its collaboration.
    pub(crate) collaboration: CollaborationId,
    /// Its image, as the token names it.
    pub(crate) image: String,
}

impl Actor {
    /// What kind of caller this is.
    pub(crate) fn kind(&self) -> Kind {
        match self.who {
            Who::User { .. } => Kind::User,
            Who::Node { .. } => Kind::Node,
            Who::Container(_) => Kind::Container,
        }
    }

    /// The user's id, if a user asks.
    pub(crate) fn user(&self) -> Option<UserId> {
        match self.who {
            Who::User { id, .. } => Some(id),
            Who::Node { .. } | Who::Container(_) => None,
        }
    }

    /// The node's id, if a node asks.
    pub(crate) fn node(&self) -> Option<NodeId> {
        match self.who {
            Who::Node { id, .. } => Some(id),
            Who::User { .. } | Who::Container(_) => None,
        }
    }

    /// The container, if one asks.
    pub(crate) fn container(&self) -> Option<&Container> {
        match &self.who {
            Who::Container(container) => Some(container),
            Who::User { .. } | Who::Node { .. } => None,
        }
    }

    /// The name under which the actor's own keys are kept: `user:3`, `node:4` or `run:5`.
    pub(crate) fn key(&self) -> String {
        match &self.who {
            Who::User { id, .. } => format!("user:{id}"),
            Who::Node { id, .. } => format!("node:{id}"),
            Who::Container(container) => format!("run:{}", container.run),
        }
    }
}
