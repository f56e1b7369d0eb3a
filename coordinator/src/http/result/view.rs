//! Results as they go over the wire (contract A.6).

use twinmesh_protocol::wire::RunResult;

use crate::http::AppState;
use crate::store::run::ResultRecord;

/// One result.
pub(crate) fn view(state: &AppState, record: ResultRecord) -> RunResult {
    RunResult {
        id: record.id,
        result: record.result,
        cleanup_at: record.cleanup_at,
        blob_storage_used: record.blob_storage_used,
        run: Some(state.run_link("run", record.id)),
        task: Some(state.task_link(record.task_id)),
    }
}
