//! The data directory: one process at a time, secrets for its owner only.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The error of using the data directory.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Another process has it.
    #[error(
        "another coordinator runs on `{path}`; stop it first, or give this one a data directory of its own with \
         `--data-dir`"
    )]
    InUse {
        /// The directory.
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
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { action, path: path.to_owned(), source }
}

/// Holds the data directory; the operating system lets go when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// Makes the directory if need be and takes hold of it.
pub(crate) fn take(directory: &Path) -> Result<Lock, FileError> {
    make_private_directory(directory)?;
    let path = directory.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(FileError::InUse { path: directory.to_owned() }),
        Err(TryLockError::Error(source)) => Err(FileError::Io { action: "lock", path, source }),
    }
}

/// Whether some process has the directory.
pub(crate) fn is_taken(directory: &Path) -> io::Result<bool> {
    match File::open(directory.join("lock")) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a directory for the owner only, if there is none.
pub(crate) fn make_private_directory(directory: &Path) -> Result<(), FileError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed("make the directory", directory))
}

/// Writes a file for the owner only. It is there whole or not at all, and stays after a loss of power.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let unfinished = path.with_extension("new");
    let write = || {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&unfinished)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&unfinished, path)?;
        match path.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(failed("write", path))
}

/// Makes a file for the owner only, if there is none; what it holds stays.
pub(crate) fn make_private(path: &Path) -> Result<(), FileError> {
    let open = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    open.map(drop).map_err(failed("make", path))
}

/// As long as the hash's output (RFC 7518 §3.2).
const SECRET_BYTES: usize = 32;

/// The secret that signs tokens; made on first use and kept, so that a restart logs nobody out.
pub(crate) fn token_secret(directory: &Path) -> Result<Vec<u8>, FileError> {
    let path = directory.join("token-secret");
    match std::fs::read(&path) {
        Ok(secret) if secret.len() >= SECRET_BYTES => Ok(secret),
        Ok(_) => Err(failed("use", &path)(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is too short to be a secret; remove it to have a new one made, which logs everybody out",
        ))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let secret = new_token_secret();
            write_private(&path, &secret)?;
            Ok(secret.to_vec())
        }
        Err(error) => Err(failed("read", &path)(error)),
    }
}

/// Which coordinator this is among those on the same database: made on first use and kept, so that whoever was
/// connected before a restart is known to be gone.
pub(crate) fn instance_id(directory: &Path) -> Result<String, FileError> {
    let path = directory.join("instance-id");
    match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id.trim().to_owned()),
        Ok(_) => make_instance_id(&path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_instance_id(&path),
        Err(error) => Err(failed("read", &path)(error)),
    }
}

fn make_instance_id(path: &Path) -> Result<String, FileError> {
    let id = uuid::Uuid::now_v7().to_string();
    write_private(path, id.as_bytes())?;
    Ok(id)
}

/// A secret that signs tokens.
pub(crate) fn new_token_secret() -> [u8; SECRET_BYTES] {
    rand::random()
}

/// Removes a file that may not be there.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Reads a secret that somebody wrote into a file, without the line's end.
pub(crate) fn read_secret(path: &Path) -> Result<String, FileError> {
    let text = std::fs::read_to_string(path).map_err(failed("read", path))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_is_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_taken(dir.path()).unwrap());
        let lock = take(dir.path()).unwrap();
        assert!(is_taken(dir.path()).unwrap());
        assert!(matches!(take(dir.path()), Err(FileError::InUse { .. })));
        drop(lock);
        assert!(!is_taken(dir.path()).unwrap());
        take(dir.path()).unwrap();
    }

    #[test]
    fn the_token_secret_stays_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let secret = token_secret(dir.path()).unwrap();
        assert_eq!(token_secret(dir.path()).unwrap(), secret);
        let path = dir.path().join("token-secret");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert!(token_secret(dir.path()).is_err());
    }
}
