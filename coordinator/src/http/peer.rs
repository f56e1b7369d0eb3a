//! How nodes find each other in the overlay. Our addition to the contract.

use std::time::Duration;

use axum::Json;
use twinmesh_protocol::certificate::verify_certificate;
use twinmesh_protocol::id::{CollaborationId, EventSequence, NodeId};
use twinmesh_protocol::key::PublicKey;
use twinmesh_protocol::wire::{EventKind, NewPeer, OverlayInfo, Page, PageLinks, PeerRecord};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AppState;
use super::body::Body;
use super::caller::Caller;
use super::params::{Params, invalid};
use super::path::Id;
use super::problem::Problem;
use crate::authz::Target;
use crate::authz::action::{PublishPeer, ViewPeers};
use crate::relay::Relay;
use crate::store;
use crate::store::bell::Bell;

/// How long a node that was removed may keep its place at the meeting point.
const ADMIT_EVERY: Duration = Duration::from_secs(30);

pub(crate) fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(publish)).routes(routes!(list)).routes(routes!(overlay))
}

/// Takes a node's word for how it is reached, with its organization's word for its key.
#[utoipa::path(
    put, path = "/node/{id}/peer", tag = "overlay",
    request_body = NewPeer,
    responses((status = 200, body = PeerRecord)),
    security(("node" = [])),
)]
#[tracing::instrument(name = "http.peer.publish", skip_all, fields(node.id = %node))]
async fn publish(
    mut caller: Caller,
    Id(node): Id<NodeId>,
    Body(new): Body<NewPeer>,
) -> Result<Json<PeerRecord>, Problem> {
    let missing = || Problem::not_found(format!("Node id={node} not found"));
    let place = store::run::node_place(caller.tx.conn(), node).await?.ok_or_else(missing)?;
    let target = Target::organization_in(place.organization_id, place.collaboration_id).at_node(Some(node));
    let permit = caller.permit::<PublishPeer>(node, &target)?;
    if new.addresses.iter().any(|address| !address.starts_with('/')) {
        return Err(Problem::field("addresses", "Use multiaddresses such as /ip4/192.0.2.1/tcp/4001."));
    }
    let refused = |text: String| Problem::bad_request("certificate_refused", text);
    let key = store::task::public_key_fetch(caller.tx.conn(), place.organization_id).await?.unwrap_or_default();
    let key = match PublicKey::from_api(&key) {
        Ok(PublicKey::Ed25519(key)) => key,
        Ok(PublicKey::Rsa(_)) => {
            return Err(refused("The organization's registered key is RSA; certificates need an Ed25519 key".into()));
        }
        Err(_) => {
            return Err(refused(
                "The organization has no registered public key to verify the certificate with: upload it first".into(),
            ));
        }
    };
    let certificate = verify_certificate(&new.certificate, place.organization_id, &key, caller.now)
        .map_err(|error| refused(format!("The node certificate is refused: {error}")))?;
    if certificate.collaboration_id != place.collaboration_id {
        return Err(refused(format!(
            "The node certificate is for collaboration {}, the node is in collaboration {}",
            certificate.collaboration_id, place.collaboration_id
        )));
    }
    store::peer::peer_put(&mut caller.tx, permit, &new, caller.now).await?;
    let state = caller.state.clone();
    caller.commit().await?;
    if let Some(relay) = state.relay() {
        relay.admit_registered(state.store()).await?;
    }
    Ok(Json(PeerRecord {
        node_id: node,
        organization_id: place.organization_id,
        certificate: new.certificate,
        addresses: new.addresses,
        status: None,
    }))
}

/// Keeps the meeting point's door to those who are registered: after every change of a key or
/// registration, and now and then.
pub(crate) fn keep_admitted(state: &AppState) {
    let state = state.clone();
    if state.relay().is_none() {
        return;
    }
    tokio::spawn(async move {
        let mut registered = state.store().bell(Bell::Peer);
        let mut cursor = EventSequence::new(i64::MAX);
        while let (Some(relay), Ok(hub)) = (state.relay(), state.follow().hub().await) {
            cursor = cursor.min(hub.head());
            tokio::select! {
                () = state.shutdown().cancelled() => return,
                changed = registered.changed() => if changed.is_err() { return },
                () = hub.wait_for(&mut cursor, |event| event.kind == EventKind::KeyChanged) => {}
                () = tokio::time::sleep(ADMIT_EVERY) => {}
            }
            if let Err(error) = relay.admit_registered(state.store()).await {
                tracing::warn!("cannot read which nodes are registered: {error}");
            }
        }
    });
}

/// Lists how the nodes of a collaboration are reached.
#[utoipa::path(
    get, path = "/peer", tag = "overlay",
    params(("collaboration_id" = CollaborationId, Query, description = "The collaboration")),
    responses((status = 200, body = Page<PeerRecord>)),
    security(("user" = []), ("node" = [])),
)]
async fn list(mut caller: Caller, params: Params) -> Result<Json<Page<PeerRecord>>, Problem> {
    let id = params
        .get::<CollaborationId>("collaboration_id")?
        .ok_or_else(|| invalid("collaboration_id", "it is required"))?;
    caller.permit::<ViewPeers>(id, &Target::collaboration(id))?;
    let data = store::peer::peer_list(caller.tx.conn(), id).await?;
    Ok(Json(Page { data, links: PageLinks::default() }))
}

/// Tells where the overlay's meeting points are.
#[utoipa::path(get, path = "/overlay", tag = "overlay", responses((status = 200, body = OverlayInfo)))]
async fn overlay(mut caller: Caller) -> Result<Json<OverlayInfo>, Problem> {
    let mut relays = store::instance::relay_list(caller.tx.conn()).await?;
    let own = caller.state.relay();
    if let Some(own) = own.map(Relay::place) {
        // What is written down may be a moment old.
        relays.retain(|relay| relay.peer_id != own.peer_id);
        relays.insert(0, own);
    }
    Ok(Json(OverlayInfo { relay: own.map(Relay::info), relays }))
}
