use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId, RoleId, RunId, StudyId, TaskId, UserId};
use twinmesh_protocol::key::PublicKey;
use twinmesh_protocol::wire::{
    AlgorithmAddress, AlgorithmAddresses, Collaboration, ContainerToken, ContainerTokenRequest, KeyRecord,
    NewCollaboration, NewNode, NewOrganization, NewPeer, NewPort, NewRole, NewStudy, NewTask, NewUser, Node,
    NodeDetails, Organization, OverlayInfo, PeerRecord, Port, Role, Rule, Run, RunPatch, RunResult, StatusAnswer,
    Study, Task, TokenPair, User,
};

use super::session::last_id;
use super::{Api, ApiError, NO_BODY, SecondFactorSetUp};

/// The header under which a coordinator recognises a task that it has recorded already.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The arguments of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query(Vec<(&'static str, String)>);

impl Query {
    /// No arguments.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an argument.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// Adds an argument if there is a value.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn pairs(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

/// Which tasks to list; all that may be seen by default.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Only those of this collaboration.
    pub collaboration_id: Option<CollaborationId>,
    /// Only subtasks of this task.
    pub parent_id: Option<TaskId>,
    /// Only those with this status, in the contract's words.
    pub status: Option<String>,
    /// Only those that users made (`true`), or only subtasks (`false`).
    pub is_user_created: Option<bool>,
}

/// Log-ins.
impl Api {
    /// Logs a user in; later requests are theirs.
    ///
    /// # Errors
    /// 401 when name and password do not fit, [`ApiError::SecondFactor`] when a code is due,
    /// [`ApiError::SecondFactorSetUp`] when an authenticator has to be set up first, and as every request.
    pub async fn log_in_user(
        &self,
        username: &str,
        password: &str,
        mfa_code: Option<&str>,
    ) -> Result<TokenPair, ApiError> {
        let mut body = json!({"username": username, "password": password});
        if let Some(code) = mfa_code {
            body["mfa_code"] = code.into();
        }
        let request = || self.builder(Method::POST, "token/user", &Query::new()).json(&body);
        match self.token_answer("POST /token/user", request).await? {
            LogIn::Tokens(tokens) => {
                self.inner.session.replace(tokens.clone()).await;
                Ok(tokens)
            }
            LogIn::SetUp(set_up) => Err(ApiError::SecondFactorSetUp(set_up)),
            LogIn::SecondFactor { msg } => Err(ApiError::SecondFactor { msg }),
        }
    }

    /// Logs a node in; later requests are its. The key is kept in memory, to log in again when a renewal comes too
    /// late.
    ///
    /// # Errors
    /// 401 when the key is not recognised, and as every request.
    pub async fn log_in_node(&self, api_key: &str) -> Result<NodeId, ApiError> {
        let tokens = self.exchange_api_key(api_key).await?;
        let id = tokens.node_url.as_deref().and_then(last_id);
        self.inner.session.replace(tokens).await;
        self.inner.session.current.write().await.api_key = Some(api_key.into());
        id.map(NodeId::new).ok_or_else(|| self.missing("POST /token/node", "`node_url` names no node"))
    }

    pub(super) async fn exchange_api_key(&self, api_key: &str) -> Result<TokenPair, ApiError> {
        let request = || self.builder(Method::POST, "token/node", &Query::new()).json(&json!({"api_key": api_key}));
        self.token_answer("POST /token/node", request).await
    }

    /// The user who is logged in, as the tokens name them.
    ///
    /// # Errors
    /// [`ApiError::NotLoggedIn`] when no user is.
    pub async fn user_id(&self) -> Result<UserId, ApiError> {
        let tokens = self.tokens().await;
        tokens
            .and_then(|tokens| last_id(&tokens.user_url?))
            .map(UserId::new)
            .ok_or_else(|| ApiError::NotLoggedIn { url: self.base().into() })
    }

    /// A token for the container of a run; as the node of the run.
    ///
    /// # Errors
    /// As every request.
    pub async fn container_token_create(&self, request: &ContainerTokenRequest) -> Result<ContainerToken, ApiError> {
        self.post("token/container", request).await
    }

    fn missing(&self, request: &str, what: &str) -> ApiError {
        ApiError::Unexpected { request: request.into(), source: serde::de::Error::custom(what) }
    }
}

/// What `POST /token/user` answers with 200 (contract A.2.1, A.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum LogIn {
    Tokens(TokenPair),
    SetUp(SecondFactorSetUp),
    SecondFactor { msg: String },
}

/// What a deletion and the like answer.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(default)]
    msg: String,
}

/// The verbs that resources share.
impl Api {
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.request(Method::GET, path, &Query::new(), NO_BODY).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &(impl Serialize + Sync)) -> Result<T, ApiError> {
        self.request(Method::POST, path, &Query::new(), Some(body)).await
    }

    async fn patch<T: DeserializeOwned>(&self, path: &str, body: &(impl Serialize + Sync)) -> Result<T, ApiError> {
        self.request(Method::PATCH, path, &Query::new(), Some(body)).await
    }

    async fn delete(&self, path: &str, query: &Query) -> Result<String, ApiError> {
        let answer: Message = self.request(Method::DELETE, path, query, NO_BODY).await?;
        Ok(answer.msg)
    }
}

fn dependents(delete_dependents: bool) -> Query {
    if delete_dependents { Query::new().with("delete_dependents", true) } else { Query::new() }
}

/// Organizations.
impl Api {
    /// All organizations that may be seen, or those of a collaboration.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_list(
        &self,
        collaboration: Option<CollaborationId>,
    ) -> Result<Vec<Organization>, ApiError> {
        self.list("organization", &Query::new().with_some("collaboration_id", collaboration)).await
    }

    /// One organization.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_get(&self, id: OrganizationId) -> Result<Organization, ApiError> {
        self.get(&format!("organization/{id}")).await
    }

    /// Makes an organization.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_create(&self, new: &NewOrganization) -> Result<Organization, ApiError> {
        self.post("organization", new).await
    }

    /// Changes the fields that are given.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_update(
        &self,
        id: OrganizationId,
        change: &NewOrganization,
    ) -> Result<Organization, ApiError> {
        self.patch(&format!("organization/{id}"), change).await
    }

    /// Replaces an organization's public key at the coordinator.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_key_update(&self, id: OrganizationId, key: &PublicKey) -> Result<Organization, ApiError> {
        let change = NewOrganization { public_key: Some(key.to_api()), ..NewOrganization::default() };
        self.organization_update(id, &change).await
    }

    /// The public keys an organization has had, newest first.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_key_list(&self, id: OrganizationId) -> Result<Vec<KeyRecord>, ApiError> {
        self.list(&format!("organization/{id}/key"), &Query::new()).await
    }

    /// Deletes an organization and, if asked, what depends on it. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn organization_delete(&self, id: OrganizationId, delete_dependents: bool) -> Result<String, ApiError> {
        self.delete(&format!("organization/{id}"), &dependents(delete_dependents)).await
    }
}

/// Collaborations and studies.
impl Api {
    /// All collaborations that may be seen, or those of an organization.
    ///
    /// # Errors
    /// As every request.
    pub async fn collaboration_list(
        &self,
        organization: Option<OrganizationId>,
    ) -> Result<Vec<Collaboration>, ApiError> {
        let query = Query::new().with_some("organization_id", organization).with("include", "organizations");
        self.list("collaboration", &query).await
    }

    /// One collaboration, with its organizations in full.
    ///
    /// # Errors
    /// As every request.
    pub async fn collaboration_get(&self, id: CollaborationId) -> Result<Collaboration, ApiError> {
        let query = Query::new().with("include", "organizations");
        self.request(Method::GET, &format!("collaboration/{id}"), &query, NO_BODY).await
    }

    /// Makes a collaboration.
    ///
    /// # Errors
    /// As every request.
    pub async fn collaboration_create(&self, new: &NewCollaboration) -> Result<Collaboration, ApiError> {
        self.post("collaboration", new).await
    }

    /// Adds an organization and returns all that the collaboration has then.
    ///
    /// # Errors
    /// As every request.
    pub async fn collaboration_organization_add(
        &self,
        id: CollaborationId,
        organization: OrganizationId,
    ) -> Result<Vec<Organization>, ApiError> {
        self.post(&format!("collaboration/{id}/organization"), &json!({"id": organization})).await
    }

    /// Deletes a collaboration and, if asked, what depends on it. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn collaboration_delete(&self, id: CollaborationId, delete_dependents: bool) -> Result<String, ApiError> {
        self.delete(&format!("collaboration/{id}"), &dependents(delete_dependents)).await
    }

    /// All studies that may be seen, or those of a collaboration, with their organizations.
    ///
    /// # Errors
    /// As every request.
    pub async fn study_list(&self, collaboration: Option<CollaborationId>) -> Result<Vec<Study>, ApiError> {
        let query = Query::new().with_some("collaboration_id", collaboration).with("include", "organizations");
        self.list("study", &query).await
    }

    /// One study.
    ///
    /// # Errors
    /// As every request.
    pub async fn study_get(&self, id: StudyId) -> Result<Study, ApiError> {
        let query = Query::new().with("include", "organizations");
        self.request(Method::GET, &format!("study/{id}"), &query, NO_BODY).await
    }

    /// Makes a study.
    ///
    /// # Errors
    /// As every request.
    pub async fn study_create(&self, new: &NewStudy) -> Result<Study, ApiError> {
        self.post("study", new).await
    }

    /// Deletes a study. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn study_delete(&self, id: StudyId, delete_dependents: bool) -> Result<String, ApiError> {
        self.delete(&format!("study/{id}"), &dependents(delete_dependents)).await
    }
}

/// Nodes and the overlay.
impl Api {
    /// All nodes that may be seen, or those of a collaboration.
    ///
    /// # Errors
    /// As every request.
    pub async fn node_list(&self, collaboration: Option<CollaborationId>) -> Result<Vec<Node>, ApiError> {
        self.list("node", &Query::new().with_some("collaboration_id", collaboration)).await
    }

    /// One node.
    ///
    /// # Errors
    /// As every request.
    pub async fn node_get(&self, id: NodeId) -> Result<Node, ApiError> {
        self.get(&format!("node/{id}")).await
    }

    /// Makes a node; only this answer holds its API key.
    ///
    /// # Errors
    /// As every request.
    pub async fn node_create(&self, new: &NewNode) -> Result<Node, ApiError> {
        self.post("node", new).await
    }

    /// Deletes a node. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn node_delete(&self, id: NodeId) -> Result<String, ApiError> {
        self.delete(&format!("node/{id}"), &Query::new()).await
    }

    /// Tells what a node offers and to whom; as that node.
    ///
    /// # Errors
    /// As every request.
    pub async fn node_details_put(&self, id: NodeId, details: &NodeDetails) -> Result<Node, ApiError> {
        self.request(Method::PUT, &format!("node/{id}/details"), &Query::new(), Some(details)).await
    }

    /// Tells how a node is reached in the overlay; as that node.
    ///
    /// # Errors
    /// As every request.
    pub async fn peer_put(&self, id: NodeId, peer: &NewPeer) -> Result<(), ApiError> {
        let path = format!("node/{id}/peer");
        let _: serde_json::Value = self.request(Method::PUT, &path, &Query::new(), Some(peer)).await?;
        Ok(())
    }

    /// How the nodes of a collaboration are reached in the overlay.
    ///
    /// # Errors
    /// As every request.
    pub async fn peer_list(&self, collaboration: CollaborationId) -> Result<Vec<PeerRecord>, ApiError> {
        self.list("peer", &Query::new().with("collaboration_id", collaboration)).await
    }

    /// The overlay's meeting point.
    ///
    /// # Errors
    /// As every request.
    pub async fn overlay_get(&self) -> Result<OverlayInfo, ApiError> {
        self.get("overlay").await
    }
}

/// Users, roles and rules.
impl Api {
    /// All users that may be seen, or those of an organization.
    ///
    /// # Errors
    /// As every request.
    pub async fn user_list(&self, organization: Option<OrganizationId>) -> Result<Vec<User>, ApiError> {
        self.list("user", &Query::new().with_some("organization_id", organization)).await
    }

    /// One user.
    ///
    /// # Errors
    /// As every request.
    pub async fn user_get(&self, id: UserId) -> Result<User, ApiError> {
        self.get(&format!("user/{id}")).await
    }

    /// Makes a user.
    ///
    /// # Errors
    /// As every request.
    pub async fn user_create(&self, new: &NewUser) -> Result<User, ApiError> {
        self.post("user", new).await
    }

    /// Deletes a user and, if asked, what depends on them. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn user_delete(&self, id: UserId, delete_dependents: bool) -> Result<String, ApiError> {
        self.delete(&format!("user/{id}"), &dependents(delete_dependents)).await
    }

    /// All roles that may be seen, or those of a user.
    ///
    /// # Errors
    /// As every request.
    pub async fn role_list(&self, user: Option<UserId>) -> Result<Vec<Role>, ApiError> {
        self.list("role", &Query::new().with_some("user_id", user)).await
    }

    /// Makes a role.
    ///
    /// # Errors
    /// As every request.
    pub async fn role_create(&self, new: &NewRole) -> Result<Role, ApiError> {
        self.post("role", new).await
    }

    /// Deletes a role. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn role_delete(&self, id: RoleId, delete_dependents: bool) -> Result<String, ApiError> {
        self.delete(&format!("role/{id}"), &dependents(delete_dependents)).await
    }

    /// All rules, or those of a role.
    ///
    /// # Errors
    /// As every request.
    pub async fn rule_list(&self, role: Option<RoleId>) -> Result<Vec<Rule>, ApiError> {
        self.list("rule", &Query::new().with_some("role_id", role)).await
    }
}

/// Tasks, runs and results.
impl Api {
    /// Tasks, newest first.
    ///
    /// # Errors
    /// As every request.
    pub async fn task_list(&self, filter: &TaskFilter) -> Result<Vec<Task>, ApiError> {
        let query = Query::new()
            .with_some("collaboration_id", filter.collaboration_id)
            .with_some("parent_id", filter.parent_id)
            .with_some("status", filter.status.as_ref())
            .with_some("is_user_created", filter.is_user_created.map(i32::from));
        self.list("task", &query).await
    }

    /// One task.
    ///
    /// # Errors
    /// As every request.
    pub async fn task_get(&self, id: TaskId) -> Result<Task, ApiError> {
        self.get(&format!("task/{id}")).await
    }

    /// Makes a task. Under the same key the coordinator answers with the task it made first, so a request whose
    /// answer was lost may be repeated.
    ///
    /// # Errors
    /// As every request.
    pub async fn task_create(&self, new: &NewTask, idempotency_key: &str) -> Result<Task, ApiError> {
        let value = HeaderValue::from_str(idempotency_key)
            .map_err(|_| self.missing("POST /task", "the idempotency key fits no header"))?;
        let headers = HeaderMap::from_iter([(IDEMPOTENCY_KEY, value)]);
        self.request_with(Method::POST, "task", &Query::new(), Some(new), headers).await
    }

    /// The status of a task. The coordinator holds its answer until the task has ended, or some time has passed.
    ///
    /// # Errors
    /// As every request.
    pub async fn task_status(&self, id: TaskId) -> Result<StatusAnswer, ApiError> {
        self.get(&format!("task/{id}/status")).await
    }

    /// Deletes a task with its runs and subtasks. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn task_delete(&self, id: TaskId) -> Result<String, ApiError> {
        self.delete(&format!("task/{id}"), &Query::new()).await
    }

    /// Asks for a task and its subtasks to be ended. Returns the coordinator's words.
    ///
    /// # Errors
    /// As every request.
    pub async fn task_kill(&self, id: TaskId) -> Result<String, ApiError> {
        let answer: Message = self.post("kill/task", &json!({"id": id})).await?;
        Ok(answer.msg)
    }

    /// The runs of a task, newest first.
    ///
    /// # Errors
    /// As every request.
    pub async fn run_list(&self, task: TaskId) -> Result<Vec<Run>, ApiError> {
        self.list("run", &Query::new().with("task_id", task)).await
    }

    /// The runs of a node that have not ended, with their tasks in full.
    ///
    /// # Errors
    /// As every request.
    pub async fn run_list_open(&self, node: NodeId) -> Result<Vec<Run>, ApiError> {
        let query = Query::new().with("state", "open").with("node_id", node).with("include", "task");
        self.list("run", &query).await
    }

    /// One run, with its task in full.
    ///
    /// # Errors
    /// As every request.
    pub async fn run_get(&self, id: RunId) -> Result<Run, ApiError> {
        self.request(Method::GET, &format!("run/{id}"), &Query::new().with("include", "task"), NO_BODY).await
    }

    /// Reports about a run; as its node.
    ///
    /// # Errors
    /// 400 when the run has ended, and as every request.
    pub async fn run_patch(&self, id: RunId, patch: &RunPatch) -> Result<Run, ApiError> {
        self.patch(&format!("run/{id}"), patch).await
    }

    /// The results of a task's runs, as text (contract A.9), newest first.
    ///
    /// # Errors
    /// As every request.
    pub async fn result_list(&self, task: TaskId) -> Result<Vec<RunResult>, ApiError> {
        self.list("result", &Query::new().with("task_id", task)).await
    }

    /// The result of one run.
    ///
    /// # Errors
    /// As every request.
    pub async fn result_get(&self, run: RunId) -> Result<RunResult, ApiError> {
        self.get(&format!("result/{run}")).await
    }

    /// Registers a port that a run exposes; as its node.
    ///
    /// # Errors
    /// As every request.
    pub async fn port_create(&self, new: &NewPort) -> Result<Port, ApiError> {
        self.post("port", new).await
    }

    /// Removes all ports of a run; as its node.
    ///
    /// # Errors
    /// As every request.
    pub async fn port_delete_all(&self, run: RunId) -> Result<(), ApiError> {
        self.delete("port", &Query::new().with("run_id", run)).await.map(drop)
    }

    /// Where twins can be dialled; with a container's token. The filter holds the contract's words (section D.7).
    ///
    /// # Errors
    /// As every request.
    pub async fn algorithm_addresses(&self, filter: &Query) -> Result<Vec<AlgorithmAddress>, ApiError> {
        let answer: AlgorithmAddresses = self.request(Method::GET, "vpn/algorithm/addresses", filter, NO_BODY).await?;
        Ok(answer.addresses)
    }
}

/// The coordinator itself.
impl Api {
    /// The version of the interface that the coordinator speaks.
    ///
    /// # Errors
    /// As every request.
    pub async fn version(&self) -> Result<String, ApiError> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        Ok(self.get::<Version>("version").await?.version)
    }

    /// Whether the coordinator's database answers.
    ///
    /// # Errors
    /// As every request.
    pub async fn health(&self) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct Health {
            database: bool,
        }
        Ok(self.get::<Health>("health").await?.database)
    }
}
