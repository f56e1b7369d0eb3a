//! What a run may ask of the outside: an allow-list of the coordinator's calls, with the run's own token.
//!
//! The node seals what goes out, opens what comes in, signs subtasks, and hides a coordinator that is away for a while. The
//! run reaches it at a loopback address of its own network, or through its control channel.

mod forward;
mod results;
mod route;
mod subtask;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddrV4,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use twinmesh_client::Api;
use twinmesh_overlay::Clock;
use twinmesh_protocol::{
    digest::Digest,
    id::{OrganizationId, RunId},
    wire::AlgorithmAddresses,
};

use crate::{
    journal::{Accepted, ContentKey, Journal},
    mesh::RunMeshes,
    runtime::{RunHandle, RunStream},
    sealing::Home,
    trust::Keyring,
};

use self::route::{Call, route};

/// The longest body of a request. An input of 64 MiB is more than a coordinator takes in a body.
const MAX_BODY_BYTES: usize = 96 << 20;

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
    pub task_id: twinmesh_protocol::id::TaskId,
    pub attempt: u32,
    pub accepted: Accepted,
}

pub(crate) struct Gateway {
    services: Services,
    served: Served,
    /// Subtasks that are being made.
    busy: tokio::sync::Mutex<BTreeSet<(ContentKey, u32)>>,
    /// Who ran which run; never changes.
    organizations: Mutex<BTreeMap<RunId, OrganizationId>>,
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
    let run_id = served.run_id;
    let gateway =
        Arc::new(Gateway { services, served, busy: tokio::sync::Mutex::default(), organizations: Mutex::default() });
    let router = Router::new().fallback(handle_request).with_state(gateway);
    let ended = stop.child_token();
    let connections = Connections { handle, ended: ended.clone() };
    let serving = axum::serve(connections, router);
    tokio::select! {
        result = async { serving.await } => {
            if let Err(error) = result {
                tracing::debug!(run.id = %run_id, %error, "the gateway ended");
            }
        }
        () = ended.cancelled() => {}
    }
}

/// The connections that a run makes to its gateway.
struct Connections {
    handle: Arc<dyn RunHandle>,
    ended: CancellationToken,
}

impl axum::serve::Listener for Connections {
    type Io = RunStream;
    type Addr = ();

    async fn accept(&mut self) -> (RunStream, ()) {
        loop {
            match self.handle.accept_gateway().await {
                Ok(stream) => return (stream, ()),
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                    self.ended.cancel();
                    std::future::pending::<()>().await;
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection to a run's gateway");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

async fn handle_request(State(gateway): State<Arc<Gateway>>, request: Request) -> Response {
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
        if call == Call::Open {
            return self.forward_unauthenticated(&path).await;
        }
        let token = self.token(&parts.headers)?;
        let api = self.services.api.with_token(&token);
        let target = match parts.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        match call {
            Call::Open | Call::Forward => Ok(answer(StatusCode::OK, &self.forward(&api, Method::GET, &target).await?)),
            Call::BlobStatus => Ok(answer(StatusCode::OK, &json!({"blob_store_enabled": false}))),
            Call::Blob => Err(Failure::new(StatusCode::NOT_IMPLEMENTED, "this node carries payloads inline")),
            Call::TaskStatus => self.task_status(&api, &target).await,
            Call::Results => {
                let mut page = self.forward(&api, Method::GET, &target).await?;
                self.open_page(&api, &mut page).await?;
                Ok(answer(StatusCode::OK, &page))
            }
            Call::Result => {
                let mut item = self.forward(&api, Method::GET, &target).await?;
                self.open_item(&api, &mut item).await?;
                Ok(answer(StatusCode::OK, &item))
            }
            Call::Addresses => self.addresses(&api, &target).await,
            Call::CreateTask => {
                let body = read_body(body).await?;
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
    async fn addresses(&self, api: &Api, target: &str) -> Result<Response, Failure> {
        let body = self.forward(api, Method::GET, target).await?;
        let mut answered: AlgorithmAddresses = serde_json::from_value(body)
            .map_err(|error| Failure::new(StatusCode::BAD_GATEWAY, format!("the coordinator's addresses: {error}")))?;
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

async fn read_body(body: Body) -> Result<Bytes, Failure> {
    axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| {
        Failure::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is longer than {MAX_BODY_BYTES} bytes, or broke off"),
        )
    })
}
