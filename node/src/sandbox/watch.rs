//! What a run uses, as the kernel tells it.

use std::{collections::BTreeMap, fs, os::fd::OwnedFd, os::unix::fs::MetadataExt as _, time::Duration};

use camino::Utf8Path;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

/// What all processes of a run use together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) memory_bytes: u64,
    /// Processes and threads.
    pub(super) threads: u64,
    pub(super) cpu_time: Duration,
}

/// Adds up what a process and all that descend from it use.
///
/// Orphans become children of the run's first process, so that nothing leaves the tree. Memory is what is private to the run:
/// pages of programs and files would be counted once for each process that maps them.
pub(super) fn usage(first: i32) -> Usage {
    let mut usage = Usage::default();
    // A process that is gone by now uses nothing, so what cannot be read is left out.
    for process in tree(first) {
        if let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) {
            usage.memory_bytes +=
                1024 * (field(&status, "RssAnon:") + field(&status, "RssShmem:") + field(&status, "VmSwap:"));
            usage.threads += field(&status, "Threads:");
        }
        if let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) {
            usage.cpu_time += cpu_time(&stat);
        }
    }
    usage
}

/// A process and all that descend from it.
fn tree(first: i32) -> Vec<i32> {
    let mut found = vec![first];
    let mut next = 0;
    while let Some(process) = found.get(next) {
        next += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}

fn field(status: &str, name: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// User and system time of a process and of its children that it waited for.
fn cpu_time(stat: &str) -> Duration {
    // The name of the program, in parentheses, may contain anything; the fields after it are numbers. The first of them is
    // the third field of proc_pid_stat(5).
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(4).filter_map(|number| number.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// How many files a run's folder may hold; more are taken for a full folder, because counting them takes too long.
const MOST_ENTRIES: usize = 100_000;

/// How deep folders may lie within each other; each level takes an open file while they are counted.
const DEEPEST: usize = 64;

/// The disk space that a directory's content takes, and the files in its file system that the run has removed but still has
/// open. `None` if that cannot be told, which counts as full: a run could hide anything in what cannot be looked at.
pub(super) fn disk_bytes(directory: &Utf8Path, first: i32) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.as_str(), flags, Mode::empty()).ok()?;
    let device = rustix::fs::fstat(&opened).ok()?.st_dev;
    let mut entries = 0;
    Some(content_bytes(&opened, &mut entries, DEEPEST)? + removed_bytes(first, device)?)
}

/// Goes down by descriptors, so that neither long paths nor links lead astray.
fn content_bytes(directory: &OwnedFd, entries: &mut usize, levels: usize) -> Option<u64> {
    let mut bytes = 0;
    for entry in Dir::read_from(directory).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        *entries += 1;
        if *entries > MOST_ENTRIES {
            return None;
        }
        let found = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => continue,
            Err(_) => return None,
        };
        bytes += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(directory, name, flags, Mode::empty()) {
            Ok(below) => bytes += content_bytes(&below, entries, levels.checked_sub(1)?)?,
            // Removed or replaced since.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(_) => return None,
        }
    }
    Some(bytes)
}

/// The disk space of files that have no name any more and that a process of the run holds open.
fn removed_bytes(first: i32, device: u64) -> Option<u64> {
    let mut files = BTreeMap::new();
    for process in tree(first) {
        let descriptors = match fs::read_dir(format!("/proc/{process}/fd")) {
            Ok(descriptors) => descriptors,
            // One that has ended holds nothing, and may not be looked into.
            Err(_) if has_ended(process) => continue,
            Err(_) => return None,
        };
        for descriptor in descriptors.flatten() {
            let Ok(found) = fs::metadata(descriptor.path()) else { continue };
            if found.is_file() && found.nlink() == 0 && found.dev() == device {
                files.insert(found.ino(), found.blocks() * 512);
            }
        }
    }
    Some(files.into_values().sum())
}

fn has_ended(process: i32) -> bool {
    fs::read_to_string(format!("/proc/{process}/status"))
        .map_or(true, |status| status.lines().any(|line| line.starts_with("State:") && line.contains('Z')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_uses_something() {
        let usage = usage(rustix::process::getpid().as_raw_nonzero().get());
        assert!(usage.memory_bytes > 4096 && usage.threads > 0, "{usage:?}");
    }

    #[test]
    fn a_program_name_does_not_confuse_the_processor_time() {
        let stat = "12 (a) b) R 1 2 3 4 5 6 7 8 9 10 100 50 25 25 20 0 1 0";
        let expected = 200.0 / rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_time(stat), Duration::from_secs_f64(expected));
    }

    #[test]
    fn the_size_of_a_directory_counts_what_lies_below() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("below")).unwrap();
        fs::write(directory.path().join("below/file"), vec![1; 100_000]).unwrap();
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let before = disk_bytes(path, own).unwrap();
        assert!(before >= 100_000);
        // A name more or less makes no difference as long as the file is open.
        let file = fs::File::open(path.join("below/file")).unwrap();
        fs::remove_file(path.join("below/file")).unwrap();
        assert!(disk_bytes(path, own).unwrap() >= 100_000);
        drop(file);
    }

    #[test]
    fn a_directory_that_is_too_deep_to_look_through_counts_as_full() {
        let directory = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(directory.path()).unwrap();
        let mut deep = path.to_owned();
        for _ in 0..DEEPEST + 2 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(disk_bytes(path, 0), None);
    }
}
