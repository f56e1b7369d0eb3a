//! Nodes as the caller may see them.

use twinmesh_protocol::id::{CollaborationId, NodeId};
use twinmesh_protocol::wire::{Node, NodeConfigEntry};

use crate::authz::Target;
use crate::authz::action::ViewNode;
use crate::http::AppState;
use crate::http::caller::Caller;
use crate::http::problem::Problem;
use crate::http::scope::{self, Columns};
use crate::store::filter::Filter;
use crate::store::node::{self as store, NodeRecord};

const COLUMNS: Columns =
    Columns { organization: "node.organization_id = ?", collaboration: "node.collaboration_id {in}", owner: None };

/// The wire's form.
pub(crate) fn node(state: &AppState, record: NodeRecord) -> Node {
    Node {
        id: record.id,
        name: record.name,
        kind: "node".into(),
        ip: record.ip,
        last_seen: record.last_seen,
        status: record.status,
        organization: Some(state.link("organization", record.organization)),
        collaboration: Some(state.link("collaboration", record.collaboration)),
        config: record.config.into_iter().map(|(key, value)| NodeConfigEntry { key, value }).collect(),
        api_key: None,
    }
}

/// What decides who may do what to a node.
pub(crate) fn target(record: &NodeRecord) -> Target {
    Target::organization_in(record.organization, record.collaboration).at_node(Some(record.id))
}

pub(crate) fn visible(caller: &Caller) -> Result<Filter, Problem> {
    let reach = caller.reach::<ViewNode>()?;
    let mut filter = Filter::default();
    scope::restrict(&mut filter, caller, reach, &COLUMNS);
    if caller.actor.node().is_some() {
        filter.and_in("node.collaboration_id", caller.actor.collaborations.iter().map(|id| id.get()));
    }
    Ok(filter)
}

/// The nodes of a collaboration, as far as the caller may see them.
pub(crate) async fn of_collaboration(caller: &mut Caller, id: CollaborationId) -> Result<Vec<Node>, Problem> {
    let mut filter = visible(caller)?;
    filter.and_equal("node.collaboration_id", Some(id.get()));
    let found = store::node_all(caller.tx.conn(), &filter).await?;
    Ok(found.into_iter().map(|record| node(&caller.state, record)).collect())
}

pub(crate) async fn find(caller: &mut Caller, id: NodeId) -> Result<NodeRecord, Problem> {
    store::node_fetch(caller.tx.conn(), id)
        .await?
        .ok_or_else(|| Problem::not_found(format!("Node id={id} is not found!")))
}
