//! From the end of a run to its report at the coordinator.

use std::{io, sync::Arc, time::Duration};

use twinmesh_client::{ApiError, ObjectSource};
use twinmesh_protocol::{
    id::RunId, manifest::SignedManifest, payload::INLINE_CHARACTERS, sealed::Direction, status::RunStatus, time::Time,
    wire::RunPatch,
};

use super::{begin::DISK_FULL, shared::Shared};
use crate::{
    journal::{Details, End, JournalError, Record},
    reconcile::Conclusion,
    runtime::{Exit, ExitCause, RunHandle},
    sealing::Correspondent,
    trust::Sources as _,
};

/// How much of a failed run's output is sent, where logs are shared.
const SHARED_LOG_BYTES: usize = 64 << 10;

/// The pauses between attempts to deliver.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What a finished run comes to: reads its output and log, seals, and writes the report.
pub(super) async fn report(
    shared: &Shared,
    record: &Record,
    conclusion: Conclusion,
    exit: &Exit,
    handle: Option<&Arc<dyn RunHandle>>,
) -> RunPatch {
    let mut patch = RunPatch {
        started_at: Some(record.started_at),
        finished_at: Some(exit.finished_at),
        result: Some(String::new()),
        ..RunPatch::default()
    };
    let (status, mut log) = match (conclusion, exit.cause) {
        (Conclusion::Withdrawn, _) => (RunStatus::Killed, String::new()),
        (Conclusion::Exit, ExitCause::Code(0)) => match result(shared, record, handle).await {
            Ok(text) => {
                patch.result = text;
                (RunStatus::Completed, String::new())
            }
            Err(reason) => (RunStatus::Failed, reason),
        },
        (Conclusion::Exit, ExitCause::Killed) => (RunStatus::Killed, "the node ended the run".into()),
        (Conclusion::Exit, ExitCause::Code(_) | ExitCause::Signal(_) | ExitCause::LimitExceeded(_)) => {
            (RunStatus::Crashed, format!("the run {}", exit.cause))
        }
        (Conclusion::Exit, ExitCause::Orphaned | ExitCause::Vanished) | (Conclusion::LostTooOften, _) => {
            (RunStatus::UnknownError, format!("the run {}; it was started as often as is tolerated", exit.cause))
        }
    };
    let is_failure = !matches!(status, RunStatus::Completed | RunStatus::Killed);
    let share = shared.config.share_algorithm_logs.unwrap_or(!shared.home.encrypted);
    if is_failure && let Some(handle) = handle {
        if share {
            let text = handle.log().await.unwrap_or_default();
            log = format!("{log}\n{}", tail(&text)).trim().to_owned();
        } else {
            log.push_str(
                "; its output stays at the node (`share_algorithm_logs` is off there: logs are not encrypted)",
            );
        }
    }
    patch.status = Some(status);
    if !log.is_empty() {
        patch.log = Some(log);
    }
    patch
}

/// The result as it goes over the wire; none if it is too large for that and waits in the spool.
async fn result(
    shared: &Shared,
    record: &Record,
    handle: Option<&Arc<dyn RunHandle>>,
) -> Result<Option<String>, String> {
    let handle = handle.ok_or("the run's output is lost")?;
    let output = handle.output().await.map_err(|error| {
        let hint = "; the node's `runtime.limits.result` may be raised";
        format!(
            "there is no result: {error}{}",
            if matches!(error, crate::runtime::OutputError::TooLarge { .. }) { hint } else { "" }
        )
    })?;
    let to = match &record.accepted {
        Some(accepted) if shared.home.encrypted => Some(initiator(shared, &accepted.details).await?),
        Some(_) | None => None,
    };
    let home = shared.home.clone();
    // Sealing tens of megabytes takes tens of milliseconds, for which others should not wait.
    let text = tokio::task::spawn_blocking(move || home.write(Direction::Result, to.as_ref(), &output))
        .await
        .map_err(|error| format!("the result cannot be sealed: {error}"))?
        .map_err(|error| format!("the result cannot be sealed: {error}"))?;
    if text.len() <= INLINE_CHARACTERS {
        return Ok(Some(text));
    }
    let (spool, run_id) = (shared.spool(), record.run_id);
    tokio::task::spawn_blocking(move || spool.keep(run_id, &text))
        .await
        .map_err(|error| format!("the result cannot be kept: {error}"))?
        .map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DISK_FULL.to_owned(),
            _ => format!("the result cannot be kept: {error}"),
        })?;
    Ok(None)
}

/// To whom a result goes.
async fn initiator(shared: &Shared, details: &Details) -> Result<Correspondent, String> {
    let manifest = details.manifest.as_ref().map(SignedManifest::read_unverified).transpose();
    let manifest = manifest.map_err(|error| error.to_string())?;
    let organization_id = manifest.as_ref().map_or(details.initiator, |manifest| manifest.initiator);
    let key = shared
        .keyring
        .key(organization_id)
        .await
        .map_err(|error| format!("the result cannot be sealed to organization {organization_id}: {error}"))?;
    Ok(Correspondent { organization_id, key, nonce: manifest.map(|manifest| manifest.nonce) })
}

/// The end of a log, whole lines if possible.
fn tail(log: &[u8]) -> String {
    let start = log.len().saturating_sub(SHARED_LOG_BYTES);
    let rest = &log[start..];
    let rest = match rest.iter().position(|byte| *byte == b'\n') {
        Some(line_end) if start > 0 => &rest[line_end + 1..],
        _ => rest,
    };
    let cut = if start > 0 { "[…]\n" } else { "" };
    format!("{cut}{}", String::from_utf8_lossy(rest))
}

/// Records a run's end. When there is no room even for that, the report to deliver from memory comes back.
pub(super) async fn record_end(shared: &Shared, end: End, now: Time) -> Option<RunPatch> {
    match shared.journal.run_finish(&end, now).await {
        Ok(()) => return None,
        Err(error) => {
            tracing::error!(run.id = %end.run_id, error = format!("{:#}", anyhow::Error::new(error)), "the report of a run cannot be kept");
        }
    }
    // Without its payload it may fit.
    let keeps_status = end.patch.status.is_some_and(RunStatus::is_failed);
    let small = End {
        patch: RunPatch {
            status: if keeps_status { end.patch.status } else { Some(RunStatus::Failed) },
            result: Some(String::new()),
            log: if keeps_status && end.patch.log.as_ref().is_some_and(|log| log.len() < 1024) {
                end.patch.log.clone()
            } else {
                Some(DISK_FULL.into())
            },
            ..end.patch
        },
        ..end
    };
    match shared.journal.run_finish(&small, now).await {
        Ok(()) => None,
        Err(JournalError::Full) => Some(small.patch),
        Err(error) => {
            tracing::error!(run.id = %small.run_id, %error, "the end of a run cannot be recorded");
            Some(small.patch)
        }
    }
}

/// Brings a report to the coordinator, however long that takes. Safe to repeat.
pub(super) async fn deliver(shared: &Shared, run_id: RunId, mut patch: RunPatch) {
    let mut pause = PAUSE.0;
    let mut is_reduced = false;
    loop {
        let error = match try_deliver(shared, run_id, &patch).await {
            Ok(()) => break,
            Err(error) => error,
        };
        let reason = match error {
            DeliveryError::Lost => "the node lost the result of the run".to_owned(),
            // The run is gone.
            DeliveryError::Api(ref error) if error.is_not_found() => break,
            // It has ended already: as we delivered, or killed in the meantime. Either way there is nothing to add.
            DeliveryError::Api(ref error)
                if matches!(error.status(), Some(400)) && is_finished(shared, run_id).await == Some(true) =>
            {
                break;
            }
            DeliveryError::Api(ApiError::Refused(refusal)) if matches!(refusal.status, 400 | 413 | 422) => {
                tracing::error!(run.id = %run_id, "the coordinator refuses the report of the run: {}", refusal.msg);
                format!("the coordinator refused the result of the run: {}", refusal.msg)
            }
            DeliveryError::Api(error) => {
                if error.is_transient() {
                    tracing::debug!(run.id = %run_id, %error, "the report waits for the coordinator");
                } else {
                    tracing::warn!(run.id = %run_id, %error, "the report is not taken; trying again");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
        };
        if is_reduced {
            // Even that was refused: repeating it would change nothing.
            break;
        }
        is_reduced = true;
        patch = RunPatch { status: Some(RunStatus::Failed), result: None, log: Some(reason), ..patch };
    }
    shared.spool().remove(run_id);
    if let Err(error) = shared.api.port_delete_all(run_id).await {
        tracing::debug!(run.id = %run_id, %error, "the run's ports are not removed; they end with the run");
    }
}

/// Why a report was not delivered.
enum DeliveryError {
    Api(ApiError),
    /// The result is not where it was put.
    Lost,
}

async fn try_deliver(shared: &Shared, run_id: RunId, patch: &RunPatch) -> Result<(), DeliveryError> {
    let is_spooled = patch.status == Some(RunStatus::Completed) && patch.result.is_none();
    if !is_spooled {
        return shared.api.run_patch(run_id, patch).await.map(drop).map_err(DeliveryError::Api);
    }
    let spool = shared.spool();
    let Some(mut kept) = spool.find(run_id) else { return Err(DeliveryError::Lost) };
    let object = match kept.object {
        Some(object) => object,
        None => {
            let object = shared.api.object_begin().await.map_err(DeliveryError::Api)?;
            kept.object = Some(object);
            if let Err(error) = spool.note(run_id, &kept) {
                tracing::warn!(run.id = %run_id, %error, "a restarted node will upload the result from its beginning");
            }
            object
        }
    };
    let source = ObjectSource::File { path: spool.path(run_id).into(), size: kept.size };
    let sent = async {
        shared.api.object_send(object, &source, kept.digest).await?;
        let patch = RunPatch { result: Some(object.to_string()), ..patch.clone() };
        shared.api.run_patch(run_id, &patch).await
    };
    let Err(error) = sent.await else { return Ok(()) };
    let is_gone = match &error {
        ApiError::Refused(refusal) => match refusal.code.as_str() {
            // The coordinator waited for it too long, or keeps it no more.
            "payload_unknown" | "digest_mismatch" => true,
            _ => refusal.status == 404 && is_finished(shared, run_id).await == Some(false),
        },
        _ => false,
    };
    if is_gone {
        kept.object = None;
        let noted = spool.note(run_id, &kept);
        tracing::warn!(run.id = %run_id, noted = noted.is_ok(), "the result is uploaded from its beginning");
        let reason = "the upload has to begin anew".to_owned();
        return Err(DeliveryError::Api(ApiError::Interrupted { url: shared.api.base().to_owned(), reason }));
    }
    Err(DeliveryError::Api(error))
}

async fn is_finished(shared: &Shared, run_id: RunId) -> Option<bool> {
    match shared.api.run_get(run_id).await {
        Ok(run) => Some(run.status.is_finished()),
        Err(error) if error.is_not_found() => Some(true),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_log_is_kept_in_whole_lines() {
        assert_eq!(tail(b"short\n"), "short\n");
        let long: String = (0..20_000).map(|line| format!("line {line}\n")).collect();
        let kept = tail(long.as_bytes());
        assert!(kept.len() <= SHARED_LOG_BYTES + 10);
        assert!(kept.starts_with("[…]\nline ") && kept.ends_with("line 19999\n"));
    }
}
