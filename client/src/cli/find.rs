//! Names where the interface wants ids. Names are never digits only, so the two cannot be mistaken.

use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, StudyId, UserId};
use twinmesh_protocol::wire::{Collaboration, Node, Organization, Role, Study, User};

use super::exit::CliError;
use crate::api::{Api, ApiError};

/// The id in a text, if it is one.
fn id(text: &str) -> Option<i64> {
    text.parse().ok().filter(|id| *id > 0)
}

/// The item of this name.
fn named<T>(noun: &'static str, name: &str, items: Vec<T>, name_of: impl Fn(&T) -> &str) -> anyhow::Result<T> {
    let mut known = Vec::new();
    for item in items {
        if name_of(&item) == name {
            return Ok(item);
        }
        known.push(name_of(&item).to_owned());
    }
    Err(CliError::NotFound { noun, name: name.into(), known }.into())
}

/// A refusal for an id that does not exist names the noun, as one for a name does.
pub(super) fn found<T>(noun: &'static str, name: impl ToString, answer: Result<T, ApiError>) -> anyhow::Result<T> {
    match answer {
        Err(error) if error.is_not_found() => {
            Err(CliError::NotFound { noun, name: name.to_string(), known: Vec::new() }.into())
        }
        answer => Ok(answer?),
    }
}

pub(super) async fn organization(api: &Api, text: &str) -> anyhow::Result<Organization> {
    match id(text) {
        Some(id) => found("organization", text, api.organization_get(OrganizationId::new(id)).await),
        None => named("organization", text, api.organization_list(None).await?, |item| &item.name),
    }
}

pub(super) async fn organizations(api: &Api, texts: &[String]) -> anyhow::Result<Vec<OrganizationId>> {
    let mut ids = Vec::with_capacity(texts.len());
    let mut all = None;
    for text in texts {
        if let Some(id) = id(text) {
            ids.push(OrganizationId::new(id));
            continue;
        }
        if all.is_none() {
            all = Some(api.organization_list(None).await?);
        }
        let all = all.clone().unwrap_or_default();
        ids.push(named("organization", text, all, |item| &item.name)?.id);
    }
    Ok(ids)
}

pub(super) async fn collaboration(api: &Api, text: &str) -> anyhow::Result<Collaboration> {
    match id(text) {
        Some(id) => found("collaboration", text, api.collaboration_get(CollaborationId::new(id)).await),
        None => named("collaboration", text, api.collaboration_list(None).await?, |item| &item.name),
    }
}

/// The id behind an option that names a collaboration.
pub(super) async fn collaboration_id(api: &Api, text: Option<&str>) -> anyhow::Result<Option<CollaborationId>> {
    match text {
        Some(text) => Ok(Some(collaboration(api, text).await?.id)),
        None => Ok(None),
    }
}

pub(super) async fn node(api: &Api, text: &str) -> anyhow::Result<Node> {
    match id(text) {
        Some(id) => found("node", text, api.node_get(NodeId::new(id)).await),
        None => named("node", text, api.node_list(None).await?, |item| &item.name),
    }
}

pub(super) async fn user(api: &Api, text: &str) -> anyhow::Result<User> {
    match id(text) {
        Some(id) => found("user", text, api.user_get(UserId::new(id)).await),
        None => named("user", text, api.user_list(None).await?, |item| &item.username),
    }
}

pub(super) async fn study(api: &Api, text: &str) -> anyhow::Result<Study> {
    match id(text) {
        Some(id) => found("study", text, api.study_get(StudyId::new(id)).await),
        None => named("study", text, api.study_list(None).await?, |item| &item.name),
    }
}

pub(super) async fn roles(api: &Api, texts: &[String]) -> anyhow::Result<Vec<RoleId>> {
    let mut ids = Vec::with_capacity(texts.len());
    let mut all: Option<Vec<Role>> = None;
    for text in texts {
        if let Some(id) = id(text) {
            ids.push(RoleId::new(id));
            continue;
        }
        if all.is_none() {
            all = Some(api.role_list(None).await?);
        }
        ids.push(named("role", text, all.clone().unwrap_or_default(), |item| &item.name)?.id);
    }
    Ok(ids)
}
