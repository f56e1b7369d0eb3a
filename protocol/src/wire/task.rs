use serde::{Deserialize, Serialize};

use super::{Link, Many, One};
use crate::id::{AlgorithmStoreId, CollaborationId, JobId, NodeId, OrganizationId, PortId, RunId, StudyId, TaskId};
use crate::manifest::SignedManifest;
use crate::status::RunStatus;
use crate::time::Time;

/// A task: one request (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its name; may be empty.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// The image reference.
    pub image: String,
    /// The job it belongs to.
    pub job_id: JobId,
    /// When it was recorded.
    pub created_at: Option<Time>,
    /// As it follows from its runs.
    pub status: RunStatus,
    /// When its last run ended; null unless it is completed.
    pub finished_at: Option<Time>,
    /// Where it belongs.
    pub collaboration: Option<Link>,
    /// Its study, if any.
    pub study: Option<Link>,
    /// The store that vouched for its image, if any.
    pub algorithm_store: Option<Link>,
    /// The organization that asked.
    pub init_org: Option<Link>,
    /// The user who asked.
    pub init_user: Option<Link>,
    /// The task whose central function made it, if any.
    pub parent: Option<Link>,
    /// The tasks that its central function made.
    pub children: String,
    /// Its runs; absent from a task that stands in a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<Many<Run>>,
    /// Its results.
    pub results: Many<RunResult>,
    /// The databases it may read.
    pub databases: Vec<TaskDatabase>,
    /// What was signed; null for tasks of stock clients. Our addition.
    #[serde(default)]
    pub manifest: Option<SignedManifest>,
}

/// A database that a task may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TaskDatabase {
    /// Its label.
    pub label: String,
    /// Everything else that was asked, as compact JSON text.
    pub parameters: String,
}

/// The body of `POST /task` (contract A.8.1) with our addition `manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTask {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The image reference.
    pub image: String,
    /// Where it belongs; may be absent when `study_id` is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collaboration_id: Option<CollaborationId>,
    /// Its study.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub study_id: Option<StudyId>,
    /// The store to verify the image with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_id: Option<AlgorithmStoreId>,
    /// How the store knows this coordinator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_url: Option<String>,
    /// Who is to run it, each organization once.
    pub organizations: Vec<NewTaskOrganization>,
    /// The databases it may read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<Vec<NewTaskDatabase>>,
    /// What it is, signed by who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<SignedManifest>,
}

/// An organization that is to run a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTaskOrganization {
    /// The organization.
    pub id: OrganizationId,
    /// Its input, as text (contract A.9).
    #[serde(default)]
    pub input: String,
}

/// A database as asked for in `POST /task`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewTaskDatabase {
    /// Its label.
    pub label: String,
    /// A query, for databases that take one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// A sheet, for workbooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sheet_name: Option<String>,
    /// Steps before the algorithm sees the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocessing: Option<Vec<Preprocessing>>,
    /// Further arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub arguments: Option<serde_json::Map<String, serde_json::Value>>,
}

impl From<NewTaskDatabase> for TaskDatabase {
    /// Everything but the label becomes compact JSON text with sorted keys (contract A.5).
    fn from(asked: NewTaskDatabase) -> Self {
        let label = asked.label.clone();
        let mut parameters = match serde_json::to_value(asked) {
            Ok(serde_json::Value::Object(parameters)) => parameters,
            Ok(_) | Err(_) => serde_json::Map::new(),
        };
        parameters.remove("label");
        Self { label, parameters: serde_json::Value::Object(parameters).to_string() }
    }
}

/// The body of `POST /column` (contract A.7.9) with our addition `manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ColumnRequest {
    /// The database's label.
    pub db_label: String,
    /// Where it is.
    pub collaboration_id: CollaborationId,
    /// Who is to be asked, with the input of the task that asks, where no node has told.
    pub organizations: Vec<NewTaskOrganization>,
    /// A query, for databases that take one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// A sheet, for workbooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sheet_name: Option<String>,
    /// What that task is, signed by who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<SignedManifest>,
}

/// The answer of `POST /column` where a node has told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Columns {
    /// The names of the columns, in the node's order.
    pub columns: Vec<String>,
}

/// A step before the algorithm sees the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// The function's name.
    pub function: String,
    /// Its parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub parameters: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The answer of `GET /task/<id>/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct StatusAnswer {
    /// The task's status.
    pub status: RunStatus,
}

/// A run: a task at one organization (contract A.6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its status.
    pub status: RunStatus,
    /// Its input, as text (contract A.9).
    pub input: Option<String>,
    /// What it printed, or why it was refused.
    pub log: Option<String>,
    /// When it was recorded.
    pub assigned_at: Option<Time>,
    /// When its node took it up.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// When its payloads were removed.
    pub cleanup_at: Option<Time>,
    /// Whether input and result are kept as objects.
    pub blob_storage_used: bool,
    /// Who runs it.
    pub organization: Option<Link>,
    /// Its task: the link, or with `include=task` the task without `runs`.
    #[cfg_attr(feature = "schema", schema(no_recursion))]
    pub task: Option<One<Task>>,
    /// Where its result is.
    pub results: Option<RunResultLink>,
    /// The node that runs it.
    pub node: Option<NodeSummary>,
    /// The ports it exposes to its twins.
    pub ports: Vec<Port>,
    /// Whether somebody asked to end it and its node has not said yet that it is dead. Our addition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kill_requested: bool,
}

/// A node as it stands in a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct NodeSummary {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it was last seen.
    pub ip: Option<String>,
    /// `online`, `offline` or null.
    pub status: Option<String>,
}

/// Where a run's result is; its id is the run's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RunResultLink {
    /// The run's id.
    pub id: RunId,
    /// Its path from the host's root.
    pub link: String,
    /// The verbs of that path.
    pub methods: Vec<String>,
}

/// The result of a run (contract A.6); a view on the run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct RunResult {
    /// The run's id.
    pub id: RunId,
    /// The result, as text (contract A.9); null until there is one.
    pub result: Option<String>,
    /// When it was removed.
    pub cleanup_at: Option<Time>,
    /// Whether it is kept as an object.
    pub blob_storage_used: bool,
    /// The run.
    pub run: Option<Link>,
    /// The task.
    pub task: Option<Link>,
}

/// The body of `PATCH /run/<id>` (contract A.8.3); only given fields change (F.1-9).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RunPatch {
    /// The new status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<RunStatus>,
    /// When the node took it up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// The result, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<String>,
    /// What it printed, or why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<String>,
}

/// A port that a run exposes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Port {
    /// Its id.
    pub id: PortId,
    /// The external port.
    pub port: u16,
    /// The image's label for it.
    pub label: Option<String>,
}

/// The body of `POST /port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewPort {
    /// The run that exposes it.
    pub run_id: RunId,
    /// The external port.
    pub port: u16,
    /// The image's label for it.
    #[serde(default)]
    pub label: Option<String>,
}

/// The answer of `GET /vpn/algorithm/addresses` (contract D.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AlgorithmAddresses {
    /// In order of registration.
    pub addresses: Vec<AlgorithmAddress>,
}

/// Where a twin can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct AlgorithmAddress {
    /// An IPv4 literal; null while the node has none.
    pub ip: Option<String>,
    /// The external port.
    pub port: u16,
    /// The image's label for it.
    pub label: Option<String>,
    /// Whose run it is.
    pub organization_id: OrganizationId,
    /// The run's task.
    pub task_id: TaskId,
    /// That task's parent.
    pub parent_id: Option<TaskId>,
}

/// The body of `POST /token/container`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ContainerTokenRequest {
    /// The task.
    pub task_id: TaskId,
    /// Its image.
    pub image: String,
}

/// The answer of `POST /token/container`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ContainerToken {
    /// Proves which run asks; dies with the run.
    pub container_token: String,
}

impl std::fmt::Debug for ContainerToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ContainerToken([redacted])")
    }
}
