//! What the tables say of the whole federation, for who watches it.

use sqlx::{AnyConnection, Row as _};
use twinmesh_protocol::id::EventSequence;

use super::Result;
use super::event::event_last;

/// Counts, as of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    /// Runs by the word of their status.
    pub(crate) runs: Vec<(String, i64)>,
    /// Nodes by the word of theirs.
    pub(crate) nodes: Vec<(String, i64)>,
    /// The last event's place in the log.
    pub(crate) last_event: EventSequence,
}

/// Reads them. Each is answered from an index or a small table.
pub(crate) async fn figures(conn: &mut AnyConnection) -> Result<Figures> {
    let runs = counts(conn, "SELECT status, COUNT(*) FROM run GROUP BY status ORDER BY status").await?;
    let nodes = counts(
        conn,
        "SELECT COALESCE(status, 'offline'), COUNT(*) FROM authenticatable WHERE kind = 'node' \
         GROUP BY COALESCE(status, 'offline') ORDER BY 1",
    )
    .await?;
    Ok(Figures { runs, nodes, last_event: event_last(conn).await? })
}

async fn counts(conn: &mut AnyConnection, sql: &'static str) -> Result<Vec<(String, i64)>> {
    let rows = sqlx::query(sql).fetch_all(conn).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}
