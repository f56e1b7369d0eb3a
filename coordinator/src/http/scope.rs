//! What a caller sees in lists: the rows that a decision on each would show.

use std::collections::BTreeSet;

use twinmesh_protocol::id::{CollaborationId, OrganizationId};

use super::caller::Caller;
use super::problem::Problem;
use crate::authz::{Reach, Target};
use crate::store;
use crate::store::filter::{Filter, Value, in_list};

/// The columns by which the rows of a list are somebody's. Each text is a condition with one placeholder, or, for
/// collaborations, a column or subquery that is compared with a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Columns {
    /// True for rows of an organization.
    pub(crate) organization: &'static str,
    /// True for rows in one of a list of collaborations, which takes the place of `{in}`.
    pub(crate) collaboration: &'static str,
    /// True for rows of a user.
    pub(crate) owner: Option<&'static str>,
}

/// Leaves only what the caller sees.
pub(crate) fn restrict(filter: &mut Filter, caller: &Caller, reach: Reach, columns: &Columns) {
    if reach.all {
        return;
    }
    let mut alternatives: Vec<(String, Vec<Value>)> = Vec::new();
    if reach.collaboration {
        let (list, values) = in_list("", caller.actor.collaborations.iter().map(|id| id.get()));
        if !values.is_empty() {
            alternatives.push((columns.collaboration.replace("{in}", list.trim_start()), values));
        }
    }
    if reach.organization {
        alternatives.push((columns.organization.into(), vec![caller.actor.organization.get().into()]));
    }
    if let (true, Some(owner), Some(user)) = (reach.own, columns.owner, caller.actor.user()) {
        alternatives.push((owner.into(), vec![user.get().into()]));
    }
    filter.and_any(alternatives);
}

/// Refuses to filter by a collaboration that the caller has no part in (contract A.4.3).
pub(crate) fn check_collaboration(caller: &Caller, reach: Reach, id: Option<CollaborationId>) -> Result<(), Problem> {
    match id {
        Some(id) if !reach.all && !caller.actor.collaborations.contains(&id) => Err(Problem::permission()),
        Some(_) | None => Ok(()),
    }
}

/// Refuses to filter by an organization with which the caller has nothing in common (contract A.4.3).
pub(crate) async fn check_organization(
    caller: &mut Caller,
    reach: Reach,
    id: Option<OrganizationId>,
) -> Result<(), Problem> {
    check_organizations(caller, reach, &id.into_iter().collect()).await
}

/// The same for each of several.
pub(crate) async fn check_organizations(
    caller: &mut Caller,
    reach: Reach,
    ids: &BTreeSet<OrganizationId>,
) -> Result<(), Problem> {
    let own = caller.actor.organization;
    let others = || ids.iter().copied().filter(|id| *id != own);
    if reach.all || others().next().is_none() {
        return Ok(());
    }
    if !reach.collaboration {
        return Err(Problem::permission());
    }
    let theirs = store::identity::collaborations_of_each(caller.tx.conn(), others()).await?;
    let is_near = |id| theirs.get(&id).is_some_and(|theirs| !theirs.is_disjoint(&caller.actor.collaborations));
    if others().all(is_near) { Ok(()) } else { Err(Problem::permission()) }
}

/// An organization, with its collaborations, as the target of a decision.
pub(crate) async fn organization_target(caller: &mut Caller, id: OrganizationId) -> Result<Target, Problem> {
    let collaborations = store::identity::collaborations_of(caller.tx.conn(), id).await?;
    Ok(Target::organization(id, collaborations))
}

/// Whether anybody has every right.
pub(crate) async fn is_rooted(caller: &mut Caller) -> Result<bool, Problem> {
    Ok(store::user::any_root(caller.tx.conn()).await?)
}

/// Refuses what took the last user with every right: nobody could give them back. To be asked once it is written.
pub(crate) async fn check_rooted(caller: &mut Caller, before: bool) -> Result<(), Problem> {
    if before && !is_rooted(caller).await? {
        let text = "There would be no user left with every right (role Root)! Give them to somebody else first.";
        return Err(Problem::bad_request("last_root", text));
    }
    Ok(())
}

/// Refuses to remove something on which others depend, unless asked to.
pub(crate) fn check_dependents(noun: &str, dependents: &[&str], delete_dependents: bool) -> Result<(), Problem> {
    if dependents.is_empty() || delete_dependents {
        return Ok(());
    }
    let text = format!(
        "{noun} has {} that would be deleted with it. Please set `delete_dependents` to true to delete them too.",
        dependents.join(", ")
    );
    Err(Problem::bad_request("has_dependents", text))
}
