//! Nobody gives or takes what they do not hold (contract A.4.3).

use super::actor::Actor;
use super::rule::{Rule, RuleSet, Scope};
use super::Denied;

/// Rules that the caller may give and take. Only [`grant`] makes one, so no rule is stored without having asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Granted(RuleSet);

impl Granted {
    /// The rules to store.
    pub(crate) fn rules(self) -> RuleSet {
        self.0
    }
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
