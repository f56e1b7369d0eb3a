//! Results that are too large for one request, from a run's end until the coordinator has them.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use twinmesh_protocol::{
    digest::Digest,
    id::{ObjectId, RunId},
    payload,
};

use crate::journal::make_private_directory;

/// The directory of spooled results.
#[derive(Debug, Clone)]
pub(super) struct Spool {
    directory: Utf8PathBuf,
}

/// What is known of a spooled result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The upload that was begun, if one was.
    pub(super) object: Option<ObjectId>,
}

impl Spool {
    pub(super) fn new(state_directory: &Utf8Path) -> Self {
        Self { directory: state_directory.join("spool") }
    }

    /// Keeps a result, given as text. It is there whole, or [`Spool::find`] does not find it.
    pub(super) fn keep(&self, run_id: RunId, text: &str) -> io::Result<()> {
        make_private_directory(&self.directory)?;
        let object =
            payload::object_from_text(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let kept = Kept { digest: Digest::of(&object), size: object.len() as u64, object: None };
        // What was kept before is not this.
        self.remove(run_id);
        write(&self.path(run_id), &object)?;
        self.note(run_id, &kept)
    }

    /// A result that is kept.
    pub(super) fn find(&self, run_id: RunId) -> Option<Kept> {
        let text = std::fs::read(self.notes(run_id)).ok()?;
        let kept: Kept = serde_json::from_slice(&text).ok()?;
        let size = std::fs::metadata(self.path(run_id)).ok()?.len();
        (size == kept.size).then_some(kept)
    }

    /// Notes what is known of a result that is kept.
    pub(super) fn note(&self, run_id: RunId, kept: &Kept) -> io::Result<()> {
        let text = serde_json::to_vec(kept).map_err(io::Error::other)?;
        write(&self.notes(run_id), &text)
    }

    /// Where a result is.
    pub(super) fn path(&self, run_id: RunId) -> Utf8PathBuf {
        self.directory.join(format!("{run_id}.payload"))
    }

    /// Forgets a result; what is left over takes space and nothing else.
    pub(super) fn remove(&self, run_id: RunId) {
        for path in [self.notes(run_id), self.path(run_id)] {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%path, %error, "cannot remove a file"),
            }
        }
    }

    fn notes(&self, run_id: RunId) -> Utf8PathBuf {
        self.directory.join(format!("{run_id}.json"))
    }
}

/// Writes a file for the owner only, whole and on the disk or not at all.
fn write(path: &Utf8Path, bytes: &[u8]) -> io::Result<()> {
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
    write().inspect_err(|_| drop(std::fs::remove_file(&unfinished)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_kept_until_it_is_removed_and_found_only_whole() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::new(Utf8Path::from_path(directory.path()).unwrap());
        let run = RunId::new(7);
        assert!(spool.find(run).is_none());
        spool.keep(run, "iVRNUwEB").unwrap();
        let mut kept = spool.find(run).unwrap();
        assert_eq!((kept.size, kept.digest), (6, Digest::of(b"\x89TMS\x01\x01")));
        kept.object = Some(ObjectId::from_u128(5));
        spool.note(run, &kept).unwrap();
        assert_eq!(spool.find(run).unwrap().object, kept.object);
        spool.keep(run, "AAAA").unwrap();
        assert_eq!(spool.find(run).unwrap().object, None, "another result is another upload");
        std::fs::write(spool.path(run), b"A").unwrap();
        assert!(spool.find(run).is_none());
        spool.remove(run);
        assert_eq!(std::fs::read_dir(directory.path().join("spool")).unwrap().count(), 0);
    }
}
