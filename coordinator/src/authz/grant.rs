//! Nobody gives or takes what they do not hold (contract A.4.3).

use std::collections::BTreeSet;

use twinmesh_protocol::id::RoleId;

use super::Denied;
use super::actor::Actor;
use super::rule::{Rule, RuleSet, Scope};

/// Rules that the caller may give and take. Only [`grant`] makes one, so no rule is stored without having asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted(RuleSet);

impl Granted {
    /// The rules to store.
    pub(crate) fn rules(self) -> RuleSet {
        self.0
    }
}

/// Roles that the caller may leave a user with. Only [`grant_roles`] makes one.
#[derive(Debug, Clone)]
pub(crate) struct GrantedRoles(BTreeSet<RoleId>);

impl GrantedRoles {
    /// The roles to store.
    pub(crate) fn roles(&self) -> &BTreeSet<RoleId> {
        &self.0
    }
}

/// Decides whether the actor may leave a user with `roles`, where `changed` are the rules of all roles that are given
/// or taken.
pub(crate) fn grant_roles(actor: &Actor, changed: RuleSet, roles: BTreeSet<RoleId>) -> Result<GrantedRoles, Denied> {
    grant(actor, RuleSet::EMPTY, changed).map(|_| GrantedRoles(roles))
}

/// Decides whether the actor may turn one set of rules into another: every rule given or taken must be one that the
/// actor holds at an equal or wider scope.
pub(crate) fn grant(actor: &Actor, before: RuleSet, after: RuleSet) -> Result<Granted, Denied> {
    match before.symmetric_difference(after).iter().find(|rule| !holds(actor.rules, rule)) {
        Some(rule) => Err(Denied::Grant { rule: rule.id.into() }),
        None => Ok(Granted(after)),
    }
}

/// Whether the rules include this one at an equal or wider scope.
fn holds(rules: RuleSet, rule: &Rule) -> bool {
    Scope::ALL
        .into_iter()
        .filter(|scope| *scope >= rule.scope)
        .any(|scope| rules.holds(rule.resource, rule.operation, scope))
}

#[cfg(test)]
mod tests {
    use twinmesh_protocol::id::{OrganizationId, RuleId, UserId};

    use super::*;
    use crate::authz::actor::Who;

    fn rules(ids: &[i64]) -> RuleSet {
        ids.iter().copied().map(RuleId::new).collect()
    }

    fn actor(ids: &[i64]) -> Actor {
        Actor {
            who: Who::User { id: UserId::new(1), roles: BTreeSet::new() },
            organization: OrganizationId::new(1),
            collaborations: BTreeSet::new(),
            rules: rules(ids),
        }
    }

    #[test]
    fn nobody_gives_or_takes_what_they_do_not_hold() {
        // Seeing nodes: 3 within the organization, 2 within collaborations, 1 everywhere.
        let actor = actor(&[2]);
        assert!(grant(&actor, RuleSet::EMPTY, rules(&[2, 3])).is_ok());
        assert_eq!(grant(&actor, RuleSet::EMPTY, rules(&[1])).unwrap_err(), Denied::Grant { rule: 1 });
        assert_eq!(grant(&actor, rules(&[1, 2]), rules(&[2])).unwrap_err(), Denied::Grant { rule: 1 });
        // What stays as it is needs no right.
        assert!(grant(&actor, rules(&[1]), rules(&[1, 3])).is_ok());
        // Another operation on the same resource is another matter.
        assert!(grant(&actor, RuleSet::EMPTY, rules(&[6])).is_err());
    }
}
