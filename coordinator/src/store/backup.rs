//! A copy of the embedded database, made while it is in use.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sqlx::any::AnyConnectOptions;
use sqlx::{AnyConnection, ConnectOptions as _, Connection as _};

/// The error of making a backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something that may be worth keeping.
    #[error("`{path}` is there already: name another file with `--output`, or remove it first")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// There is nothing to copy.
    #[error("there is no database at `{path}`: name the coordinator's directory with `--data-dir`")]
    Missing {
        /// Where.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} `{path}`")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The engine failed.
    #[error("cannot copy the database `{path}`")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        source: sqlx::Error,
    },
}

/// Copies the database at `from` to the new file `to`, for the owner only: whole, as of one moment, and on the disk.
///
/// # Errors
/// When there is no database or already a file, or the copy cannot be written. Then there is no file `to`.
pub(crate) async fn back_up(from: &Path, to: &Path) -> Result<(), BackupError> {
    if !from.exists() {
        return Err(BackupError::Missing { path: from.to_owned() });
    }
    if to.exists() {
        return Err(BackupError::Exists { path: to.to_owned() });
    }
    let mut unfinished = OsString::from(to);
    unfinished.push(".new");
    let unfinished = PathBuf::from(unfinished);
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| BackupError::Io { action, path, source }
    };
    // Left over from one that was cut short.
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &unfinished)(error)),
        Ok(()) | Err(_) => {}
    }
    // SQLite fills a file that is empty, and leaves its mode.
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&unfinished);
    let file = file.map_err(failed("make", &unfinished))?;
    let copied = copy(from, &unfinished).await;
    if let Err(source) = copied {
        let _ = std::fs::remove_file(&unfinished);
        return Err(BackupError::Database { path: from.to_owned(), source });
    }
    let keep = || {
        file.sync_all()?;
        std::fs::rename(&unfinished, to)?;
        match to.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            Some(parent) => File::open(parent)?.sync_all(),
            None => File::open(".")?.sync_all(),
        }
    };
    keep().map_err(failed("write", to))
}

async fn copy(from: &Path, to: &Path) -> Result<(), sqlx::Error> {
    sqlx::any::install_default_drivers();
    let url = super::engine::sqlite_url(from, "rw");
    let options: AnyConnectOptions = url.parse()?;
    let mut connection: AnyConnection = options.connect().await?;
    // Reads one state; who writes meanwhile is not held up, and not part of it.
    sqlx::query("VACUUM INTO $1").bind(to.to_string_lossy().into_owned()).execute(&mut connection).await?;
    connection.close().await
}
