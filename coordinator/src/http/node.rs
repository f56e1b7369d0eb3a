//! `/node` and `/recover/node` (contract A.7.3, A.3).

pub(crate) mod view;

use std::net::IpAddr;

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, StudyId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{NewNode, Node, NodeDetails, Page};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::view::{find, node, target, visible};
use super::AppState;
use super::answer::Message;
use super::body::{Body, IdBody, changed_name, check_name};
use super::caller::Caller;
use super::openapi::sortable;
use super::page::PageRequest;
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use super::scope;
use crate::authn::secret;
use crate::authz::Target;
use crate::authz::action::{CreateNode, DeleteNode, EditNode, PublishDetails, RenewApiKey, ReplacePublicKey, ViewNode};
use crate::limits::{self, Described, bounded, described};
use crate::store::node as store;

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(fetch, update, remove))
        .routes(routes!(renew_api_key))
        .routes(routes!(publish_details))
}

/// Lists nodes.
#[utoipa::path(
    get, path = "/node", tag = "node",
    params(
        PageRequest,
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("organization_id" = Option<OrganizationId>, Query, description = "Those of this organization"),
        ("collaboration_id" = Option<CollaborationId>, Query, description = "Those of this collaboration"),
        ("study_id" = Option<StudyId>, Query, description = "Those that take part in this study"),
        ("status" = Option<String>, Query, description = "`online` or `offline`"),
        ("ip" = Option<String>, Query, description = "Last seen at this address"),
        ("last_seen_from" = Option<Time>, Query, description = "Last seen at this instant or later"),
        ("last_seen_till" = Option<Time>, Query, description = "Last seen at this instant or earlier"),
    ),
    responses((status = 200, body = Page<Node>)),
    security(("user" = []), ("node" = [])),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    let mut filter = visible(&caller)?;
    let reach = caller.reach::<ViewNode>()?;
    filter.and_like("node.name", params.pattern("name")?);
    let organization = params.get::<OrganizationId>("organization_id")?;
    scope::check_organization(&mut caller, reach, organization).await?;
    filter.and_equal("node.organization_id", organization.map(OrganizationId::get));
    let collaboration = params.get::<CollaborationId>("collaboration_id")?;
    scope::check_collaboration(&caller, reach, collaboration)?;
    filter.and_equal("node.collaboration_id", collaboration.map(CollaborationId::get));
    if let Some(id) = params.get::<StudyId>("study_id")? {
        let study = crate::store::study::study_fetch(caller.tx.conn(), id).await?;
        scope::check_collaboration(&caller, reach, study.map(|study| study.collaboration))?;
        let sql = "EXISTS (SELECT 1 FROM study JOIN study_organization ON study_organization.study_id = study.id \
                   WHERE study.id = ? AND study.collaboration_id = node.collaboration_id \
                   AND study_organization.organization_id = node.organization_id)";
        filter.and(sql, [id.get().into()]);
    }
    filter.and_equal("authenticatable.status", params.text("status"));
    filter.and_equal("authenticatable.ip", params.text("ip"));
    if let Some(from) = params.time("last_seen_from")? {
        filter.and("authenticatable.last_seen >= ?", [from.micros().into()]);
    }
    if let Some(till) = params.time("last_seen_till")? {
        filter.and("authenticatable.last_seen <= ?", [till.micros().into()]);
    }
    let (found, total) = store::node_page(caller.tx.conn(), &filter, &page).await?;
    let data: Vec<_> = found.into_iter().map(|record| node(&caller.state, record)).collect();
    Ok(page.answer(&params, data, total))
}

/// One node.
#[utoipa::path(
    get, path = "/node/{id}", tag = "node",
    responses((status = 200, body = Node)),
    security(("user" = []), ("node" = [])),
)]
async fn fetch(mut caller: Caller, Id(id): Id<NodeId>) -> Result<Json<Node>, Problem> {
    let record = find(&mut caller, id).await?;
    caller.permit::<ViewNode>(id, &target(&record))?;
    Ok(Json(node(&caller.state, record)))
}

/// Makes a node. The answer is the only one that shows its API key.
#[utoipa::path(
    post, path = "/node", tag = "node",
    request_body = NewNode,
    responses((status = 201, body = Node)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.node.create", skip_all)]
async fn create(mut caller: Caller, Body(new): Body<NewNode>) -> Result<(StatusCode, Json<Node>), Problem> {
    let collaboration_id = new.collaboration_id;
    let collaboration = super::collaboration::find(&mut caller, collaboration_id).await?;
    let organization = new.organization_id.unwrap_or(caller.actor.organization);
    let target = Target::organization_in(organization, collaboration_id);
    let permit = caller.permit::<CreateNode>((collaboration_id, organization), &target)?;

    let members = crate::store::collaboration::members_of(caller.tx.conn(), collaboration_id).await?;
    let known = crate::store::organization::organization_fetch(caller.tx.conn(), organization).await?;
    let Some(member) = known.filter(|_| members.contains(&organization)) else {
        let text = format!("Organization id={organization} is not part of collaboration id={collaboration_id}!");
        return Err(Problem::bad_request("not_a_member", text));
    };
    if store::node_at(caller.tx.conn(), organization, collaboration_id).await?.is_some() {
        let text = format!("Organization id={organization} already has a node for collaboration id={collaboration_id}");
        return Err(Problem::bad_request("node_exists", text));
    }
    let name = match new.name {
        Some(name) => {
            check_name("name", &name)?;
            name
        }
        None => format!("{} - {} Node", member.details.name, collaboration.name),
    };
    check_name_free(&mut caller, &name, None).await?;

    let api_key = secret::new_key().to_string();
    let new = store::NewApiKey { hash: &secret::hash(&api_key), in_own_hands: in_own_hands(&caller, &target) };
    let id = store::node_insert(&mut caller.tx, permit, &name, new).await?;
    let record = find(&mut caller, id).await?;
    let answer = Node { api_key: Some(api_key), ..node(&caller.state, record) };
    caller.commit().await?;
    tracing::info!(node.id = %id, "node `{name}` created");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The body of PATCH.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NodeChange)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    ip: Option<IpAddr>,
    #[serde(default)]
    clear_ip: Option<bool>,
    #[serde(default)]
    organization_id: Option<Value>,
    #[serde(default)]
    collaboration_id: Option<Value>,
}

bounded!(Change as "NodeChange" {
    name: NAME;
    ip: IP, told;
});
pub(crate) const LIMITS: &[Described] = &[described::<Change>()];

/// Changes a node.
#[utoipa::path(
    patch, path = "/node/{id}", tag = "node",
    request_body = Change,
    responses((status = 200, body = Node)),
    security(("user" = []), ("node" = [])),
)]
#[tracing::instrument(name = "http.node.update", skip_all, fields(node.id = %id))]
async fn update(mut caller: Caller, Id(id): Id<NodeId>, Body(change): Body<Change>) -> Result<Json<Node>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<EditNode>(id, &target(&record))?;
    for (field, given) in [("organization_id", change.organization_id), ("collaboration_id", change.collaboration_id)] {
        if given.is_some() {
            return Err(Problem::field(field, "Cannot be changed: create another node instead."));
        }
    }
    let name = changed_name(change.name, record.name)?;
    check_name_free(&mut caller, &name, Some(id)).await?;
    let ip = if change.clear_ip == Some(true) { None } else { change.ip.map(|ip| ip.to_string()).or(record.ip) };
    store::node_update(&mut caller.tx, permit, &name, ip.as_deref()).await?;
    let record = find(&mut caller, id).await?;
    let answer = node(&caller.state, record);
    caller.commit().await?;
    Ok(Json(answer))
}

/// Deletes a node.
#[utoipa::path(
    delete, path = "/node/{id}", tag = "node",
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.node.delete", skip_all, fields(node.id = %id))]
async fn remove(mut caller: Caller, Id(id): Id<NodeId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<DeleteNode>(id, &target(&record))?;
    store::node_delete(&mut caller.tx, permit, caller.now).await?;
    caller.commit().await?;
    tracing::info!(node.id = %id, "node `{}` deleted", record.name);
    Ok(Message::new(format!("Node id={id} successfully deleted")))
}

/// Takes a node's word for what it offers and to whom, in place of what it told before. Our addition.
#[utoipa::path(
    put, path = "/node/{id}/details", tag = "node",
    request_body = NodeDetails,
    responses((status = 200, body = Node)),
    security(("node" = [])),
)]
#[tracing::instrument(name = "http.node.publish_details", skip_all, fields(node.id = %id))]
async fn publish_details(
    mut caller: Caller,
    Id(id): Id<NodeId>,
    Body(details): Body<NodeDetails>,
) -> Result<Json<Node>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<PublishDetails>(id, &target(&record))?;
    let rows = detail_rows(&details);
    if limits::DETAILS.fault(&rows).is_some() {
        let text = format!("All of it together has {} entries: at most {} are kept.", rows.len(), limits::DETAILS.max);
        return Err(Problem::field("_schema", text));
    }
    if rows != record.config {
        store::node_config_replace(&mut caller.tx, permit, &rows).await?;
    }
    let record = find(&mut caller, id).await?;
    let answer = node(&caller.state, record);
    caller.commit().await?;
    tracing::debug!(node.id = %id, "the node told {} details", rows.len());
    Ok(Json(answer))
}

/// Details as stock servers keep them: a row for each item of a list (contract B, `node_info_update`).
fn detail_rows(details: &NodeDetails) -> Vec<(String, String)> {
    let mut rows: Vec<(String, String)> = Vec::new();
    let mut row = |key: &str, value: String| rows.push((key.to_owned(), value));
    let NodeDetails { encryption, allowed_algorithms, allowed_users, allowed_orgs, databases } = details;
    if let Some(encryption) = encryption {
        row("encryption", if *encryption { "True" } else { "False" }.into());
    }
    for image in allowed_algorithms.iter().flatten() {
        row("allowed_algorithms", image.clone());
    }
    for user in allowed_users.iter().flatten() {
        row("allowed_users", user.to_string());
    }
    for organization in allowed_orgs.iter().flatten() {
        row("allowed_orgs", organization.to_string());
    }
    for database in databases {
        row("database_labels", database.label.clone());
        row(&format!("db_type_{}", database.label), database.kind.clone());
        for column in database.columns.iter().flatten() {
            row(&format!("columns_{}", database.label), column.clone());
        }
    }
    rows
}

/// What a node logs in with.
#[derive(Serialize, ToSchema)]
struct ApiKey {
    /// The key, which is shown this once.
    api_key: String,
}

/// Gives a node another API key.
#[utoipa::path(
    post, path = "/recover/node", tag = "node",
    request_body = IdBody,
    responses((status = 200, body = ApiKey)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.node.renew_api_key", skip_all)]
async fn renew_api_key(mut caller: Caller, Body(body): Body<IdBody>) -> Result<Json<ApiKey>, Problem> {
    let record = find(&mut caller, NodeId::new(body.id)).await?;
    let target = target(&record);
    let permit = caller.permit::<RenewApiKey>(record.id, &target)?;
    let api_key = secret::new_key().to_string();
    let new = store::NewApiKey { hash: &secret::hash(&api_key), in_own_hands: in_own_hands(&caller, &target) };
    let now = caller.state.now();
    store::api_key_replace(&mut caller.tx, permit, new, now).await?;
    caller.commit().await?;
    tracing::info!(node.id = %record.id, "api key of node `{}` replaced", record.name);
    Ok(Json(ApiKey { api_key }))
}

/// Whether whoever is given a node's API key may replace the public key of its organization, so that the node may too.
fn in_own_hands(caller: &Caller, target: &Target) -> bool {
    target.organizations.iter().all(|id| caller.permit::<ReplacePublicKey>(*id, target).is_ok())
}

async fn check_name_free(caller: &mut Caller, name: &str, besides: Option<NodeId>) -> Result<(), Problem> {
    if store::node_name_taken(caller.tx.conn(), name, besides).await? {
        return Err(Problem::bad_request("name_taken", format!("Node with name '{name}' already exists!")));
    }
    Ok(())
}
