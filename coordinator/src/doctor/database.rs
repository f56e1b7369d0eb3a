//! The database, and the clock that it lets one compare.

use std::time::Duration;

use super::{Finding, Patient};
use crate::store::examine::Examined;
use crate::store::{self, Location};

/// Farther apart, tokens end early or late, and times in the log mislead.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);
/// No database may take longer to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// 2026-01-01: no release is older.
const EARLIEST: i64 = 1_767_225_600;

async fn look(patient: &Patient<'_>) -> anyhow::Result<Option<Examined>> {
    let location = match patient.config.database.url()? {
        Some(url) => Location::Url(url),
        None => {
            let path = crate::sqlite_file(&patient.config.data_dir);
            if !path.exists() {
                return Ok(None);
            }
            Location::File(path)
        }
    };
    match tokio::time::timeout(PATIENCE, store::examine::examine(&location)).await {
        Ok(examined) => Ok(Some(examined?)),
        Err(_) => anyhow::bail!("the database does not answer within {} s", PATIENCE.as_secs()),
    }
}

/// Whether the database answers, and is of this release or an earlier one.
pub(super) async fn examine(patient: &Patient<'_>) -> Finding {
    let shared = patient.config.database.url().is_ok_and(|url| url.is_some());
    let Examined { engine, schema, .. } = match look(patient).await {
        Ok(Some(examined)) => examined,
        Ok(None) => return Finding::well("it is made by the first start"),
        Err(error) if shared => {
            return Finding::failed(
                error,
                "see whether the server runs, and whether `database.url` names it, a database and who may use it",
            );
        }
        Err(error) => {
            return Finding::failed(error, "restore it from a backup, see `twinmesh-coordinator backup --help`");
        }
    };
    match schema {
        None => Finding::well(format!("{engine}, empty: its tables are made by the first start")),
        Some(Err(error)) => Finding::failed(error, "install the release that last used it"),
        Some(Ok((newest, 0))) => Finding::well(format!("{engine}, schema {newest}")),
        Some(Ok((newest, missing))) => {
            Finding::well(format!("{engine}, schema {newest}: the next start applies {missing} more"))
        }
    }
}

/// Whether this machine's clock can be right.
pub(super) async fn clock(patient: &Patient<'_>) -> Finding {
    let hint = "set this machine's clock, best by NTP (`timedatectl set-ntp true`)";
    let now = patient.now;
    if now.seconds() < EARLIEST {
        return Finding::bad(format!("it says {}, which is long past", now.to_rfc3339()), hint);
    }
    // What the database has to say is left to the check of the database when it cannot be read.
    let examined = look(patient).await.ok().flatten();
    if let Some(last) = examined.as_ref().and_then(|examined| examined.last_event)
        && last.since(now) > CLOCK_TOLERANCE
    {
        let what = format!("it says {}, but an event was recorded at {}", now.to_rfc3339(), last.to_rfc3339());
        return Finding::bad(what, hint);
    }
    if let Some(server) = examined.as_ref().and_then(|examined| examined.server_time) {
        let apart = server.since(now).max(now.since(server));
        if apart > CLOCK_TOLERANCE {
            let what = format!("it says {}, the database's {}", now.to_rfc3339(), server.to_rfc3339());
            return Finding::odd(what, "set the clocks of both machines, best by NTP");
        }
    }
    Finding::well(now.to_rfc3339())
}
