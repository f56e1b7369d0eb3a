//! What a run may ask of the outside: an allow-list of the coordinator's calls, with the run's own token.
//!
//! The node seals what goes out, opens what comes in, signs subtasks, and hides a coordinator that is away for a while. The
//! run reaches it at a loopback address of its own network, or through its control channel.

mod connections;
mod forward;
pub(crate) mod fuzzing;
mod query;
mod results;
mod route;
mod subtask;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddrV4,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use twinmesh_client::Api;
use twinmesh_overlay::Clock;
use twinmesh_protocol::{
    digest::Digest,
    id::{OrganizationId, RunId, TaskId},
    wire::AlgorithmAddresses,
};

use crate::{
    journal::{Accepted, ContentKey, Journal},
    mesh::RunMeshes,
    runtime::RunHandle,
    sealing::Home,
    trust::Keyring,
};

use self::{
    connections::{LIMITS, Room, answer_in},
    query::{Arguments, LABEL},
    route::{Call, route},
};

/// How long a run waits for a coordinator that is away before it is told so.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// What all gateways of a node share.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "a clock has none")]
pub struct Services {
    pub home: Arc<Home>,
    pub api: Api,
    pub keyring: Arc<Keyring>,
    pub journal: Journal,
    pub meshes: Option<RunMeshes>,
    pub clock: Clock,
}

/// The run that a gateway serves.
#[derive(Debug, Clone)]
pub struct Served {
    pub run_id: RunId,
    pub task_id: TaskId,
    pub attempt: u32,
    pub accepted: Accepted,
}

pub(crate) struct Gateway {
    services: Services,
    served: Served,
    /// Lets one subtask be claimed at a time.
    claiming: tokio::sync::Mutex<()>,
    /// Subtasks that are being made.
    busy: Mutex<BTreeSet<(ContentKey, u32)>>,
    /// Tells that one less is being made.
    freed: tokio::sync::Notify,
    /// Who runs what of the subtasks; never changes.
    runs: Mutex<BTreeMap<TaskId, Arc<BTreeMap<RunId, OrganizationId>>>>,
    room: Room,
}

/// An answer to a run that is no success.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    body: Value,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, msg: impl Into<String>) -> Self {
        let msg: String = msg.into();
        Self { status, body: json!({"msg": msg, "status": status.as_u16()}) }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        answer(self.status, &self.body)
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Serves a run's gateway until the run has ended or `stop` is cancelled.
pub async fn serve(services: Services, served: Served, handle: Arc<dyn RunHandle>, stop: CancellationToken) {
    let gateway = Arc::new(Gateway {
        services,
        served,
        claiming: tokio::sync::Mutex::default(),
        busy: Mutex::default(),
        freed: tokio::sync::Notify::new(),
        runs: Mutex::default(),
        room: Room::new(LIMITS),
    });
    connections::serve(LIMITS, handle, stop, move |request| handle_request(Arc::clone(&gateway), request)).await;
}

async fn handle_request(gateway: Arc<Gateway>, request: Request) -> Response {
    match gateway.handle(request).await {
        Ok(response) => response,
        Err(failure) => {
            tracing::debug!(run.id = %gateway.served.run_id, status = failure.status.as_u16(), "gateway: {}", failure.body["msg"]);
            failure.into_response()
        }
    }
}

impl Gateway {
    async fn handle(&self, request: Request<Body>) -> Result<Response, Failure> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_matches('/').to_owned();
        let Some(call) = route(&parts.method, &path) else {
            return Err(Failure::new(
                StatusCode::FORBIDDEN,
                format!("an algorithm may not call {} /{path} at this node", parts.method),
            ));
        };
        let arguments = Arguments::read(&path, parts.uri.query().unwrap_or_default())?;
        if call == Call::Open {
            return self.forward_unauthenticated(&path).await;
        }
        let token = self.token(&parts.headers)?;
        let api = self.services.api.with_token(&token);
        let target = arguments.target(&path);
        match call {
            // What is included may be runs with their inputs.
            Call::Forward if arguments.one("include")?.is_some() => {
                let place = self.room.take().await;
                Ok(answer_in(place, &self.forward(&api, Method::GET, &target).await?))
            }
            Call::Open | Call::Forward => Ok(answer(StatusCode::OK, &self.forward(&api, Method::GET, &target).await?)),
            Call::BlobStatus => Ok(answer(StatusCode::OK, &json!({"blob_store_enabled": false}))),
            Call::Blob => Err(Failure::new(StatusCode::NOT_IMPLEMENTED, "this node carries payloads inline")),
            Call::TaskStatus => self.task_status(&api, &target).await,
            Call::Runs => {
                let place = self.room.take().await;
                Ok(answer_in(place, &self.runs(&api, &arguments, &target).await?))
            }
            Call::Run => {
                let place = self.room.take().await;
                Ok(answer_in(place, &self.run(&api, &target).await?))
            }
            Call::Results => {
                let place = self.room.take().await;
                Ok(answer_in(place, &self.results(&api, &arguments).await?))
            }
            Call::Result => {
                let id = path.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or_default();
                let place = self.room.take().await;
                Ok(answer_in(place, &self.result(&api, RunId::new(id)).await?))
            }
            Call::Addresses => self.addresses(&api, &target, arguments.one(LABEL)?).await,
            Call::CreateTask => {
                let (body, _place) = self.room.read(body).await?;
                let key = parts.headers.get("idempotency-key").and_then(|value| value.to_str().ok());
                self.create_subtask(&api, &body, key).await
            }
        }
    }

    /// The token of a request, which must be this run's.
    fn token(&self, headers: &HeaderMap) -> Result<String, Failure> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(|| Failure::new(StatusCode::UNAUTHORIZED, "Missing Authorization Header"))?
            .trim();
        if Digest::of(token.as_bytes()) != self.served.accepted.token_digest {
            return Err(Failure::new(StatusCode::UNAUTHORIZED, "the token is not that of this run"));
        }
        Ok(token.to_owned())
    }

    /// Twins' addresses: those of the job's members, which then exist inside the run.
    async fn addresses(&self, api: &Api, target: &str, label: Option<&str>) -> Result<Response, Failure> {
        let body = self.forward(api, Method::GET, target).await?;
        let mut answered: AlgorithmAddresses = serde_json::from_value(body)
            .map_err(|error| Failure::new(StatusCode::BAD_GATEWAY, format!("the coordinator's addresses: {error}")))?;
        answered.addresses.retain(|address| label.is_none() || address.label.as_deref() == label);
        let Some(meshes) = &self.services.meshes else {
            answered.addresses.clear();
            return Ok(answer(StatusCode::OK, &json!(answered)));
        };
        let run_id = self.served.run_id;
        let listed: Vec<SocketAddrV4> = answered
            .addresses
            .iter_mut()
            .filter_map(|address| {
                // Who answers at an address is the organization's own, whatever the coordinator knows of it.
                let ip = twinmesh_protocol::address::overlay_address(address.organization_id)?;
                address.ip = Some(ip.to_string());
                Some(SocketAddrV4::new(ip, address.port))
            })
            .collect();
        let reachable: BTreeSet<SocketAddrV4> = meshes.reachable(run_id, &listed).into_iter().collect();
        let before = answered.addresses.len();
        answered.addresses.retain(|address| {
            let ip = address.ip.as_deref().and_then(|ip| ip.parse().ok());
            ip.is_some_and(|ip| reachable.contains(&SocketAddrV4::new(ip, address.port)))
        });
        if answered.addresses.len() < before {
            tracing::warn!(
                run.id = %run_id,
                "left out {} addresses of organizations that are not members of the job",
                before - answered.addresses.len()
            );
        }
        let reachable: Vec<SocketAddrV4> = reachable.into_iter().collect();
        open_addresses(&self.services.journal, meshes, run_id, &reachable).await.map_err(|error| {
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("the twins' addresses cannot be opened yet: {error}"))
        })?;
        Ok(answer(StatusCode::OK, &json!(answered)))
    }
}

/// Makes twins' addresses exist inside a run, now and after a restart of the node.
pub async fn open_addresses(
    journal: &Journal,
    meshes: &RunMeshes,
    run_id: RunId,
    addresses: &[SocketAddrV4],
) -> Result<(), anyhow::Error> {
    let known: BTreeSet<SocketAddrV4> = journal.listener_list(run_id).await?.into_iter().collect();
    let new: Vec<SocketAddrV4> = addresses.iter().copied().filter(|address| !known.contains(address)).collect();
    if !new.is_empty() {
        journal.listener_add(run_id, &new).await?;
    }
    meshes.listen(run_id, addresses).await?;
    Ok(())
}
