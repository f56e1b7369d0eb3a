//! Authorization: *may this actor do this action on this resource*, and nothing else.
//!
//! * [`rule`] – the 86 rules and sets of them; [`role`] – the built-in roles.
//! * [`actor`] – who asks; [`target`] – what a decision needs to know of the resource.
//! * [`action`] – the table of actions: who may do each, by which rule, under which conditions.
//! * [`decide`] – the one place where it is decided. A write in the store takes the [`Permit`] it returns.
//! * [`grant`] – that nobody gives more than they hold. [`operator`] – who sits at the machine.
//!
//! All of it is pure: no database, no clock.

pub(crate) mod action;
pub(crate) mod actor;
pub(crate) mod grant;
#[cfg(test)]
mod matrix;
pub(crate) mod operator;
pub(crate) mod role;
pub(crate) mod rule;
pub(crate) mod target;

pub(crate) use action::Action;
use action::{Condition, Requirement};
pub(crate) use actor::{Actor, Kind};
use rule::{Operation, Resource, Rule, Scope};
pub(crate) use target::Target;
use twinmesh_protocol::id::OrganizationId;

/// Proof that an action on a subject was allowed. Only [`decide`] makes one.
#[derive(Debug)]
pub(crate) struct Permit<A: Action> {
    subject: A::Subject,
}

impl<A: Action> Permit<A> {
    /// What the action was allowed on.
    pub(crate) fn subject(&self) -> A::Subject {
        self.subject
    }
}

/// The answer no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Denied {
    /// This kind of caller never may.
    #[error("this kind of token cannot {action}")]
    Kind {
        /// What was asked.
        action: &'static str,
    },
    /// This caller may not.
    #[error("no permission to {action}")]
    Permission {
        /// What was asked.
        action: &'static str,
    },
    /// A rule would be given or taken that the caller does not hold, or not as far.
    #[error("rule {} is not the caller's to give or take", rule.id)]
    Grant {
        /// The first such rule.
        rule: &'static Rule,
        /// The organization of which its holder is, if that is not the caller's own.
        elsewhere: Option<OrganizationId>,
    },
}

/// Decides whether the actor may do action `A` on the subject, of which `target` tells what matters.
pub(crate) fn decide<A: Action>(actor: &Actor, subject: A::Subject, target: &Target) -> Result<Permit<A>, Denied> {
    judge(actor, A::NAME, &A::REQUIREMENT, target).map(|()| Permit { subject })
}

/// The decision itself, for an action given as data.
pub(crate) fn judge(
    actor: &Actor,
    action: &'static str,
    requirement: &Requirement,
    target: &Target,
) -> Result<(), Denied> {
    if !requirement.who.contains(&actor.kind()) {
        return Err(Denied::Kind { action });
    }
    let confined = match actor.kind() {
        Kind::User => false,
        // A node and its containers act in their own collaboration, whatever else their organization takes part in.
        Kind::Node | Kind::Container => {
            !target.collaborations.is_empty() && target.collaborations.is_disjoint(&actor.collaborations)
        }
    };
    let always = requirement.always.iter().any(|condition| condition.holds(actor, target));
    let by_rule = requirement.rule.is_some_and(|(resource, operation)| {
        requirement.scopes.iter().any(|scope| {
            actor.rules.holds(resource, operation, *scope) && scope_covers(*scope, resource, actor, target)
        })
    });
    let besides = requirement.besides.iter().all(|condition| condition.holds(actor, target));
    if !confined && (always || by_rule) && besides { Ok(()) } else { Err(Denied::Permission { action }) }
}

/// Whether the target lies within a scope, as seen by the actor (contract A.4.3).
fn scope_covers(scope: Scope, resource: Resource, actor: &Actor, target: &Target) -> bool {
    match scope {
        Scope::Global => true,
        Scope::Collaboration => !target.collaborations.is_disjoint(&actor.collaborations),
        // A collaboration is one's organization's when the organization is a member.
        Scope::Organization if resource == Resource::Collaboration => {
            !target.collaborations.is_disjoint(&actor.collaborations)
        }
        Scope::Organization => target.organizations.contains(&actor.organization),
        Scope::Own => Condition::Owner.holds(actor, target),
    }
}

/// Which objects of a kind an actor sees in lists: those in any of these scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) all: bool,
    pub(crate) collaboration: bool,
    pub(crate) organization: bool,
    pub(crate) own: bool,
}

/// How far the actor sees objects of a kind; refused when not at all.
pub(crate) fn reach<A: Action>(actor: &Actor) -> Result<Reach, Denied> {
    let requirement = A::REQUIREMENT;
    if !requirement.who.contains(&actor.kind()) {
        return Err(Denied::Kind { action: A::NAME });
    }
    let holds = |scope| {
        requirement.scopes.contains(&scope)
            && requirement.rule.is_some_and(|(resource, operation)| actor.rules.holds(resource, operation, scope))
    };
    let reach = Reach {
        all: holds(Scope::Global),
        collaboration: holds(Scope::Collaboration),
        organization: holds(Scope::Organization),
        own: holds(Scope::Own) || requirement.always.contains(&Condition::Owner),
    };
    if reach.all || reach.collaboration || reach.organization || reach.own {
        Ok(reach)
    } else {
        Err(Denied::Permission { action: A::NAME })
    }
}

/// Whether the actor holds a rule at least this wide, for decisions that concern no single object.
pub(crate) fn holds_at_least(actor: &Actor, resource: Resource, operation: Operation, scope: Scope) -> bool {
    Scope::ALL.into_iter().filter(|held| *held >= scope).any(|held| actor.rules.holds(resource, operation, held))
}
