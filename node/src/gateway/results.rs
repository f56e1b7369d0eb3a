//! Opens the results of a run's subtasks.

use std::sync::PoisonError;

use axum::http::StatusCode;
use serde_json::Value;
use twinmesh_client::Api;
use twinmesh_protocol::{
    id::{OrganizationId, RunId, TaskId},
    manifest::TaskManifest,
    payload,
    sealed::Direction,
    wire::{Link, RunResult},
};

use super::{Failure, Gateway, forward::patiently};
use crate::{sealing::Correspondent, trust::Sources as _};

impl Gateway {
    /// Opens each result of a page.
    pub(super) async fn open_page(&self, api: &Api, page: &mut Value) -> Result<(), Failure> {
        let Some(items) = page.get_mut("data").and_then(Value::as_array_mut) else {
            return Err(Failure::new(StatusCode::BAD_GATEWAY, "the coordinator's list of results has no `data`"));
        };
        for item in items {
            self.open_item(api, item).await?;
        }
        Ok(())
    }

    /// Replaces a sealed result by base64 of its content.
    ///
    /// Results that were sealed to another organization stay as they are. One that is ours and cannot be opened is an error:
    /// a central function must not go on without noticing.
    pub(super) async fn open_item(&self, api: &Api, item: &mut Value) -> Result<(), Failure> {
        if !self.services.home.encrypted {
            return Ok(());
        }
        let result: RunResult = serde_json::from_value(item.clone())
            .map_err(|error| Failure::new(StatusCode::BAD_GATEWAY, format!("the coordinator's result: {error}")))?;
        let text = match &result.result {
            Some(text) if !text.is_empty() && !result.blob_storage_used => text,
            Some(_) | None => return Ok(()),
        };
        let link = |link: &Option<Link>, what: &str| {
            link.as_ref().map(|link| link.id).ok_or_else(|| {
                Failure::new(StatusCode::BAD_GATEWAY, format!("the coordinator's result does not name its {what}"))
            })
        };
        let task_id = TaskId::new(link(&result.task, "task")?);
        let run_id = result.run.as_ref().map_or(result.id, |run| RunId::new(run.id));
        let ancestor = self
            .services
            .keyring
            .ancestor(task_id)
            .await
            .map_err(|error| Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("task {task_id}: {error}")))?;
        let Some(manifest) = ancestor.manifest.and_then(|signed| self.own_manifest(&signed)) else {
            return Ok(());
        };
        let organization_id = self.organization_of(api, task_id, run_id).await?;
        let refuse = |reason: String| {
            tracing::warn!(run.id = %run_id, organization.id = %organization_id, "a result cannot be opened: {reason}");
            Failure::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("the result of organization {organization_id} (run {run_id}) cannot be opened: {reason}"),
            )
        };
        let key = self.services.keyring.key(organization_id).await.map_err(|error| refuse(error.to_string()))?;
        let from = Correspondent { organization_id, key, nonce: manifest.nonce };
        let content =
            self.services.home.read(Direction::Result, Some(&from), text).map_err(|error| refuse(error.to_string()))?;
        item["result"] = Value::String(payload::to_text(&content));
        Ok(())
    }

    /// The manifest, if this organization signed it: then the results are sealed to it.
    pub(super) fn own_manifest(&self, signed: &twinmesh_protocol::manifest::SignedManifest) -> Option<TaskManifest> {
        let own = self.services.home.key.as_ref()?.public();
        let manifest = signed.verify(&own).ok()?;
        (manifest.initiator == self.services.home.organization_id).then_some(manifest)
    }

    /// Where a run ran.
    async fn organization_of(&self, api: &Api, task: TaskId, run: RunId) -> Result<OrganizationId, Failure> {
        let known = self.organizations.lock().unwrap_or_else(PoisonError::into_inner).get(&run).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        let runs = patiently(|| api.run_list(task)).await?;
        let mut organizations = self.organizations.lock().unwrap_or_else(PoisonError::into_inner);
        for run in runs {
            if let Some(organization) = run.organization {
                organizations.insert(run.id, OrganizationId::new(organization.id));
            }
        }
        organizations.get(&run).copied().ok_or_else(|| {
            Failure::new(StatusCode::BAD_GATEWAY, format!("the coordinator does not list run {run} under task {task}"))
        })
    }
}
