//! The port's rows.

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::address::overlay_address;
use twinmesh_protocol::id::{OrganizationId, PortId, TaskId};
use twinmesh_protocol::time::Time;
use twinmesh_protocol::wire::{AlgorithmAddress, EventKind, NewPort, Port};

use super::event::event_insert;
use super::filter::{self, Filter};
use super::run::{IS_OPEN, RunPlace, ports_clear};
use super::{Result, Tx};
use crate::authz::Permit;
use crate::authz::action::OpenPort;

/// Which runs' addresses are asked for (contract D.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twins {
    /// All runs of a task.
    Of(TaskId),
    /// All runs of a task's direct subtasks.
    Below(TaskId),
    /// A task's run at an organization.
    At(TaskId, OrganizationId),
    /// A task's runs at all other organizations.
    Beside(TaskId, OrganizationId),
}

/// Registers a port of a run. The same port twice is one.
pub(crate) async fn port_insert(
    tx: &mut Tx,
    permit: Permit<OpenPort>,
    place: &RunPlace,
    new: &NewPort,
    now: Time,
) -> Result<Port> {
    debug_assert_eq!(permit.subject(), new.run_id, "the permit is for this run");
    let known = sqlx::query("SELECT id FROM algorithm_port WHERE run_id = $1 AND port = $2")
        .bind(new.run_id.get())
        .bind(i64::from(new.port))
        .fetch_optional(tx.conn())
        .await?;
    let id: i64 = match known {
        Some(row) => {
            let id = row.try_get(0)?;
            sqlx::query("UPDATE algorithm_port SET label = $1 WHERE id = $2")
                .bind(new.label.as_deref())
                .bind(id)
                .execute(tx.conn())
                .await?;
            id
        }
        None => sqlx::query("INSERT INTO algorithm_port (run_id, port, label) VALUES ($1, $2, $3) RETURNING id")
            .bind(new.run_id.get())
            .bind(i64::from(new.port))
            .bind(new.label.as_deref())
            .fetch_one(tx.conn())
            .await?
            .try_get(0)?,
    };
    event_insert(tx, place.event(EventKind::PortRegistered, now)).await?;
    Ok(Port { id: PortId::new(id), port: new.port, label: new.label.clone() })
}

/// Takes a run's ports back.
pub(crate) async fn port_delete(tx: &mut Tx, permit: Permit<OpenPort>) -> Result<()> {
    ports_clear(tx, permit.subject()).await
}

/// Where the runs asked for are reached, in the order in which their ports were registered.
pub(crate) async fn address_list(
    conn: &mut AnyConnection,
    twins: &[Twins],
    label: Option<&str>,
) -> Result<Vec<AlgorithmAddress>> {
    let mut filter = Filter::default();
    filter.and_any(
        twins
            .iter()
            .map(|twins| match *twins {
                Twins::Of(task) => ("run.task_id = ?".to_owned(), vec![task.get().into()]),
                Twins::Below(task) => ("task.parent_id = ?".to_owned(), vec![task.get().into()]),
                Twins::At(task, organization) => (
                    "(run.task_id = ? AND run.organization_id = ?)".to_owned(),
                    vec![task.get().into(), organization.get().into()],
                ),
                Twins::Beside(task, organization) => (
                    "(run.task_id = ? AND run.organization_id <> ?)".to_owned(),
                    vec![task.get().into(), organization.get().into()],
                ),
            })
            .collect(),
    );
    filter.and(IS_OPEN, []);
    filter.and_equal("algorithm_port.label", label);
    let rows = filter::all(
        conn,
        "algorithm_port.port, algorithm_port.label, run.organization_id, run.task_id, task.parent_id",
        "algorithm_port JOIN run ON run.id = algorithm_port.run_id JOIN task ON task.id = run.task_id",
        &filter,
        "algorithm_port.id",
    )
    .await?;
    rows.iter()
        .map(|row| {
            let organization_id = OrganizationId::new(row.try_get(2)?);
            Ok(AlgorithmAddress {
                ip: overlay_address(organization_id).map(|ip| ip.to_string()),
                port: super::port_number(row.try_get(0)?)?,
                label: row.try_get(1)?,
                organization_id,
                task_id: TaskId::new(row.try_get(3)?),
                parent_id: row.try_get::<Option<i64>, _>(4)?.map(TaskId::new),
            })
        })
        .collect()
}
