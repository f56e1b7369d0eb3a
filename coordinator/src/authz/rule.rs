//! The 86 rules of the contract (A.4.1) under the ids that a fresh stock server gives them.

use std::fmt;

use twinmesh_protocol::id::RuleId;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum $name { $(#[doc = concat!("`", $word, "`.")] $variant),* }

        impl $name {
            /// The word on the wire.
            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// What a rule is about.
    Resource {
        Node = "node",
        Collaboration = "collaboration",
        Organization = "organization",
        Task = "task",
        Run = "run",
        User = "user",
        Role = "role",
        Port = "port",
        Event = "event",
        Study = "study",
    }
}

words! {
    /// What a rule allows.
    Operation {
        View = "VIEW",
        Edit = "EDIT",
        Create = "CREATE",
        Delete = "DELETE",
        Send = "SEND",
        Receive = "RECEIVE",
    }
}

words! {
    /// How far a rule reaches, from narrow to wide.
    Scope {
        Own = "OWN",
        Organization = "ORGANIZATION",
        Collaboration = "COLLABORATION",
        Global = "GLOBAL",
    }
}

impl Operation {
    /// The contract's short form, which filters also take.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::View => "v",
            Self::Edit => "e",
            Self::Create => "c",
            Self::Delete => "d",
            Self::Send => "s",
            Self::Receive => "r",
        }
    }
}

impl Scope {
    /// Every one, from narrow to wide.
    pub(crate) const ALL: [Self; 4] = [Self::Own, Self::Organization, Self::Collaboration, Self::Global];

    /// The contract's short form, which filters also take.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Organization => "org",
            Self::Collaboration => "col",
            Self::Global => "glo",
        }
    }
}

/// A rule: an operation on a kind of resource within a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    /// 1 to 86.
    pub(crate) id: u8,
    /// What it is about.
    pub(crate) resource: Resource,
    /// What it allows.
    pub(crate) operation: Operation,
    /// How far.
    pub(crate) scope: Scope,
}

impl Rule {
    /// In words.
    pub(crate) fn description(&self) -> String {
        let verb = match self.operation {
            Operation::View => "See",
            Operation::Edit => "Change",
            Operation::Create => "Create",
            Operation::Delete => "Delete",
            Operation::Send => "Send",
            Operation::Receive => "Receive",
        };
        let noun = match self.resource {
            Resource::Node => "nodes",
            Resource::Collaboration => "collaborations",
            Resource::Organization => "organizations",
            Resource::Task => "tasks",
            Resource::Run => "runs and results",
            Resource::User => "users",
            Resource::Role => "roles",
            Resource::Port => "ports of runs",
            Resource::Event => "events",
            Resource::Study => "studies",
        };
        let whose = match self.scope {
            Scope::Own => "that are one's own",
            Scope::Organization => "of one's organization",
            Scope::Collaboration => "within one's collaborations",
            Scope::Global => "everywhere",
        };
        format!("{verb} {noun} {whose}")
    }
}

/// All rules; rule `n` is at `n - 1`.
pub(crate) const RULES: [Rule; 86] = {
    use Operation::{Create, Delete, Edit, Receive, Send, View};
    use Resource::{Collaboration as C, Event, Node, Organization as O, Port, Role, Run, Study, Task, User};
    use Scope::{Collaboration as Col, Global as Glo, Organization as Org, Own};
    let table = [
        (Node, View, Glo),
        (Node, View, Col),
        (Node, View, Org),
        (Node, Edit, Glo),
        (Node, Edit, Col),
        (Node, Edit, Org),
        (Node, Create, Glo),
        (Node, Create, Col),
        (Node, Create, Org),
        (Node, Delete, Glo),
        (Node, Delete, Col),
        (Node, Delete, Org),
        (C, View, Glo),
        (C, View, Org),
        (C, Edit, Glo),
        (C, Edit, Col),
        (C, Create, Glo),
        (C, Delete, Glo),
        (C, Delete, Col),
        (O, View, Glo),
        (O, View, Org),
        (O, View, Col),
        (O, Edit, Glo),
        (O, Edit, Org),
        (O, Edit, Col),
        (O, Create, Glo),
        (O, Delete, Glo),
        (Task, View, Glo),
        (Task, View, Col),
        (Task, View, Org),
        (Task, View, Own),
        (Task, Create, Glo),
        (Task, Create, Col),
        (Task, Delete, Glo),
        (Task, Delete, Col),
        (Task, Delete, Org),
        (Task, Delete, Own),
        (Run, View, Glo),
        (Run, View, Col),
        (Run, View, Org),
        (Run, View, Own),
        (User, View, Glo),
        (User, View, Col),
        (User, View, Org),
        (User, Create, Glo),
        (User, Create, Col),
        (User, Create, Org),
        (User, Edit, Glo),
        (User, Edit, Col),
        (User, Edit, Org),
        (User, Edit, Own),
        (User, Delete, Glo),
        (User, Delete, Col),
        (User, Delete, Org),
        (User, Delete, Own),
        (Role, View, Glo),
        (Role, View, Col),
        (Role, View, Org),
        (Role, Create, Glo),
        (Role, Create, Col),
        (Role, Create, Org),
        (Role, Edit, Glo),
        (Role, Edit, Col),
        (Role, Edit, Org),
        (Role, Delete, Glo),
        (Role, Delete, Col),
        (Role, Delete, Org),
        (Port, View, Glo),
        (Port, View, Org),
        (Event, Receive, Org),
        (Event, Receive, Col),
        (Event, Receive, Glo),
        (Event, Send, Org),
        (Event, Send, Col),
        (Event, Send, Glo),
        (Study, View, Glo),
        (Study, View, Org),
        (Study, View, Col),
        (Study, Edit, Glo),
        (Study, Edit, Col),
        (Study, Edit, Org),
        (Study, Create, Glo),
        (Study, Create, Col),
        (Study, Delete, Glo),
        (Study, Delete, Col),
        (Study, Delete, Org),
    ];
    let mut rules = [Rule { id: 0, resource: Node, operation: View, scope: Glo }; 86];
    let mut at = 0;
    while at < 86 {
        let (resource, operation, scope) = table[at];
        rules[at] = Rule { id: at as u8 + 1, resource, operation, scope };
        at += 1;
    }
    rules
};

/// The rule of an id, if there is one.
pub(crate) fn rule(id: RuleId) -> Option<&'static Rule> {
    usize::try_from(id.get()).ok().and_then(|id| id.checked_sub(1)).and_then(|at| RULES.get(at))
}

/// A set of rules.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RuleSet(u128);

impl RuleSet {
    /// No rule.
    pub(crate) const EMPTY: Self = Self(0);

    /// Adds a rule by its id; ids that are none are left out.
    pub(crate) fn with(self, id: RuleId) -> Self {
        match rule(id) {
            Some(rule) => Self(self.0 | 1 << rule.id),
            None => self,
        }
    }

    /// Whether the rule is in the set.
    pub(crate) fn contains(self, rule: &Rule) -> bool {
        self.0 & (1 << rule.id) != 0
    }

    /// All that are in either.
    pub(crate) const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All that are in exactly one of both.
    pub(crate) const fn symmetric_difference(self, other: Self) -> Self {
        Self(self.0 ^ other.0)
    }

    /// The rules in the order of their ids.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'static Rule> {
        RULES.iter().filter(move |rule| self.contains(rule))
    }

    /// Their ids, ascending.
    pub(crate) fn ids(self) -> impl Iterator<Item = RuleId> {
        self.iter().map(|rule| RuleId::new(rule.id.into()))
    }

    /// Whether a rule for exactly this is in the set.
    pub(crate) fn holds(self, resource: Resource, operation: Operation, scope: Scope) -> bool {
        self.iter().any(|rule| (rule.resource, rule.operation, rule.scope) == (resource, operation, scope))
    }
}

impl FromIterator<RuleId> for RuleSet {
    fn from_iter<I: IntoIterator<Item = RuleId>>(ids: I) -> Self {
        ids.into_iter().fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(|rule| rule.id)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_those_of_a_fresh_stock_server() {
        for (id, resource, operation, scope) in [
            (1, Resource::Node, Operation::View, Scope::Global),
            (12, Resource::Node, Operation::Delete, Scope::Organization),
            (14, Resource::Collaboration, Operation::View, Scope::Organization),
            (19, Resource::Collaboration, Operation::Delete, Scope::Collaboration),
            (22, Resource::Organization, Operation::View, Scope::Collaboration),
            (27, Resource::Organization, Operation::Delete, Scope::Global),
            (33, Resource::Task, Operation::Create, Scope::Collaboration),
            (37, Resource::Task, Operation::Delete, Scope::Own),
            (41, Resource::Run, Operation::View, Scope::Own),
            (45, Resource::User, Operation::Create, Scope::Global),
            (51, Resource::User, Operation::Edit, Scope::Own),
            (55, Resource::User, Operation::Delete, Scope::Own),
            (59, Resource::Role, Operation::Create, Scope::Global),
            (67, Resource::Role, Operation::Delete, Scope::Organization),
            (69, Resource::Port, Operation::View, Scope::Organization),
            (70, Resource::Event, Operation::Receive, Scope::Organization),
            (75, Resource::Event, Operation::Send, Scope::Global),
            (78, Resource::Study, Operation::View, Scope::Collaboration),
            (86, Resource::Study, Operation::Delete, Scope::Organization),
        ] {
            assert_eq!(rule(RuleId::new(id)), Some(&Rule { id: id as u8, resource, operation, scope }), "rule {id}");
        }
        assert_eq!(rule(RuleId::new(0)), None);
        assert_eq!(rule(RuleId::new(87)), None);
        assert_eq!(rule(RuleId::new(-1)), None);
    }

    #[test]
    fn a_set_takes_known_rules_only() {
        let set: RuleSet = [1, 86, 87, 0, -5].into_iter().map(RuleId::new).collect();
        assert_eq!(set.ids().map(RuleId::get).collect::<Vec<_>>(), [1, 86]);
    }
}
