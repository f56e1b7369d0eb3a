//! The data directory, and files that the settings name.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access, statvfs};

use super::{Finding, Patient};
use crate::files;

/// Below this, a burst of results may fill the disk before somebody looks.
const LITTLE_SPACE: u64 = 1 << 30;
/// Below this, the database's own journal may not fit.
pub(crate) const NO_SPACE: u64 = 64 << 20;

/// Whether this user can keep things in the data directory, and only this user.
pub(super) fn directory(patient: &Patient<'_>) -> Finding {
    let path = &patient.config.data_dir;
    let shown = path.display();
    let hint = "give one that this user may write to with `data_dir` or `--data-dir`";
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => metadata,
        Ok(_) => return Finding::bad(format!("`{shown}` is no directory"), hint),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return match access(existing(path), Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => Finding::well(format!("`{shown}` is made by the first start")),
                Err(error) => Finding::bad(format!("`{shown}` is not there and cannot be made: {error}"), hint),
            };
        }
        Err(error) => return Finding::bad(format!("cannot look at `{shown}`: {error}"), hint),
    };
    if let Err(error) = access(path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        return Finding::bad(format!("this user may not write to `{shown}`: {error}"), hint);
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Finding::odd(
            format!("others may look into `{shown}` (mode {:o})", metadata.permissions().mode() & 0o7777),
            format!("chmod 700 {shown}"),
        );
    }
    Finding::well(format!("`{shown}`, {}", if patient.is_running { "in use by a coordinator" } else { "free" }))
}

/// Whether there is room to write.
pub(super) fn space(patient: &Patient<'_>) -> Finding {
    let path = existing(&patient.config.data_dir);
    let free = match free_space(&path) {
        Ok(free) => free,
        Err(error) => return Finding::odd(format!("cannot ask for free space: {error}"), "see the directory above"),
    };
    let text = format!("{} MiB are free at `{}`", free >> 20, path.display());
    let hint = "remove what is not needed, or move `data_dir` to a larger disk";
    match free {
        0..NO_SPACE => Finding::bad(text, hint),
        NO_SPACE..LITTLE_SPACE => Finding::odd(text, hint),
        LITTLE_SPACE.. => Finding::well(text),
    }
}

/// Bytes that this user may still write where the path is.
pub(crate) fn free_space(path: &Path) -> std::io::Result<u64> {
    let volume = statvfs(path)?;
    Ok(volume.f_bavail.saturating_mul(volume.f_frsize))
}

/// Whether secrets are for their owner only.
pub(super) fn secrets(patient: &Patient<'_>) -> Finding {
    let config = patient.config;
    let own = ["token-secret", "relay.key", "coordinator.sqlite", "root-password"];
    let own = own.iter().map(|name| config.data_dir.join(name));
    let named = config.secret_files();
    let mut found = 0;
    for path in &named {
        if let Err(error) = files::read_secret(path) {
            return Finding::failed(error, "correct the setting that names it, or this user's rights");
        }
    }
    for path in own.chain(named) {
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        found += 1;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o007 != 0 {
            return Finding::bad(
                format!("everybody on this machine may read or change `{}` (mode {mode:o})", path.display()),
                format!("chmod 600 {}", path.display()),
            );
        }
    }
    if config.data_dir.join("root-password").exists() {
        return Finding::odd(
            "the first user's password is still in `root-password`",
            format!("keep it in a safe place and remove {}", config.data_dir.join("root-password").display()),
        );
    }
    Finding::well(format!("{found} files, none for everybody"))
}

/// The nearest directory above that is there.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}
