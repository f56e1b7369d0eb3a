//! `/algorithmstore`: links to services that review algorithms (contract A.11).

use axum::Json;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Deserializer};
use twinmesh_protocol::id::{AlgorithmStoreId, CollaborationId};
use twinmesh_protocol::wire::{AlgorithmStore, Page};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::answer::Message;
use super::body::{Body, changed_name, check_name};
use super::caller::{Caller, Visitor};
use super::openapi::sortable;
use super::page::PageRequest;
use super::params::Params;
use super::path::Id;
use super::problem::Problem;
use super::scope;
use crate::algorithm_store::{OnBehalf, StoreCallError};
use crate::authz::Target;
use crate::authz::action::{EditAlgorithmStore, LinkAlgorithmStore, UnlinkAlgorithmStore, ViewAlgorithmStore};
use crate::config::Secret;
use crate::limits::{Described, bounded, described};
use crate::store::algorithm_store::{self as store, AlgorithmStoreRecord, NewLink};
use crate::store::filter::{Filter, in_list};

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(fetch, update, remove))
}

/// The wire's form.
fn algorithm_store(state: &AppState, record: AlgorithmStoreRecord) -> AlgorithmStore {
    let AlgorithmStoreRecord { id, name, url, collaboration, .. } = record;
    AlgorithmStore {
        id,
        name,
        url,
        collaborations: collaboration.map(|_| state.many("collaboration", "algorithm_store_id", id)),
    }
}

/// What decides who may change a link: one to all collaborations is nobody's.
fn changed(collaboration: Option<CollaborationId>) -> Target {
    collaboration.map_or_else(Target::anywhere, Target::collaboration)
}

/// Lists algorithm stores.
#[utoipa::path(
    get, path = "/algorithmstore", tag = "algorithm store",
    params(
        PageRequest,
        ("name" = Option<String>, Query, description = "Like this: `%` stands for any text, `_` for any character"),
        ("url" = Option<String>, Query, description = "At an address like this"),
        ("collaboration_id" = Option<CollaborationId>, Query,
            description = "Linked to this collaboration, or to all"),
    ),
    responses((status = 200, body = Page<AlgorithmStore>)),
    security(("user" = []), ("node" = [])),
    extensions(("x-sort" = json!(sortable(store::SORTABLE)))),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Response, Problem> {
    let page = PageRequest::read(&params, store::SORTABLE)?;
    let reach = caller.reach::<ViewAlgorithmStore>()?;
    let mut filter = Filter::default();
    if !reach.all {
        let mine = caller.actor.collaborations.iter().map(|id| id.get());
        let to_all = ("algorithm_store.collaboration_id IS NULL".to_owned(), Vec::new());
        filter.and_any(vec![in_list("algorithm_store.collaboration_id", mine), to_all]);
    }
    filter.and_like("algorithm_store.name", params.text("name"));
    filter.and_like("algorithm_store.url", params.text("url"));
    if let Some(id) = params.get::<CollaborationId>("collaboration_id")? {
        super::collaboration::find(&mut caller, id).await?;
        scope::check_collaboration(&caller, reach, Some(id))?;
        let sql = "(algorithm_store.collaboration_id = ? OR algorithm_store.collaboration_id IS NULL)";
        filter.and(sql, [id.get().into()]);
    }
    let (found, total) = store::algorithm_store_page(caller.tx.conn(), &filter, &page).await?;
    let data: Vec<_> = found.into_iter().map(|record| algorithm_store(&caller.state, record)).collect();
    Ok(page.answer(&params, data, total))
}

/// One algorithm store.
#[utoipa::path(
    get, path = "/algorithmstore/{id}", tag = "algorithm store",
    responses((status = 200, body = AlgorithmStore)),
    security(("user" = []), ("node" = [])),
)]
async fn fetch(mut caller: Caller, Id(id): Id<AlgorithmStoreId>) -> Result<Json<AlgorithmStore>, Problem> {
    let record = find(&mut caller, id).await?;
    match record.collaboration {
        Some(collaboration) => {
            caller.permit::<ViewAlgorithmStore>(id, &Target::collaboration(collaboration))?;
        }
        // One that is linked to all is seen by whoever sees any, as in the list.
        None => {
            caller.reach::<ViewAlgorithmStore>()?;
        }
    }
    Ok(Json(algorithm_store(&caller.state, record)))
}

/// The body of POST.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewAlgorithmStore)]
#[serde(deny_unknown_fields)]
struct New {
    name: String,
    /// With the path of its API.
    algorithm_store_url: String,
    /// How the store is to know this coordinator, unless its operator has said so.
    #[serde(default)]
    server_url: Option<String>,
    /// All collaborations when null or absent. A list of one id is taken too.
    #[serde(default, deserialize_with = "collaboration")]
    #[schema(value_type = Option<CollaborationId>)]
    collaboration_id: Option<Option<CollaborationId>>,
    /// Whether the store may be on the coordinator's own machine.
    #[serde(default)]
    force: Option<bool>,
}

bounded!(New as "NewAlgorithmStore" {
    name: NAME;
    algorithm_store_url: URL;
    server_url: URL;
});

/// Links an algorithm store to a collaboration, or to all, and has the store know this coordinator.
#[utoipa::path(
    post, path = "/algorithmstore", tag = "algorithm store",
    request_body = New,
    responses((status = 201, body = AlgorithmStore)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.algorithm_store.create", skip_all)]
async fn create(
    visitor: Visitor,
    headers: HeaderMap,
    Body(new): Body<New>,
) -> Result<(StatusCode, Json<AlgorithmStore>), Problem> {
    let collaboration = new.collaboration_id.flatten();
    let forced = new.force.unwrap_or_default();
    // Asked before the store is, and again when the link is written; no transaction waits for a store.
    let mut caller = visitor.begin_read().await?;
    if let Some(id) = collaboration {
        super::collaboration::find(&mut caller, id).await?;
    }
    caller.permit::<LinkAlgorithmStore>(collaboration, &changed(collaboration))?;
    check_name("name", &new.name)?;
    let address = visitor.state.algorithm_stores().address(&new.algorithm_store_url, forced)?;
    check_unlinked(&mut caller, address.as_str(), collaboration, None).await?;
    drop(caller);

    let by = on_behalf(&visitor, &headers, &[new.server_url.as_deref()])?;
    visitor.state.algorithm_stores().register(&address, &by).await?;

    let mut caller = visitor.begin_write().await?;
    if let Some(id) = collaboration {
        super::collaboration::find(&mut caller, id).await?;
    }
    let permit = caller.permit::<LinkAlgorithmStore>(collaboration, &changed(collaboration))?;
    check_unlinked(&mut caller, address.as_str(), collaboration, None).await?;
    let link = NewLink { name: &new.name, url: address.as_str(), server_url: Some(&by.server_url), forced };
    let id = store::algorithm_store_insert(&mut caller.tx, permit, &link).await?;
    let record = find(&mut caller, id).await?;
    let answer = algorithm_store(&caller.state, record);
    caller.commit().await?;
    tracing::info!(algorithm_store.id = %id, "algorithm store linked");
    Ok((StatusCode::CREATED, Json(answer)))
}

/// The body of PATCH. An absent collaboration stays, null means all (contract F.1-7). The address cannot be changed:
/// nobody could tell whether the same store is there.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AlgorithmStoreChange)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default)]
    name: Option<String>,
    /// All collaborations when null. A list of one id is taken too.
    #[serde(default, deserialize_with = "collaboration")]
    #[schema(value_type = Option<CollaborationId>)]
    collaboration_id: Option<Option<CollaborationId>>,
}

bounded!(Change as "AlgorithmStoreChange" {
    name: NAME;
});
pub(crate) const LIMITS: &[Described] = &[described::<New>(), described::<Change>()];

/// Changes the name or the collaboration of a link.
#[utoipa::path(
    patch, path = "/algorithmstore/{id}", tag = "algorithm store",
    request_body = Change,
    responses((status = 200, body = AlgorithmStore)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.algorithm_store.update", skip_all, fields(algorithm_store.id = %id))]
async fn update(
    mut caller: Caller,
    Id(id): Id<AlgorithmStoreId>,
    Body(change): Body<Change>,
) -> Result<Json<AlgorithmStore>, Problem> {
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<EditAlgorithmStore>(id, &changed(record.collaboration))?;
    let collaboration = change.collaboration_id.unwrap_or(record.collaboration);
    if collaboration != record.collaboration {
        if let Some(id) = collaboration {
            super::collaboration::find(&mut caller, id).await?;
        }
        caller.permit::<LinkAlgorithmStore>(collaboration, &changed(collaboration))?;
        check_unlinked(&mut caller, &record.url, collaboration, Some(id)).await?;
    }
    let name = changed_name(change.name, record.name)?;
    store::algorithm_store_update(&mut caller.tx, permit, &name, &record.url, collaboration).await?;
    let record = find(&mut caller, id).await?;
    let answer = algorithm_store(&caller.state, record);
    caller.commit().await?;
    tracing::info!(algorithm_store.id = %id, "link to an algorithm store changed");
    Ok(Json(answer))
}

/// Removes a link; the store is told when it was the last.
#[utoipa::path(
    delete, path = "/algorithmstore/{id}", tag = "algorithm store",
    params(
        ("server_url" = Option<String>, Query, description = "How the store knows this coordinator"),
        ("force" = Option<bool>, Query, description = "Whether to remove the link although the store cannot be told"),
    ),
    responses((status = 200, body = Message)),
    security(("user" = [])),
)]
#[tracing::instrument(name = "http.algorithm_store.delete", skip_all, fields(algorithm_store.id = %id))]
async fn remove(
    visitor: Visitor,
    headers: HeaderMap,
    params: Params,
    Id(id): Id<AlgorithmStoreId>,
) -> Result<Json<Message>, Problem> {
    let forced = params.flag("force")?;
    let mut caller = visitor.begin_read().await?;
    let record = find(&mut caller, id).await?;
    caller.permit::<UnlinkAlgorithmStore>(id, &changed(record.collaboration))?;
    let is_last = store::algorithm_stores_at(caller.tx.conn(), &record.url).await?.len() == 1;
    drop(caller);

    // Other links to the same store still need us on its list.
    if is_last && let Err(problem) = leave(&visitor, &headers, &params, &record).await {
        if !forced {
            let detail = "With `force=true` the link is removed although the store was not told.";
            return Err(problem.with_detail(detail));
        }
        tracing::warn!(algorithm_store.id = %id, "link removed without telling the store at `{}`", record.url);
    }

    let mut caller = visitor.begin_write().await?;
    let record = find(&mut caller, id).await?;
    let permit = caller.permit::<UnlinkAlgorithmStore>(id, &changed(record.collaboration))?;
    store::algorithm_store_delete(&mut caller.tx, permit).await?;
    caller.commit().await?;
    tracing::info!(algorithm_store.id = %id, "algorithm store unlinked");
    Ok(Message::new(format!("Algorithm store id={id} successfully deleted")))
}

/// Has a store take us off its list.
async fn leave(
    visitor: &Visitor,
    headers: &HeaderMap,
    params: &Params,
    record: &AlgorithmStoreRecord,
) -> Result<(), Problem> {
    // What it knows us by wins over what is said today.
    let by = on_behalf(visitor, headers, &[record.server_url.as_deref(), params.text("server_url")])?;
    let address = visitor.state.algorithm_stores().address(&record.url, record.forced)?;
    Ok(visitor.state.algorithm_stores().unregister(&address, &by).await?)
}

/// The image of a task as its store has reviewed it.
pub(crate) async fn resolve(
    visitor: &Visitor,
    headers: &HeaderMap,
    record: &AlgorithmStoreRecord,
    server_url: Option<&str>,
    image: &str,
) -> Result<String, Problem> {
    let by = on_behalf(visitor, headers, &[record.server_url.as_deref(), server_url])?;
    let address = visitor.state.algorithm_stores().address(&record.url, record.forced)?;
    Ok(visitor.state.algorithm_stores().resolve(&address, image, &by).await?)
}

pub(crate) async fn find(caller: &mut Caller, id: AlgorithmStoreId) -> Result<AlgorithmStoreRecord, Problem> {
    store::algorithm_store_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Algorithm store id={id} not found")))
}

/// In the name of the user who asks, and of this coordinator as the first of `given` has it unless the operator says.
/// The store gets no token of the user's, but one that only says whose it is.
fn on_behalf(visitor: &Visitor, headers: &HeaderMap, given: &[Option<&str>]) -> Result<OnBehalf, Problem> {
    let user = visitor.user().ok_or_else(Problem::permission)?;
    // Clients say it in a header too, in either spelling (contract F.1-16).
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let given: Vec<_> = given.iter().copied().chain([header("server_url"), header("server-url")]).collect();
    let server_url = visitor.state.algorithm_stores().server_url(&given).ok_or_else(|| {
        let text = "The 'server_url' key is required in the server configuration, or as a parameter. Please add it or \
                    ask your server administrator to specify it in the server configuration.";
        Problem::bad_request("no_server_url", text)
    })?;
    let bearer = visitor.state.tokens().introduction(user, visitor.now);
    Ok(OnBehalf { server_url, bearer: Secret::new(bearer) })
}

/// Refuses a second link of the same store to the same collaboration.
async fn check_unlinked(
    caller: &mut Caller,
    url: &str,
    collaboration: Option<CollaborationId>,
    besides: Option<AlgorithmStoreId>,
) -> Result<(), Problem> {
    let links = store::algorithm_stores_at(caller.tx.conn(), url).await?;
    for link in links.iter().filter(|link| Some(link.id) != besides) {
        let text = match link.collaboration {
            None => "Algorithm store is already available for all collaborations",
            Some(linked) if collaboration == Some(linked) => {
                "Algorithm store is already available for this collaboration"
            }
            Some(_) => continue,
        };
        return Err(Problem::bad_request("already_linked", text));
    }
    Ok(())
}

/// Reads a collaboration that is there: an id, null, or as stock clients send it a list of one id (contract F.1-7).
fn collaboration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<CollaborationId>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        One(CollaborationId),
        List(Vec<Option<CollaborationId>>),
    }
    let wrong = || serde::de::Error::custom("Give the id of one collaboration");
    match Option::<Given>::deserialize(from).map_err(|_| wrong())? {
        None => Ok(Some(None)),
        Some(Given::One(id)) => Ok(Some(Some(id))),
        Some(Given::List(ids)) => match ids.as_slice() {
            [id] => Ok(Some(*id)),
            _ => Err(wrong()),
        },
    }
}

impl From<StoreCallError> for Problem {
    fn from(error: StoreCallError) -> Self {
        let mut cause = std::error::Error::source(&error);
        let mut text = String::new();
        while let Some(inner) = cause {
            text.push_str(&format!(": {inner}"));
            cause = inner.source();
        }
        if !text.is_empty() {
            // What the network says is for us: it may tell of what is around this machine.
            tracing::warn!("an algorithm store was not asked: {error}{text}");
        }
        Self::bad_request("algorithm_store", error.to_string())
    }
}
