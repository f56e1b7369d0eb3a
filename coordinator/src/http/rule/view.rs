//! The wire's form of a rule.

use twinmesh_protocol::id::RuleId;
use twinmesh_protocol::wire::Rule;

use crate::authz::rule;
use crate::http::AppState;

/// The wire's form.
pub(crate) fn rule(state: &AppState, rule: &rule::Rule) -> Rule {
    Rule {
        id: RuleId::new(rule.id.into()),
        name: rule.resource.as_str().into(),
        operation: rule.operation.as_str().into(),
        scope: rule.scope.as_str().into(),
        description: Some(rule.description()),
        users: state.many("user", "rule_id", i64::from(rule.id)),
    }
}
