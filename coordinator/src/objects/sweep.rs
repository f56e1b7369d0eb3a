//! What a coordinator that was killed leaves behind in a directory.
//!
//! A file is written under another name first: its own, `#` and a number. One that was not finished is never taken for
//! what it should have been, but nobody removes it either.

use std::fs::{DirEntry, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Removes unfinished files that have not been written to for so long; how many.
///
/// Ages are told by the clock of the file system, which several machines may share.
pub(super) fn sweep(directory: &Path, age: Duration) -> io::Result<u64> {
    let unfinished: Vec<PathBuf> = places(directory)?
        .iter()
        .map(|place| entries(place))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .filter(|entry| is_unfinished(&entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    if unfinished.is_empty() {
        return Ok(0);
    }
    let now = now(directory)?;
    let mut removed = 0;
    for path in unfinished {
        let written = match path.metadata().and_then(|metadata| metadata.modified()) {
            Ok(written) => written,
            // Finished meanwhile, or swept by another.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if now.duration_since(written).is_ok_and(|since| since >= age) {
            match std::fs::remove_file(&path) {
                Ok(()) => removed += 1,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(removed)
}

/// The directories that hold files: those of segments, and that of `doctor`.
fn places(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let segments = entries(&directory.join("sha256"))?;
    Ok(segments.into_iter().map(|entry| entry.path()).chain([directory.join("probe")]).collect())
}

/// What is in a directory; nothing where there is none.
fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_unfinished(name: &str) -> bool {
    name.rsplit_once('#')
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What the file system's clock shows.
fn now(directory: &Path) -> io::Result<SystemTime> {
    let path = directory.join("now");
    let file = File::create(&path)?;
    // Truncating an empty file does not count as a change.
    file.set_len(1)?;
    let now = file.metadata()?.modified();
    std::fs::remove_file(&path)?;
    now
}
