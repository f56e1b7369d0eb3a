//! `/study` (contract A.7.6).

use std::collections::BTreeSet;

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use twinmesh_protocol::id::{CollaborationId, OrganizationId, StudyId};
use twinmesh_protocol::wire::{Many, NewStudy, Organization, Page, Study};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, IdBody, changed_name, check_name};
use super::caller::Caller;
use super::collaboration::read_organizations;
use super::openapi::sortable;
use super::page::PageRequest;
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use super::scope::{self, Columns};
use crate::authz::Target;
use crate::authz::action::{CreateStudy, DeleteStudy, EditStudy, ViewStudy};
use crate::authz::actor::Kind;
use crate::limits::{Described, bounded, described};
use crate::store::filter::Filter;
use crate::store::study::{self as store, StudyRecord};

const MEMBER: &str = "study.id IN (SELECT study_id FROM study_organization WHERE organization_id = ?)";
const COLUMNS: Columns = Columns { organization: MEMBER, collaboration: "study.collaboration_id {in}", owner: None };

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(fetch, update, remove))
        .routes(routes!(member_add, member_remove))
}

/// The wire's form.
fn study(state: &AppState, record: StudyRecord, members: Option<Vec<Organization>>) -> Study {
    let StudyRecord { id, name, collaboration, .. } = record;
    Study {
        id,
        name,
        collaboration: Some(state.link("collaboration", collaboration)),
        organizations: match members {
            Some(members) => Many::Items(members),
            None => Many::Link(state.many("organization", "study_id", id)),
        },
        tasks: state.many("task", "study_id", id),
    }
}

/// What decides who may do what to a study: it is its organizations' within its collaboration.
fn target(record: &StudyRecord) -> Target {
    Target { organizations: record.organizations.clone(), ..Target::collaboration(record.collaboration) }
}

async fn nested(caller: &mut Caller, record: StudyRecord) -> Result<Study, Problem> {
    let members = super::organization::nested(caller, record.organizations.iter().copied()).await?;
    Ok(study(&caller.state, record, Some(members)))
}

/// The answer to a write.
async fn written(caller: &mut Caller, id: StudyId) -> Result<Study, Problem> {
    let record = find(caller, id).await?;
    let members = super::organization::nested_in_answer(caller, record.organizations.iter().copied()).await?;
    Ok(study(&caller.state, record, Some(members)))
}

/// Lists studies.
#[utoipa::path(
    get, path = "/study", tag = "study",
    params(
        PageRequest,
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("organization_id" = Option<OrganizationId>, Query, description = "Those in which this organization takes part"),
        ("collaboration_id" = Option<CollaborationId>, Query, description = "Those of this collaboration"),
        ("include" = Option<String>, Query, description = "`organizations`: the organizations in place of their link"),
    ),
    responses((status = 200, body = Page<Study>)),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    let reach = caller.reach::<ViewStudy>()?;
    let mut filter = Filter::default();
    scope::restrict(&mut filter, &caller, reach, &COLUMNS);
    if caller.actor.kind() != Kind::User {
        filter.and_in("study.collaboration_id", caller.actor.collaborations.iter().map(|id| id.get()));
    }
    filter.and_like("study.name", params.pattern("name")?);
    let organization = params.get::<OrganizationId>("organization_id")?;
    scope::check_organization(&mut caller, reach, organization).await?;
    if let Some(id) = organization {
        filter.and(MEMBER, [id.get().into()]);
    }
    let collaboration = params.get::<CollaborationId>("collaboration_id")?;
    scope::check_collaboration(&caller, reach, collaboration)?;
    filter.and_equal("study.collaboration_id", collaboration.map(CollaborationId::get));
    let (found, total) = store::study_page(caller.tx.conn(), &filter, &page).await?;
    let mut data = Vec::with_capacity(found.len());
    for record in found {
        data.push(if params.includes("organizations") {
            nested(&mut caller, record).await?
        } else {
            study(&caller.state, record, None)
        });
    }
    Ok(page.answer(&params, data, total))
}

/// One study.
#[utoipa::path(
    get, path = "/study/{id}", tag = "study",
    params(
        ("include" = Option<String>, Query, description = "`organizations`: the organizations in place of their link"),
    ),
    responses((status = 200, body = Study)),
)]
async fn fetch(mut caller: Caller, params: Params, Id(id): Id<StudyId>) -> Result<Json<Study>, Problem> {
    let record = find(&mut caller, id).await?;
    caller.permit::<ViewStudy>(id, &target(&record))?;
    if params.includes("organizations") {
        return Ok(Json(nested(&mut caller, record).await?));
    }
    Ok(Json(study(&caller.state, record, None)))
}

/// Makes a study.
#[utoipa::path(
    post, path = "/study", tag = "study",
    request_body = NewStudy,
    responses((status = 201, body = Study)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.study.create", skip_all)]
async fn create(mut caller: Caller, Body(new): Body<NewStudy>) -> Result<(StatusCode, Json<Study>), Problem> {
    let collaboration = new.collaboration_id;
    super::collaboration::find(&mut caller, collaboration).await?;
    let permit = caller.permit::<CreateStudy>(collaboration, &Target::collaboration(collaboration))?;
    check_name("name", &new.name)?;
    let members = read_organizations(&new.organization_ids)?;
    check_name_free(&mut caller, &new.name, None).await?;
    check_members(&mut caller, collaboration, &members).await?;
    let id = store::study_insert(&mut caller.tx, permit, &new.name, &members).await?;
    let answer = written(&mut caller, id).await?;
    caller.commit().await?;
    tracing::info!(study.id = %id, "study `{}` created", answer.name);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The body of PATCH.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = StudyChange)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    organization_ids: Option<Vec<OrganizationId>>,
}

bounded!(Change as "StudyChange" {
    name: NAME;
    organization_ids: MEMBERS;
});
pub(crate) const LIMITS: &[Described] = &[described::<Change>()];

/// Changes a study.
#[utoipa::path(
    patch, path = "/study/{id}", tag = "study",
    request_body = Change,
    responses((status = 200, body = Study)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.study.update", skip_all, fields(study.id = %id))]
async fn update(mut caller: Caller, Id(id): Id<StudyId>, Body(change): Body<Change>) -> Result<Json<Study>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<EditStudy>(id, &target(&record))?;
    let name = changed_name(change.name, record.name.clone())?;
    check_name_free(&mut caller, &name, Some(id)).await?;
    let members = match &change.organization_ids {
        Some(ids) => read_organizations(ids)?,
        None => record.organizations.clone(),
    };
    check_members(&mut caller, record.collaboration, &members).await?;
    store::study_update(&mut caller.tx, permit, &name, &members).await?;
    let answer = written(&mut caller, id).await?;
    caller.commit().await?;
    Ok(Json(answer))
}

/// Deletes a study.
#[utoipa::path(
    delete, path = "/study/{id}", tag = "study",
    params(("delete_dependents" = Option<bool>, Query, description = "Whether to delete what depends on it too")),
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.study.delete", skip_all, fields(study.id = %id))]
async fn remove(mut caller: Caller, params: Params, Id(id): Id<StudyId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<DeleteStudy>(id, &target(&record))?;
    let dependents = store::study_dependents(caller.tx.conn(), id).await?;
    scope::check_dependents("Study", &dependents, params.flag("delete_dependents")?)?;
    store::study_delete(&mut caller.tx, permit, caller.now).await?;
    caller.commit().await?;
    tracing::info!(study.id = %id, "study `{}` deleted", record.name);
    Ok(Message::new(format!("Study id={id} deleted successfully")))
}

/// Takes an organization of the collaboration in.
#[utoipa::path(
    post, path = "/study/{id}/organization", tag = "study",
    request_body = IdBody,
    responses((status = 200, body = Vec<Organization>)),
    security(("user" = [])),
)]
async fn member_add(
    caller: Caller,
    Id(id): Id<StudyId>,
    Body(body): Body<IdBody>,
) -> Result<Json<Vec<Organization>>, Problem> {
    change_members(caller, id, OrganizationId::new(body.id), true).await
}

/// Takes an organization out.
#[utoipa::path(
    delete, path = "/study/{id}/organization", tag = "study",
    request_body = IdBody,
    responses((status = 200, body = Vec<Organization>)),
    security(("user" = [])),
)]
async fn member_remove(
    caller: Caller,
    Id(id): Id<StudyId>,
    Body(body): Body<IdBody>,
) -> Result<Json<Vec<Organization>>, Problem> {
    change_members(caller, id, OrganizationId::new(body.id), false).await
}

async fn change_members(
    mut caller: Caller,
    id: StudyId,
    organization: OrganizationId,
    belongs: bool,
) -> Result<Json<Vec<Organization>>, Problem> {
    let mut record = find(&mut caller, id).await?;
    let permit = caller.permit::<EditStudy>(id, &target(&record))?;
    if belongs {
        record.organizations.insert(organization);
        check_members(&mut caller, record.collaboration, &record.organizations).await?;
    } else {
        record.organizations.remove(&organization);
    }
    store::study_update(&mut caller.tx, permit, &record.name, &record.organizations).await?;
    let answer = super::organization::nested_in_answer(&mut caller, record.organizations).await?;
    caller.commit().await?;
    Ok(Json(answer))
}

async fn find(caller: &mut Caller, id: StudyId) -> Result<StudyRecord, Problem> {
    store::study_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Study id={id} not found!")))
}

async fn check_name_free(caller: &mut Caller, name: &str, besides: Option<StudyId>) -> Result<(), Problem> {
    if store::study_name_taken(caller.tx.conn(), name, besides).await? {
        return Err(Problem::bad_request("name_taken", format!("Study with name '{name}' already exists!")));
    }
    Ok(())
}

/// A study's organizations take part in its collaboration.
async fn check_members(
    caller: &mut Caller,
    collaboration: CollaborationId,
    ids: &BTreeSet<OrganizationId>,
) -> Result<(), Problem> {
    let members = crate::store::collaboration::members_of(caller.tx.conn(), collaboration).await?;
    match ids.difference(&members).next() {
        Some(id) => {
            let text = format!("Organization id={id} is not part of collaboration id={collaboration}!");
            Err(Problem::bad_request("not_a_member", text))
        }
        None => Ok(()),
    }
}
