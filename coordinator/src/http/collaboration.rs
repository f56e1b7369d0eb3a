//! `/collaboration` (contract A.7.2).

use std::collections::BTreeSet;

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId, NodeId, OrganizationId};
use twinmesh_protocol::wire::{Collaboration, Many, NewCollaboration, Node, Organization, Page};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, IdBody, changed_name, check_name};
use super::caller::Caller;
use super::openapi::sortable;
use super::page::PageRequest;
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use super::scope::{self, Columns};
use crate::authz::Target;
use crate::authz::action::{
    CreateCollaboration, CreateNode, DeleteCollaboration, DeleteNode, EditCollaboration, ReplaceMembers,
    ViewCollaboration,
};
use crate::limits::{Described, bounded, described};
use crate::store::collaboration::{self as store, CollaborationRecord};
use crate::store::filter::Filter;
use crate::store::organization::organizations_missing;

const COLUMNS: Columns = Columns {
    organization: "collaboration.id IN (SELECT collaboration_id FROM collaboration_organization \
         WHERE organization_id = ?)",
    collaboration: "collaboration.id {in}",
    owner: None,
};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(fetch, update, remove))
        .routes(routes!(member_add, member_remove))
        .routes(routes!(node_add, node_remove))
}

/// The wire's form.
fn collaboration(state: &AppState, record: CollaborationRecord, members: Option<Vec<Organization>>) -> Collaboration {
    let CollaborationRecord { id, name, encrypted } = record;
    Collaboration {
        id,
        name,
        encrypted,
        organizations: match members {
            Some(members) => Many::Items(members),
            None => Many::Link(state.many("organization", "collaboration_id", id)),
        },
        nodes: state.many("node", "collaboration_id", id),
        tasks: state.many("task", "collaboration_id", id),
        studies: state.many("study", "collaboration_id", id),
        algorithm_stores: state.many("algorithmstore", "collaboration_id", id),
    }
}

/// Lists collaborations.
#[utoipa::path(
    get, path = "/collaboration", tag = "collaboration",
    params(
        PageRequest,
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("encrypted" = Option<bool>, Query, description = "Whether end-to-end encrypted"),
        ("organization_id" = Option<OrganizationId>, Query, description = "Those in which this organization takes part"),
        ("algorithm_store_id" = Option<AlgorithmStoreId>, Query, description = "Those with this algorithm store"),
        ("include" = Option<String>, Query, description = "`organizations`: the organizations in place of their link"),
    ),
    responses((status = 200, body = Page<Collaboration>)),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    let reach = caller.reach::<ViewCollaboration>()?;
    let mut filter = Filter::default();
    if !reach.all {
        // A node or container has one collaboration, whatever else its organization takes part in.
        filter.and_in("collaboration.id", caller.actor.collaborations.iter().map(|id| id.get()));
    }
    filter.and_like("collaboration.name", params.pattern("name")?);
    filter.and_equal("collaboration.encrypted", params.truth("encrypted")?.map(i64::from));
    let organization = params.get::<OrganizationId>("organization_id")?;
    if let Some(id) = organization {
        let shared = crate::authz::Reach { collaboration: true, ..reach };
        scope::check_organization(&mut caller, shared, organization).await?;
        filter.and(COLUMNS.organization, [id.get().into()]);
    }
    if let Some(id) = params.get::<AlgorithmStoreId>("algorithm_store_id")? {
        // A store without a collaboration is linked to all.
        let sql = "EXISTS (SELECT 1 FROM algorithm_store WHERE algorithm_store.id = ? \
                   AND (algorithm_store.collaboration_id IS NULL OR algorithm_store.collaboration_id = collaboration.id))";
        filter.and(sql, [id.get().into()]);
    }
    let (found, total) = store::collaboration_page(caller.tx.conn(), &filter, &page).await?;
    let mut data = Vec::with_capacity(found.len());
    let mut members = if params.includes("organizations") {
        Some(store::members(caller.tx.conn(), found.iter().map(|record| record.id)).await?)
    } else {
        None
    };
    for record in found {
        let nested = match &mut members {
            Some(members) => {
                let ids = members.remove(&record.id).unwrap_or_default();
                Some(super::organization::nested(&mut caller, ids).await?)
            }
            None => None,
        };
        data.push(collaboration(&caller.state, record, nested));
    }
    Ok(page.answer(&params, data, total))
}

/// One collaboration.
#[utoipa::path(
    get, path = "/collaboration/{id}", tag = "collaboration",
    params(
        ("include" = Option<String>, Query, description = "`organizations`: the organizations in place of their link"),
    ),
    responses((status = 200, body = Collaboration)),
)]
async fn fetch(
    mut caller: Caller,
    params: Params,
    Id(id): Id<CollaborationId>,
) -> Result<Json<Collaboration>, Problem> {
    let record = find(&mut caller, id).await?;
    caller.permit::<ViewCollaboration>(id, &Target::collaboration(id))?;
    let nested = if params.includes("organizations") {
        let ids = store::members_of(caller.tx.conn(), id).await?;
        Some(super::organization::nested(&mut caller, ids).await?)
    } else {
        None
    };
    Ok(Json(collaboration(&caller.state, record, nested)))
}

/// Makes a collaboration.
#[utoipa::path(
    post, path = "/collaboration", tag = "collaboration",
    request_body = NewCollaboration,
    responses((status = 200, body = Collaboration)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.create", skip_all)]
async fn create(mut caller: Caller, Body(new): Body<NewCollaboration>) -> Result<Json<Collaboration>, Problem> {
    let permit = caller.permit::<CreateCollaboration>((), &Target::anywhere())?;
    check_name("name", &new.name)?;
    let members = read_organizations(&new.organization_ids)?;
    check_name_free(&mut caller, &new.name, None).await?;
    check_exist(&mut caller, &members).await?;
    let id = store::collaboration_insert(&mut caller.tx, permit, &new.name, new.encrypted, &members).await?;
    let record = find(&mut caller, id).await?;
    let answer = collaboration(&caller.state, record, None);
    caller.commit().await?;
    tracing::info!(collaboration.id = %id, "collaboration `{}` created", answer.name);
    Ok(Json(answer))
}

/// The body of PATCH.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = CollaborationChange)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    encrypted: Option<bool>,
    #[serde(default)]
    organization_ids: Option<Vec<OrganizationId>>,
}

bounded!(Change as "CollaborationChange" {
    name: NAME;
    organization_ids: MEMBERS;
});
pub(crate) const LIMITS: &[Described] = &[described::<Change>()];

/// Changes a collaboration.
#[utoipa::path(
    patch, path = "/collaboration/{id}", tag = "collaboration",
    request_body = Change,
    responses((status = 200, body = Collaboration)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.update", skip_all, fields(collaboration.id = %id))]
async fn update(
    mut caller: Caller,
    Id(id): Id<CollaborationId>,
    Body(change): Body<Change>,
) -> Result<Json<Collaboration>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = Target::collaboration(id);
    let permit = caller.permit::<EditCollaboration>(id, &target)?;
    let name = changed_name(change.name, record.name)?;
    check_name_free(&mut caller, &name, Some(id)).await?;
    if let Some(ids) = &change.organization_ids {
        let permit = caller.permit::<ReplaceMembers>(id, &target)?;
        let members = read_organizations(ids)?;
        check_exist(&mut caller, &members).await?;
        store::members_replace(&mut caller.tx, permit, &members, caller.now).await?;
    }
    let encrypted = change.encrypted.unwrap_or(record.encrypted);
    store::collaboration_update(&mut caller.tx, permit, &name, encrypted).await?;
    let record = find(&mut caller, id).await?;
    let answer = collaboration(&caller.state, record, None);
    caller.commit().await?;
    tracing::info!(collaboration.id = %id, "collaboration `{}` changed", answer.name);
    Ok(Json(answer))
}

/// Deletes a collaboration.
#[utoipa::path(
    delete, path = "/collaboration/{id}", tag = "collaboration",
    params(("delete_dependents" = Option<bool>, Query, description = "Whether to delete what depends on it too")),
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.delete", skip_all, fields(collaboration.id = %id))]
async fn remove(mut caller: Caller, params: Params, Id(id): Id<CollaborationId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<DeleteCollaboration>(id, &Target::collaboration(id))?;
    let dependents = store::collaboration_dependents(caller.tx.conn(), id).await?;
    scope::check_dependents("Collaboration", &dependents, params.flag("delete_dependents")?)?;
    store::collaboration_delete(&mut caller.tx, permit, caller.now).await?;
    caller.commit().await?;
    tracing::info!(collaboration.id = %id, "collaboration `{}` deleted", record.name);
    Ok(Message::new(format!("Collaboration id={id} deleted successfully")))
}

/// Takes an organization in. Needs the right to change any collaboration: otherwise the administrator of one could
/// pull foreign organizations in and so gain rights over them (contract A.4.3).
#[utoipa::path(
    post, path = "/collaboration/{id}/organization", tag = "collaboration",
    request_body = IdBody,
    responses((status = 200, body = Vec<Organization>)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.member_add", skip_all, fields(collaboration.id = %id))]
async fn member_add(
    caller: Caller,
    Id(id): Id<CollaborationId>,
    Body(body): Body<IdBody>,
) -> Result<Json<Vec<Organization>>, Problem> {
    change_members(caller, id, OrganizationId::new(body.id), true).await
}

/// Takes an organization out.
#[utoipa::path(
    delete, path = "/collaboration/{id}/organization", tag = "collaboration",
    request_body = IdBody,
    responses((status = 200, body = Vec<Organization>)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.member_remove", skip_all, fields(collaboration.id = %id))]
async fn member_remove(
    caller: Caller,
    Id(id): Id<CollaborationId>,
    Body(body): Body<IdBody>,
) -> Result<Json<Vec<Organization>>, Problem> {
    change_members(caller, id, OrganizationId::new(body.id), false).await
}

async fn change_members(
    mut caller: Caller,
    id: CollaborationId,
    organization: OrganizationId,
    belongs: bool,
) -> Result<Json<Vec<Organization>>, Problem> {
    find(&mut caller, id).await?;
    let permit = caller.permit::<ReplaceMembers>(id, &Target::collaboration(id))?;
    let missing = organizations_missing(caller.tx.conn(), &BTreeSet::from([organization])).await?;
    if !missing.is_empty() {
        return Err(Problem::not_found(format!("Organization with id={organization} is not found")));
    }
    let mut members = store::members_of(caller.tx.conn(), id).await?;
    if belongs {
        members.insert(organization);
    } else {
        members.remove(&organization);
    }
    store::members_replace(&mut caller.tx, permit, &members, caller.now).await?;
    let answer = super::organization::nested_in_answer(&mut caller, members).await?;
    caller.commit().await?;
    tracing::info!(collaboration.id = %id, organization.id = %organization, belongs, "members changed");
    Ok(Json(answer))
}

/// Moves a node here; stock's sub-endpoint.
#[utoipa::path(
    post, path = "/collaboration/{id}/node", tag = "collaboration",
    request_body = IdBody,
    responses((status = 201, body = Vec<Node>)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.node_add", skip_all, fields(collaboration.id = %id))]
async fn node_add(
    mut caller: Caller,
    Id(id): Id<CollaborationId>,
    Body(body): Body<IdBody>,
) -> Result<(StatusCode, Json<Vec<Node>>), Problem> {
    find(&mut caller, id).await?;
    caller.permit::<EditCollaboration>(id, &Target::collaboration(id))?;
    let node = super::node::view::find(&mut caller, NodeId::new(body.id)).await?;
    if node.collaboration != id {
        caller.permit::<CreateNode>((id, node.organization), &Target::organization_in(node.organization, id))?;
        return Err(Problem::bad_request(
            "node_elsewhere",
            "A node belongs to one collaboration for life; create another node for this one",
        ));
    }
    Ok((StatusCode::CREATED, Json(super::node::view::of_collaboration(&mut caller, id).await?)))
}

/// Deletes a node of the collaboration.
#[utoipa::path(
    delete, path = "/collaboration/{id}/node", tag = "collaboration",
    request_body = IdBody,
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.collaboration.node_remove", skip_all, fields(collaboration.id = %id))]
async fn node_remove(
    mut caller: Caller,
    Id(id): Id<CollaborationId>,
    Body(body): Body<IdBody>,
) -> Result<Json<Message>, Problem> {
    find(&mut caller, id).await?;
    caller.permit::<EditCollaboration>(id, &Target::collaboration(id))?;
    let node = super::node::view::find(&mut caller, NodeId::new(body.id)).await?;
    if node.collaboration != id {
        let text = format!("Node id={} is not part of the collaboration!", node.id);
        return Err(Problem::bad_request("node_elsewhere", text));
    }
    let permit = caller.permit::<DeleteNode>(node.id, &super::node::view::target(&node))?;
    crate::store::node::node_delete(&mut caller.tx, permit, caller.now).await?;
    caller.commit().await?;
    Ok(Message::new(format!("Node id={} removed from collaboration id={id}", node.id)))
}

pub(crate) async fn find(caller: &mut Caller, id: CollaborationId) -> Result<CollaborationRecord, Problem> {
    store::collaboration_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Collaboration id={id} not found!")))
}

async fn check_name_free(caller: &mut Caller, name: &str, besides: Option<CollaborationId>) -> Result<(), Problem> {
    if store::collaboration_name_taken(caller.tx.conn(), name, besides).await? {
        let text = format!("Collaboration with name '{name}' already exists!");
        return Err(Problem::bad_request("name_taken", text));
    }
    Ok(())
}

async fn check_exist(caller: &mut Caller, ids: &BTreeSet<OrganizationId>) -> Result<(), Problem> {
    match organizations_missing(caller.tx.conn(), ids).await?.first() {
        Some(id) => {
            Err(Problem::bad_request("unknown_organization", format!("Organization with id={id} is not found")))
        }
        None => Ok(()),
    }
}

/// Organizations as a body lists them, each once.
pub(crate) fn read_organizations(ids: &[OrganizationId]) -> Result<BTreeSet<OrganizationId>, Problem> {
    const FIELD: &str = "organization_ids";
    let set: BTreeSet<_> = ids.iter().copied().collect();
    if set.len() < ids.len() {
        return Err(Problem::field(FIELD, "Organization ids must be unique."));
    }
    if set.iter().any(|id| id.get() < 1) {
        return Err(Problem::field(FIELD, "Organization ids must be greater than 0."));
    }
    Ok(set)
}
