//! `/organization` (contract A.7.1).

use axum::Json;
use axum::http::StatusCode;
use axum::response::Response;
use twinmesh_protocol::id::{CollaborationId, OrganizationId, StudyId};
use twinmesh_protocol::key::PublicKey;
use twinmesh_protocol::wire::{KeyRecord, KeySetter, NewOrganization, Organization, Page};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, check_name};
use super::caller::Caller;
use super::openapi::sortable;
use super::page::PageRequest;
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use super::scope::{self, Columns};
use crate::authz::Target;
use crate::authz::action::{
    CreateOrganization, DeleteOrganization, EditOrganization, ReplacePublicKey, ViewOrganization,
};
use crate::store::filter::Filter;
use crate::store::organization::{self as store, KeyHistoryRecord, NewKey, OrganizationDetails, OrganizationRecord};

const COLUMNS: Columns = Columns {
    organization: "organization.id = ?",
    collaboration: "organization.id IN (SELECT organization_id FROM collaboration_organization \
         WHERE collaboration_id {in})",
    owner: None,
};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(fetch, update, remove)).routes(routes!(keys))
}

/// The wire's form.
pub(crate) fn organization(state: &AppState, record: OrganizationRecord) -> Organization {
    let OrganizationRecord { id, details, public_key } = record;
    Organization {
        id,
        name: details.name,
        domain: details.domain,
        address1: details.address1,
        address2: details.address2,
        zipcode: details.zipcode,
        country: details.country,
        public_key: public_key.unwrap_or_default(),
        collaborations: state.many("collaboration", "organization_id", id),
        nodes: state.many("node", "organization_id", id),
        users: state.many("user", "organization_id", id),
        tasks: state.many("task", "init_org_id", id),
        runs: state.many("run", "organization_id", id),
        studies: state.many("study", "organization_id", id),
    }
}

/// A list that holds only organizations that the caller may see.
pub(crate) fn visible(caller: &Caller) -> Result<Filter, Problem> {
    let mut filter = Filter::default();
    let reach = caller.reach::<ViewOrganization>()?;
    scope::restrict(&mut filter, caller, reach, &COLUMNS);
    Ok(filter)
}

/// The organizations of a collaboration or study, as far as the caller may see them, for nesting.
pub(crate) async fn nested(
    caller: &mut Caller,
    ids: impl IntoIterator<Item = OrganizationId>,
) -> Result<Vec<Organization>, Problem> {
    let filter = visible(caller)?;
    let found = store::organization_list(caller.tx.conn(), &filter, ids).await?;
    Ok(found.into_iter().map(|record| organization(&caller.state, record)).collect())
}

/// The same in the answer to a write, which is not refused for what its answer would show: who may see no organizations
/// is shown none.
pub(crate) async fn nested_in_answer(
    caller: &mut Caller,
    ids: impl IntoIterator<Item = OrganizationId>,
) -> Result<Vec<Organization>, Problem> {
    if caller.reach::<ViewOrganization>().is_err() {
        return Ok(Vec::new());
    }
    nested(caller, ids).await
}

/// Lists organizations.
#[utoipa::path(
    get, path = "/organization", tag = "organization",
    params(
        PageRequest,
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("country" = Option<String>, Query, description = "In this country"),
        ("collaboration_id" = Option<CollaborationId>, Query, description = "Those that take part in this collaboration"),
        ("study_id" = Option<StudyId>, Query, description = "Those that take part in this study"),
        ("ids" = Option<Vec<OrganizationId>>, Query, description = "These; may be repeated"),
    ),
    responses((status = 200, body = Page<Organization>)),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    let reach = caller.reach::<ViewOrganization>()?;
    let mut filter = visible(&caller)?;
    filter.and_like("organization.name", params.pattern("name")?);
    filter.and_equal("organization.country", params.text("country"));
    let collaboration = params.get::<CollaborationId>("collaboration_id")?;
    scope::check_collaboration(&caller, reach, collaboration)?;
    if let Some(id) = collaboration {
        let sql = "organization.id IN (SELECT organization_id FROM collaboration_organization \
                   WHERE collaboration_id = ?)";
        filter.and(sql, [id.get().into()]);
    }
    if let Some(id) = params.get::<StudyId>("study_id")? {
        let study = crate::store::study::study_fetch(caller.tx.conn(), id).await?;
        scope::check_collaboration(&caller, reach, study.map(|study| study.collaboration))?;
        let sql = "organization.id IN (SELECT organization_id FROM study_organization WHERE study_id = ?)";
        filter.and(sql, [id.get().into()]);
    }
    if params.is_present("ids") {
        let ids = params.several::<OrganizationId>("ids")?;
        filter.and_in("organization.id", ids.into_iter().map(OrganizationId::get));
    }
    let (found, total) = store::organization_page(caller.tx.conn(), &filter, &page).await?;
    let data: Vec<_> = found.into_iter().map(|record| organization(&caller.state, record)).collect();
    Ok(page.answer(&params, data, total))
}

/// One organization.
#[utoipa::path(
    get, path = "/organization/{id}", tag = "organization",
    responses((status = 200, body = Organization)),
)]
async fn fetch(mut caller: Caller, Id(id): Id<OrganizationId>) -> Result<Json<Organization>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = scope::organization_target(&mut caller, id).await?;
    caller.permit::<ViewOrganization>(id, &target)?;
    Ok(Json(organization(&caller.state, record)))
}

/// Lists the keys an organization has had, newest first. Our addition.
#[utoipa::path(
    get, path = "/organization/{id}/key", tag = "organization",
    params(PageRequest),
    responses((status = 200, body = Page<KeyRecord>)),
    extensions(("x-sort" = json!(sortable(store::KEYS_SORTABLE)))),
)]
async fn keys(mut caller: Caller, params: Params, Id(id): Id<OrganizationId>) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::KEYS_SORTABLE)?;
    find(&mut caller, id).await?;
    let target = scope::organization_target(&mut caller, id).await?;
    caller.permit::<ViewOrganization>(id, &target)?;
    let (found, total) = store::organization_key_page(caller.tx.conn(), id, &page).await?;
    Ok(page.answer(&params, found.into_iter().map(key_record).collect(), total))
}

/// The wire's form.
pub(crate) fn key_record(record: KeyHistoryRecord) -> KeyRecord {
    let (kind, fingerprint) = key_summary(&record.public_key);
    let set_by = record.set_by.map(|by| match by.split_once(':') {
        Some((kind, id)) => KeySetter { kind: kind.into(), id: id.parse().ok() },
        None => KeySetter { kind: by, id: None },
    });
    KeyRecord {
        kind: kind.into(),
        fingerprint,
        public_key: record.public_key,
        set_at: record.set_at,
        set_by,
        replaced_at: record.replaced_at,
    }
}

/// A key's kind and what people compare.
fn key_summary(text: &str) -> (&'static str, String) {
    match PublicKey::from_api(text) {
        Ok(key @ PublicKey::Ed25519(_)) => ("ed25519", key.fingerprint()),
        Ok(key @ PublicKey::Rsa(_)) => ("rsa", key.fingerprint()),
        // An earlier release may have taken what this one does not.
        Err(_) => ("unknown", "-".into()),
    }
}

/// Makes an organization. `name` is required.
#[utoipa::path(
    post, path = "/organization", tag = "organization",
    request_body = NewOrganization,
    responses((status = 201, body = Organization)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.organization.create", skip_all)]
async fn create(
    mut caller: Caller,
    Body(new): Body<NewOrganization>,
) -> Result<(StatusCode, Json<Organization>), Problem> {
    let permit = caller.permit::<CreateOrganization>((), &crate::authz::Target::anywhere())?;
    if new.name.is_none() {
        return Err(Problem::field("name", "Missing data for required field."));
    }
    let mut details = OrganizationDetails::default();
    merge(&mut details, &new)?;
    let by = caller.actor.key();
    let key = public_key(&new)?.map(|public_key| NewKey { public_key, by: &by, now: caller.now });
    check_name_free(&mut caller, &details.name, None).await?;
    let id = store::organization_insert(&mut caller.tx, permit, &details, key).await?;
    let record = find(&mut caller, id).await?;
    let answer = organization(&caller.state, record);
    caller.commit().await?;
    tracing::info!(organization.id = %id, "organization `{}` created", answer.name);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Changes an organization. Its public key is replaced by its own members only.
#[utoipa::path(
    patch, path = "/organization/{id}", tag = "organization",
    request_body = NewOrganization,
    responses((status = 200, body = Organization)),
    security(("user" = []), ("node" = [])),
)]
#[tracing::instrument(name = "http.organization.update", skip_all, fields(organization.id = %id))]
async fn update(
    mut caller: Caller,
    Id(id): Id<OrganizationId>,
    Body(change): Body<NewOrganization>,
) -> Result<Json<Organization>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = scope::organization_target(&mut caller, id).await?;
    let permit = caller.permit::<EditOrganization>(id, &target)?;
    let mut details = record.details;
    merge(&mut details, &change)?;
    check_name_free(&mut caller, &details.name, Some(id)).await?;
    if let Some(key) = public_key(&change)?
        && record.public_key.as_deref() != Some(key)
    {
        let keyless = record.public_key.as_deref().is_none_or(str::is_empty);
        let target = Target { keyless, ..target };
        let permit = caller.permit::<ReplacePublicKey>(id, &target).map_err(|_| refuse_key(&caller, id))?;
        let by = caller.actor.key();
        let key = NewKey { public_key: key, by: &by, now: caller.now };
        store::public_key_replace(&mut caller.tx, permit, key).await?;
        tracing::info!(organization.id = %id, "public key of `{}` replaced", details.name);
    }
    store::organization_update(&mut caller.tx, permit, &details).await?;
    let record = find(&mut caller, id).await?;
    let answer = organization(&caller.state, record);
    caller.commit().await?;
    Ok(Json(answer))
}

/// Why a key is not replaced.
fn refuse_key(caller: &Caller, id: OrganizationId) -> Problem {
    if caller.actor.node().is_some() && caller.actor.organization == id {
        let text = "You lack the permission to do that! The API key of this node was not handed to a member of its \
                    organization who may replace the organization's public key.";
        let hint = "such a member uploads the key (`twinmesh key upload`), or renews the node's API key \
                    (`POST /recover/node`)";
        return Problem::unauthorized("key_in_other_hands", text).with_detail(hint);
    }
    Problem::unauthorized(
        "not_a_member",
        "You lack the permission to do that! Only members of an organization may change its public key.",
    )
}

/// Deletes an organization.
#[utoipa::path(
    delete, path = "/organization/{id}", tag = "organization",
    params(("delete_dependents" = Option<bool>, Query, description = "Whether to delete what depends on it too")),
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.organization.delete", skip_all, fields(organization.id = %id))]
async fn remove(mut caller: Caller, params: Params, Id(id): Id<OrganizationId>) -> Result<Json<Message>, Problem> {
    let record = find(&mut caller, id).await?;
    let target = scope::organization_target(&mut caller, id).await?;
    let permit = caller.permit::<DeleteOrganization>(id, &target)?;
    let dependents = store::organization_dependents(caller.tx.conn(), id).await?;
    scope::check_dependents("Organization", &dependents, params.flag("delete_dependents")?)?;
    let rooted = scope::is_rooted(&mut caller).await?;
    store::organization_delete(&mut caller.tx, permit, caller.now).await?;
    scope::check_rooted(&mut caller, rooted).await?;
    caller.commit().await?;
    tracing::info!(organization.id = %id, "organization `{}` deleted", record.details.name);
    Ok(Message::new(format!("Organization id={id} deleted successfully")))
}

async fn find(caller: &mut Caller, id: OrganizationId) -> Result<OrganizationRecord, Problem> {
    store::organization_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Organization id={id} not found!")))
}

async fn check_name_free(caller: &mut Caller, name: &str, besides: Option<OrganizationId>) -> Result<(), Problem> {
    if store::organization_name_taken(caller.tx.conn(), name, besides).await? {
        let text = format!("Organization with name '{name}' already exists!");
        return Err(Problem::bad_request("name_taken", text));
    }
    Ok(())
}

/// Takes over what was given; null is as good as absent.
fn merge(details: &mut OrganizationDetails, new: &NewOrganization) -> Result<(), Problem> {
    if let Some(name) = &new.name {
        check_name("name", name)?;
        details.name.clone_from(name);
    }
    for (given, kept) in [
        (&new.address1, &mut details.address1),
        (&new.address2, &mut details.address2),
        (&new.zipcode, &mut details.zipcode),
        (&new.country, &mut details.country),
        (&new.domain, &mut details.domain),
    ] {
        if given.is_some() {
            kept.clone_from(given);
        }
    }
    Ok(())
}

/// A key to store: byte for byte as given, if it is one.
fn public_key(new: &NewOrganization) -> Result<Option<&str>, Problem> {
    let Some(text) = new.public_key.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
    PublicKey::from_api(text).map_err(|error| Problem::field("public_key", format!("{error}.")))?;
    Ok(Some(text))
}
