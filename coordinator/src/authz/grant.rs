//! Nobody gives or takes what they do not hold (contract A.4.3), nor has somebody elsewhere reach further than they do.
//!
//! What a rule reaches depends on who holds it: that of an organization is another one in another organization's hands. So
//! a rule that a user or role of another organization has, or is to have, is measured by what the actor reaches there.

use std::collections::BTreeSet;

use twinmesh_protocol::id::RoleId;

use super::actor::Actor;
use super::rule::{Operation, RULES, Resource, Rule, RuleSet, Scope};
use super::{Denied, Target, holds_at_least};

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

/// Decides whether the actor may leave the user `holder` with `roles`, where `changed` are the rules of all roles that
/// are given or taken.
pub(crate) fn grant_roles(
    actor: &Actor,
    holder: &Target,
    changed: RuleSet,
    roles: BTreeSet<RoleId>,
) -> Result<GrantedRoles, Denied> {
    grant(actor, holder, RuleSet::EMPTY, changed).map(|_| GrantedRoles(roles))
}

/// Decides whether the actor may turn one set of rules into another, which `holder` has: a user or role, or the
/// organization whose it will be. Every rule given or taken must be the actor's to give there.
pub(crate) fn grant(actor: &Actor, holder: &Target, before: RuleSet, after: RuleSet) -> Result<Granted, Denied> {
    let foreign = !holder.organizations.contains(&actor.organization);
    let covers = |rule: &Rule| if foreign { covers_elsewhere(actor, holder, rule) } else { holds(actor, rule) };
    match before.symmetric_difference(after).iter().find(|rule| !covers(rule)) {
        Some(rule) => {
            let elsewhere = holder.organizations.first().copied().filter(|_| foreign);
            Err(Denied::Grant { rule, elsewhere })
        }
        None => Ok(Granted(after)),
    }
}

/// Whether the actor has this rule at an equal or wider scope.
fn holds(actor: &Actor, rule: &Rule) -> bool {
    holds_at_least(actor, rule.resource, rule.operation, rule.scope)
}

/// Whether the actor reaches whatever somebody of another organization would reach by this rule.
fn covers_elsewhere(actor: &Actor, holder: &Target, rule: &Rule) -> bool {
    let Rule { resource, operation, scope, .. } = *rule;
    let reaches = |scope| holds_at_least(actor, resource, operation, scope);
    // By it members replace their organization's key, which nobody else may: so it comes from members, or from who has
    // it everywhere.
    let is_members_own = (resource, operation) == (Resource::Organization, Operation::Edit);
    match scope {
        Scope::Own => reaches(Scope::Own),
        Scope::Global => reaches(Scope::Global),
        Scope::Organization | Scope::Collaboration => {
            let shares_all =
                !holder.collaborations.is_empty() && holder.collaborations.is_subset(&actor.collaborations);
            let in_collaborations = reaches(widest_below_global(resource, operation)) || is_researchers(actor, rule);
            reaches(Scope::Global) || (shares_all && !is_members_own && in_collaborations)
        }
    }
}

/// Whether somebody who asks in a collaboration has others there ask. Researchers delete their organization's tasks, and
/// no more: that comes with making tasks, or there were no researchers but at the administrator's own organization.
fn is_researchers(actor: &Actor, rule: &Rule) -> bool {
    (rule.resource, rule.operation, rule.scope) == (Resource::Task, Operation::Delete, Scope::Organization)
        && holds(actor, rule)
        && holds_at_least(actor, Resource::Task, Operation::Create, Scope::Collaboration)
}

/// The scope by which one reaches all of one's collaborations. Of collaborations themselves, and of ports, there is no
/// rule to see those in one's collaborations: it is that of the organization which shows them all.
fn widest_below_global(resource: Resource, operation: Operation) -> Scope {
    let of_collaborations =
        |rule: &Rule| (rule.resource, rule.operation, rule.scope) == (resource, operation, Scope::Collaboration);
    if RULES.iter().any(of_collaborations) { Scope::Collaboration } else { Scope::Organization }
}

#[cfg(test)]
mod tests {
    use twinmesh_protocol::id::{CollaborationId, OrganizationId, RuleId, UserId};

    use super::*;
    use crate::authz::actor::Who;
    use crate::authz::role::ROLES;

    const MINE: OrganizationId = OrganizationId::new(1);
    const THEIRS: OrganizationId = OrganizationId::new(2);

    fn rules(ids: &[i64]) -> RuleSet {
        ids.iter().copied().map(RuleId::new).collect()
    }

    /// Somebody of an organization in the collaborations 1 and 2.
    fn actor(rules: RuleSet) -> Actor {
        Actor {
            who: Who::User { id: UserId::new(1), roles: BTreeSet::new() },
            organization: MINE,
            collaborations: [1, 2].map(CollaborationId::new).into(),
            rules,
        }
    }

    fn holder(organization: OrganizationId, collaborations: &[i64]) -> Target {
        Target::organization(organization, collaborations.iter().copied().map(CollaborationId::new))
    }

    #[test]
    fn nobody_gives_or_takes_what_they_do_not_hold() {
        // Seeing nodes: 3 within the organization, 2 within collaborations, 1 everywhere.
        let (actor, here) = (actor(rules(&[2])), holder(MINE, &[1, 2]));
        assert!(grant(&actor, &here, RuleSet::EMPTY, rules(&[2, 3])).is_ok());
        let denied = Denied::Grant { rule: &RULES[0], elsewhere: None };
        assert_eq!(grant(&actor, &here, RuleSet::EMPTY, rules(&[1])).unwrap_err(), denied);
        assert_eq!(grant(&actor, &here, rules(&[1, 2]), rules(&[2])).unwrap_err(), denied);
        // What stays as it is needs no right.
        assert!(grant(&actor, &here, rules(&[1]), rules(&[1, 3])).is_ok());
        // Another operation on the same resource is another matter.
        assert!(grant(&actor, &here, RuleSet::EMPTY, rules(&[6])).is_err());
    }

    #[test]
    fn a_rule_given_elsewhere_reaches_no_further_than_the_givers_own() {
        let (own, shared) = (holder(MINE, &[1, 2]), holder(THEIRS, &[2]));
        let (beyond, unrelated) = (holder(THEIRS, &[2, 3]), holder(THEIRS, &[3]));
        for rule in &RULES {
            let single = RuleSet::EMPTY.with(RuleId::new(rule.id.into()));
            // Whoever gives has exactly one rule, of the same resource and operation.
            for held in RULES.iter().filter(|held| (held.resource, held.operation) == (rule.resource, rule.operation)) {
                let actor = actor(RuleSet::EMPTY.with(RuleId::new(held.id.into())));
                let may = |holder: &Target| {
                    let given = grant(&actor, holder, RuleSet::EMPTY, single).is_ok();
                    assert_eq!(given, grant(&actor, holder, single, RuleSet::EMPTY).is_ok(), "giving is as taking");
                    given
                };
                let is_wide_enough = held.scope >= rule.scope;
                assert_eq!(may(&own), is_wide_enough, "{held:?} gives {rule:?}");
                let everywhere = held.scope == Scope::Global;
                for holder in [&beyond, &unrelated, &holder(THEIRS, &[])] {
                    let nominal = rule.scope == Scope::Own && is_wide_enough;
                    assert_eq!(may(holder), everywhere || nominal, "{held:?} gives {rule:?} elsewhere");
                }
                // 14 and 69 show what is in all of the organization's collaborations.
                let in_collaborations = held.scope == Scope::Collaboration || matches!(held.id, 14 | 69);
                let is_key = (rule.resource, rule.operation) == (Resource::Organization, Operation::Edit);
                let covered = match rule.scope {
                    Scope::Own => true,
                    Scope::Organization | Scope::Collaboration => everywhere || (in_collaborations && !is_key),
                    Scope::Global => everywhere,
                };
                assert_eq!(may(&shared), covered, "{held:?} gives {rule:?} to a partner");
            }
            let none = actor(RuleSet::EMPTY);
            assert!([&own, &shared, &beyond].iter().all(|to| grant(&none, to, RuleSet::EMPTY, single).is_err()));
            let root = actor(ROLES[0].rules());
            assert!(
                [&own, &shared, &beyond, &unrelated].iter().all(|to| grant(&root, to, single, RuleSet::EMPTY).is_ok())
            );
        }
    }

    #[test]
    fn a_collaborations_administrator_makes_researchers_but_no_administrators_of_partners() {
        let actor = actor(ROLES[6].rules());
        let may = |role: usize, to: &Target| grant(&actor, to, RuleSet::EMPTY, ROLES[role].rules());
        let (viewer, researcher, administrator) = (3, 4, 5);
        for role in [viewer, researcher] {
            assert!(may(role, &holder(THEIRS, &[1])).is_ok());
            assert!(may(role, &holder(THEIRS, &[1, 3])).is_err());
        }
        assert!(may(administrator, &holder(MINE, &[1, 2])).is_ok());
        // The first of several: 6, as who administers a collaboration changes no nodes of partners.
        let denied = may(administrator, &holder(THEIRS, &[1])).unwrap_err();
        assert_eq!(denied, Denied::Grant { rule: &RULES[5], elsewhere: Some(THEIRS) });
    }
}
