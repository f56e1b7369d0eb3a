//! `/role` (contract A.7.5).

use std::collections::BTreeSet;

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use twinmesh_protocol::id::{CollaborationId, OrganizationId, RoleId, RuleId, UserId};
use twinmesh_protocol::wire::{NewRole, Page, Role, Rule};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, check_name};
use super::caller::Caller;
use super::openapi::sortable;
use super::page::PageRequest;
use super::params::Params;
use super::path::{Id, Ids};
use super::problem::Problem;
use super::scope::{self, Columns};
use crate::authz::action::{CreateRole, DeleteRole, EditRole, ViewRole};
use crate::authz::grant::{Granted, grant};
use crate::authz::role::is_reserved;
use crate::authz::rule::{self, Operation, Resource, RuleSet, Scope};
use crate::authz::{Reach, Target, holds_at_least};
use crate::limits::{Described, bounded, described};
use crate::store::filter::{Filter, in_list};
use crate::store::role::{self as store, RoleRecord};

const COLUMNS: Columns = Columns {
    organization: "role.organization_id = ?",
    collaboration: "role.organization_id IN (SELECT organization_id FROM collaboration_organization \
         WHERE collaboration_id {in})",
    owner: Some("role.id IN (SELECT role_id FROM user_role WHERE user_id = ?)"),
};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(fetch, update, remove))
        .routes(routes!(rules))
        .routes(routes!(rule_add, rule_remove))
}

/// The wire's form.
fn role(state: &AppState, record: RoleRecord) -> Role {
    Role {
        id: record.id,
        name: record.name,
        description: record.description,
        is_default_role: record.is_default,
        organization: record.organization.map(|id| state.link("organization", id)),
        rules: state.many("rule", "role_id", record.id),
        users: state.many("user", "role_id", record.id),
    }
}

/// What decides who may do what to a role: it is its organization's.
async fn target(caller: &mut Caller, record: &RoleRecord) -> Result<Target, Problem> {
    let target = match record.organization {
        Some(id) => scope::organization_target(caller, id).await?,
        None => Target::anywhere(),
    };
    Ok(Target { role: Some(record.id), built_in: record.is_default, ..target })
}

/// Lists roles.
#[utoipa::path(
    get, path = "/role", tag = "role",
    params(
        PageRequest,
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("description" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("organization_id" = Option<Vec<OrganizationId>>, Query, description = "Those of this organization; may be repeated"),
        ("include_root" = Option<bool>, Query, description = "With `organization_id`: the built-in roles too"),
        ("collaboration_id" = Option<CollaborationId>, Query, description = "Those of this collaboration's organizations"),
        ("rule_id" = Option<RuleId>, Query, description = "Those with this rule"),
        ("user_id" = Option<UserId>, Query, description = "Those of this user"),
    ),
    responses((status = 200, body = Page<Role>)),
    security(("user" = [])),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    // Everybody sees their own roles; the rules decide what else.
    let reach = caller.reach::<ViewRole>().unwrap_or(Reach {
        all: false,
        collaboration: false,
        organization: false,
        own: true,
    });
    if caller.actor.user().is_none() {
        return Err(Problem::permission());
    }
    let sees_built_in = holds_at_least(&caller.actor, Resource::Role, Operation::View, Scope::Organization);
    let mut filter = Filter::default();
    restrict(&mut filter, &caller, Reach { own: true, ..reach }, sees_built_in);
    filter.and_like("role.name", params.pattern("name")?);
    filter.and_like("role.description", params.pattern("description")?);
    let organizations = params.several::<OrganizationId>("organization_id")?;
    let include_root = params.flag("include_root")?;
    if !organizations.is_empty() {
        scope::check_organizations(&mut caller, reach, &organizations).await?;
        let mut alternatives = vec![in_list("role.organization_id", organizations.iter().map(|id| id.get()))];
        if include_root {
            alternatives.push(("role.is_default_role = 1".into(), Vec::new()));
        }
        filter.and_any(alternatives);
    }
    let collaboration = params.get::<CollaborationId>("collaboration_id")?;
    scope::check_collaboration(&caller, reach, collaboration)?;
    if let Some(id) = collaboration {
        let sql = "role.organization_id IN (SELECT organization_id FROM collaboration_organization \
                   WHERE collaboration_id = ?)";
        filter.and(sql, [id.get().into()]);
    }
    if let Some(id) = params.get::<RuleId>("rule_id")? {
        filter.and("role.id IN (SELECT role_id FROM role_rule WHERE rule_id = ?)", [id.get().into()]);
    }
    if let Some(id) = params.get::<UserId>("user_id")? {
        super::user::check_visible(&mut caller, id).await?;
        filter.and("role.id IN (SELECT role_id FROM user_role WHERE user_id = ?)", [id.get().into()]);
    }
    let (found, total) = store::role_page(caller.tx.conn(), &filter, &page).await?;
    let data: Vec<_> = found.into_iter().map(|record| role(&caller.state, record)).collect();
    Ok(page.answer(&params, data, total))
}

fn restrict(filter: &mut Filter, caller: &Caller, reach: Reach, sees_built_in: bool) {
    if reach.all {
        return;
    }
    let mut visible = Filter::default();
    scope::restrict(&mut visible, caller, reach, &COLUMNS);
    let mut alternatives = vec![visible.into_alternative()];
    if sees_built_in {
        alternatives.push(("role.is_default_role = 1".into(), Vec::new()));
    }
    filter.and_any(alternatives);
}

/// Refuses to tell of a role that the caller may not see.
pub(crate) async fn check_visible(caller: &mut Caller, record: &RoleRecord) -> Result<(), Problem> {
    let target = target(caller, record).await?;
    caller.permit::<ViewRole>(record.id, &target)?;
    Ok(())
}

/// One role.
#[utoipa::path(
    get, path = "/role/{id}", tag = "role",
    responses((status = 200, body = Role)),
    security(("user" = [])),
)]
async fn fetch(mut caller: Caller, Id(id): Id<RoleId>) -> Result<Json<Role>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    caller.permit::<ViewRole>(id, &target)?;
    Ok(Json(role(&caller.state, record)))
}

/// Makes a role of an organization. It may have no rule that the caller does not hold.
#[utoipa::path(
    post, path = "/role", tag = "role",
    request_body = NewRole,
    responses((status = 201, body = Role)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.role.create", skip_all)]
async fn create(mut caller: Caller, Body(new): Body<NewRole>) -> Result<(StatusCode, Json<Role>), Problem> {
    let organization = new.organization_id.unwrap_or(caller.actor.organization);
    let target = scope::organization_target(&mut caller, organization).await?;
    let permit = caller.permit::<CreateRole>(organization, &target)?;
    let known = crate::store::organization::organization_fetch(caller.tx.conn(), organization).await?;
    if known.is_none() {
        return Err(Problem::not_found(format!("Organization with id={organization} is not found")));
    }
    check_role_name(&mut caller, &new.name, organization, None).await?;
    let rules = grant(&caller.actor, &target, RuleSet::EMPTY, read_rules(&new.rules)?)?;
    let id = store::role_insert(&mut caller.tx, permit, &new.name, new.description.as_deref(), rules).await?;
    let record = find(&mut caller, id).await?;
    let answer = role(&caller.state, record);
    caller.commit().await?;
    tracing::info!(role.id = %id, "role `{}` created", answer.name);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The body of PATCH; null is as good as absent (contract F.1-7).
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = RoleChange)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    rules: Option<Vec<RuleId>>,
}

bounded!(Change as "RoleChange" {
    name: NAME;
    description: DESCRIPTION;
    rules: RULES;
});
pub(crate) const LIMITS: &[Described] = &[described::<Change>()];

/// Changes a role.
#[utoipa::path(
    patch, path = "/role/{id}", tag = "role",
    request_body = Change,
    responses((status = 200, body = Role)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.role.update", skip_all, fields(role.id = %id))]
async fn update(mut caller: Caller, Id(id): Id<RoleId>, Body(change): Body<Change>) -> Result<Json<Role>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    check_lasting(&caller, &record, &target)?;
    let permit = caller.permit::<EditRole>(id, &target)?;
    let organization = owner(&record)?;
    if let Some(name) = &change.name {
        check_role_name(&mut caller, name, organization, Some(id)).await?;
    }
    let name = change.name.unwrap_or(record.name);
    let description = change.description.or(record.description);
    let rules = match &change.rules {
        Some(rules) => Some(grant(&caller.actor, &target, record.rules, read_rules(rules)?)?),
        None => None,
    };
    let rooted = scope::is_rooted(&mut caller).await?;
    store::role_update(&mut caller.tx, permit, &name, description.as_deref(), rules).await?;
    scope::check_rooted(&mut caller, rooted).await?;
    answer(caller, id).await
}

/// Deletes a role.
#[utoipa::path(
    delete, path = "/role/{id}", tag = "role",
    params(("delete_dependents" = Option<bool>, Query, description = "Whether to delete what depends on it too")),
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.role.delete", skip_all, fields(role.id = %id))]
async fn remove(mut caller: Caller, params: Params, Id(id): Id<RoleId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    check_lasting(&caller, &record, &target)?;
    let permit = caller.permit::<DeleteRole>(id, &target)?;
    owner(&record)?;
    let users = store::role_users(caller.tx.conn(), id).await?;
    let dependents: &[&str] = if users > 0 { &["users"] } else { &[] };
    scope::check_dependents("Role", dependents, params.flag("delete_dependents")?)?;
    let taken = grant(&caller.actor, &target, record.rules, RuleSet::EMPTY)?;
    let rooted = scope::is_rooted(&mut caller).await?;
    store::role_delete(&mut caller.tx, permit, taken).await?;
    scope::check_rooted(&mut caller, rooted).await?;
    caller.commit().await?;
    tracing::info!(role.id = %id, "role `{}` deleted", record.name);
    Ok(Message::new("Role removed from the database."))
}

/// A role's rules.
#[utoipa::path(
    get, path = "/role/{id}/rule", tag = "role",
    responses((status = 200, body = Vec<Rule>)),
    security(("user" = [])),
)]
async fn rules(mut caller: Caller, Id(id): Id<RoleId>) -> Result<Json<Vec<Rule>>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    caller.permit::<ViewRole>(id, &target)?;
    Ok(Json(record.rules.iter().map(|rule| super::rule::view::rule(&caller.state, rule)).collect()))
}

/// Gives a role a rule.
#[utoipa::path(
    post, path = "/role/{id}/rule/{rule_id}", tag = "role",
    responses((status = 201, body = Vec<Rule>)),
    security(("user" = [])),
)]
async fn rule_add(
    caller: Caller,
    Ids(id, rule): Ids<RoleId, RuleId>,
) -> Result<(StatusCode, Json<Vec<Rule>>), Problem> {
    Ok((StatusCode::CREATED, change_rule(caller, id, rule, true).await?))
}

/// Takes a rule from a role.
#[utoipa::path(
    delete, path = "/role/{id}/rule/{rule_id}", tag = "role",
    responses((status = 200, body = Vec<Rule>)),
    security(("user" = [])),
)]
async fn rule_remove(caller: Caller, Ids(id, rule): Ids<RoleId, RuleId>) -> Result<Json<Vec<Rule>>, Problem> {
    change_rule(caller, id, rule, false).await
}

#[tracing::instrument(name = "http.role.change_rule", skip_all, fields(role.id = %id, rule.id = %rule))]
async fn change_rule(mut caller: Caller, id: RoleId, rule: RuleId, belongs: bool) -> Result<Json<Vec<Rule>>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = target(&mut caller, &record).await?;
    check_lasting(&caller, &record, &target)?;
    let permit = caller.permit::<EditRole>(id, &target)?;
    owner(&record)?;
    let Some(known) = rule::rule(rule) else {
        return Err(Problem::not_found(format!("Rule id={rule} not found!")));
    };
    let single = RuleSet::EMPTY.with(rule);
    let after = match (belongs, record.rules.contains(known)) {
        (true, _) => record.rules.union(single),
        (false, true) => record.rules.symmetric_difference(single),
        (false, false) => return Err(Problem::not_found(format!("Rule id={rule} is not part of role id={id}!"))),
    };
    let rules: Granted = grant(&caller.actor, &target, record.rules, after)?;
    let rooted = scope::is_rooted(&mut caller).await?;
    store::role_update(&mut caller.tx, permit, &record.name, record.description.as_deref(), Some(rules)).await?;
    scope::check_rooted(&mut caller, rooted).await?;
    let answer = after.iter().map(|rule| super::rule::view::rule(&caller.state, rule)).collect();
    caller.commit().await?;
    Ok(Json(answer))
}

async fn answer(mut caller: Caller, id: RoleId) -> Result<Json<Role>, Problem> {
    let record = find(&mut caller, id).await?;
    let answer = role(&caller.state, record);
    caller.commit().await?;
    Ok(Json(answer))
}

async fn find(caller: &mut Caller, id: RoleId) -> Result<RoleRecord, Problem> {
    store::role_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Role with id={id} not found.")))
}

/// The organization that made a role. Those that are built in stay as they are.
fn owner(record: &RoleRecord) -> Result<OrganizationId, Problem> {
    match record.organization {
        Some(organization) if !record.is_default => Ok(organization),
        Some(_) | None => {
            let text = format!("Role id={} is a default role: it cannot be changed or deleted", record.id);
            Err(Problem::bad_request("built_in_role", text))
        }
    }
}

/// Tells whoever may see a built-in role that it stays as it is, whatever else they may do.
fn check_lasting(caller: &Caller, record: &RoleRecord, target: &Target) -> Result<(), Problem> {
    match caller.permit::<ViewRole>(record.id, target) {
        Ok(_) => owner(record).map(drop),
        Err(_) => Ok(()),
    }
}

async fn check_role_name(
    caller: &mut Caller,
    name: &str,
    organization: OrganizationId,
    besides: Option<RoleId>,
) -> Result<(), Problem> {
    check_name("name", name)?;
    if is_reserved(name) {
        return Err(Problem::bad_request("name_taken", format!("Role name '{name}' is that of a default role")));
    }
    if store::role_name_taken(caller.tx.conn(), name, organization, besides).await? {
        return Err(Problem::bad_request("name_taken", format!("Role with name '{name}' already exists!")));
    }
    Ok(())
}

/// Rules as a body lists them, all of which must exist.
pub(crate) fn read_rules(ids: &[RuleId]) -> Result<RuleSet, Problem> {
    let known: BTreeSet<RuleId> = ids.iter().copied().filter(|id| rule::rule(*id).is_some()).collect();
    match ids.iter().find(|id| !known.contains(id)) {
        Some(id) => Err(Problem::not_found(format!("Rule id={id} not found."))),
        None => Ok(known.into_iter().collect()),
    }
}
