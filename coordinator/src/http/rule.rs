//! `/rule` (contract A.7.5). The rules are part of the program, so this asks the database only who holds them.

pub(crate) mod view;

use std::cmp::Ordering;

use axum::Json;
use axum::response::Response;
use twinmesh_protocol::id::{RoleId, RuleId, UserId};
use twinmesh_protocol::wire::{Page, Rule};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::view::rule;
use super::AppState;
use super::caller::Caller;
use super::openapi::sortable;
use super::page::{Direction, PageRequest};
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use crate::authz::rule::{self, RULES};

const SORTABLE: &[(&str, &str)] =
    &[("id", "id"), ("name", "name"), ("operation", "operation"), ("scope", "scope"), ("description", "description")];

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(fetch))
}

/// Lists rules.
#[utoipa::path(
    get, path = "/rule", tag = "rule",
    params(
        PageRequest,
        ("no_pagination" = Option<String>, Query, description = "1: everything on one page"),
        ("name" = Option<String>, Query, description = "About this kind of resource"),
        ("operation" = Option<String>, Query, description = "With this operation"),
        ("scope" = Option<String>, Query, description = "In this scope"),
        ("role_id" = Option<RoleId>, Query, description = "Those of this role"),
        ("user_id" = Option<UserId>, Query, description = "Those that this user has besides roles"),
    ),
    responses((status = 200, body = Page<Rule>)),
    security(("user" = [])),
    extensions(("x-sort" = json!(sortable(SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    if caller.actor.user().is_none() {
        return Err(Problem::permission());
    }
    let mut page = PageRequest::read(&params, SORTABLE)?;
    if params.text("no_pagination") == Some("1") {
        page = page.everything(RULES.len());
    }
    let mut found: Vec<&rule::Rule> = RULES.iter().collect();
    if let Some(name) = params.text("name") {
        found.retain(|rule| rule.resource.as_str() == name);
    }
    if let Some(word) = params.text("operation") {
        found.retain(|rule| rule.operation.as_str().eq_ignore_ascii_case(word) || rule.operation.short() == word);
    }
    if let Some(word) = params.text("scope") {
        found.retain(|rule| rule.scope.as_str().eq_ignore_ascii_case(word) || rule.scope.short() == word);
    }
    if let Some(id) = params.get::<RoleId>("role_id")? {
        let role = crate::store::role::role_fetch(caller.tx.conn(), id).await?;
        let Some(role) = role else {
            return Err(Problem::not_found(format!("Role with id={id} not found.")));
        };
        super::role::check_visible(&mut caller, &role).await?;
        found.retain(|rule| role.rules.contains(rule));
    }
    if let Some(id) = params.get::<UserId>("user_id")? {
        super::user::check_visible(&mut caller, id).await?;
        let rules = crate::store::role::user_rules(caller.tx.conn(), id).await?;
        found.retain(|rule| rules.contains(rule));
    }
    found.sort_by(|a, b| compare(a, b, page.sort()));
    let total = i64::try_from(found.len()).unwrap_or(i64::MAX);
    let offset = usize::try_from(page.offset()).unwrap_or(usize::MAX);
    let limit = usize::try_from(page.limit()).unwrap_or(usize::MAX);
    let data: Vec<_> = found.into_iter().skip(offset).take(limit).map(|found| rule(&caller.state, found)).collect();
    Ok(page.answer(&params, data, total))
}

fn compare(a: &rule::Rule, b: &rule::Rule, sort: &[(String, Direction)]) -> Ordering {
    for (column, direction) in sort {
        let order = match column.as_str() {
            "name" => a.resource.as_str().cmp(b.resource.as_str()),
            "operation" => a.operation.as_str().cmp(b.operation.as_str()),
            "scope" => a.scope.as_str().cmp(b.scope.as_str()),
            "description" => a.description().cmp(&b.description()),
            _ => a.id.cmp(&b.id),
        };
        let order = match direction {
            Direction::Up => order,
            Direction::Down => order.reverse(),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.id.cmp(&b.id)
}

/// One rule.
#[utoipa::path(
    get, path = "/rule/{id}", tag = "rule",
    responses((status = 200, body = Rule)),
    security(("user" = [])),
)]
async fn fetch(caller: Caller, Id(id): Id<RuleId>) -> Result<Json<Rule>, Problem> {
    if caller.actor.user().is_none() {
        return Err(Problem::permission());
    }
    match rule::rule(id) {
        Some(found) => Ok(Json(rule(&caller.state, found))),
        None => Err(Problem::not_found(format!("Rule id={id} not found!"))),
    }
}
