//! The peer's rows: how nodes are reached in the overlay.

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::certificate::SignedCertificate;
use twinmesh_protocol::id::{CollaborationId, NodeId, OrganizationId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{NewPeer, PeerRecord};

use super::bell::Bell;
use super::{Result, StoreError, Tx};
use crate::authz::Permit;
use crate::authz::action::PublishPeer;

/// Records how a node is reached, in place of what was known.
pub(crate) async fn peer_put(tx: &mut Tx, permit: Permit<PublishPeer>, peer: &NewPeer, now: Time) -> Result<()> {
    let node = permit.subject();
    tx.ring_on_commit(Bell::Peer);
    sqlx::query(
        "INSERT INTO peer (node_id, certificate, addresses, updated_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (node_id) DO UPDATE SET certificate = excluded.certificate, addresses = excluded.addresses, \
         updated_at = excluded.updated_at",
    )
    .bind(node.get())
    .bind(serde_json::to_string(&peer.certificate).expect("a certificate that came as JSON can be written as JSON"))
    .bind(serde_json::to_string(&peer.addresses).expect("texts can be written as JSON"))
    .bind(now.micros())
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// How the nodes of a collaboration are reached.
pub(crate) async fn peer_list(conn: &mut AnyConnection, collaboration: CollaborationId) -> Result<Vec<PeerRecord>> {
    let rows = sqlx::query(
        "SELECT peer.node_id, node.organization_id, peer.certificate, peer.addresses, authenticatable.status \
         FROM peer JOIN node ON node.id = peer.node_id JOIN authenticatable ON authenticatable.id = node.id \
         WHERE node.collaboration_id = $1 ORDER BY peer.node_id",
    )
    .bind(collaboration.get())
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| {
            let (certificate, addresses): (String, String) = (row.try_get(2)?, row.try_get(3)?);
            Ok(PeerRecord {
                node_id: NodeId::new(row.try_get(0)?),
                organization_id: OrganizationId::new(row.try_get(1)?),
                certificate: json_read(&certificate, "a node certificate")?,
                addresses: json_read(&addresses, "a list of addresses")?,
                status: row.try_get(4)?,
            })
        })
        .collect()
}

/// The certificates of all nodes that have one, each with its organization's key as the interface has it.
pub(crate) async fn certificate_list(conn: &mut AnyConnection) -> Result<Vec<(SignedCertificate, String)>> {
    let rows = sqlx::query(
        "SELECT peer.certificate, COALESCE(organization.public_key, '') FROM peer \
         JOIN node ON node.id = peer.node_id JOIN organization ON organization.id = node.organization_id \
         ORDER BY peer.node_id",
    )
    .fetch_all(conn)
    .await?;
    rows.iter()
        .map(|row| Ok((json_read(&row.try_get::<String, _>(0)?, "a node certificate")?, row.try_get(1)?)))
        .collect()
}

/// Reads what was written as JSON.
pub(super) fn json_read<T: serde::de::DeserializeOwned>(json: &str, expected: &'static str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| StoreError::Corrupt { value: error.to_string(), expected })
}
