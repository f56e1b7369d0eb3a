//! What a run uses, as the kernel tells it.

use std::{fs, time::Duration};

use camino::Utf8Path;

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
    let mut waiting = vec![first];
    // A process that is gone by now uses nothing, so what cannot be read is left out.
    while let Some(process) = waiting.pop() {
        if let Ok(status) = fs::read_to_string(format!("/proc/{process}/status")) {
            usage.memory_bytes +=
                1024 * (field(&status, "RssAnon:") + field(&status, "RssShmem:") + field(&status, "VmSwap:"));
            usage.threads += field(&status, "Threads:");
        }
        if let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) {
            usage.cpu_time += cpu_time(&stat);
        }
        let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { continue };
        for thread in threads.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            waiting.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    usage
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

/// The disk space that a directory's content takes, or `None` if there are too many files in it to tell.
pub(super) fn disk_bytes(directory: &Utf8Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt as _;
    const MOST_ENTRIES: usize = 100_000;
    let mut bytes = 0;
    let mut entries = 0;
    let mut waiting = vec![directory.as_std_path().to_owned()];
    while let Some(directory) = waiting.pop() {
        let Ok(content) = fs::read_dir(directory) else { continue };
        for entry in content.flatten() {
            entries += 1;
            if entries > MOST_ENTRIES {
                return None;
            }
            let Ok(metadata) = entry.metadata() else { continue };
            bytes += metadata.blocks() * 512;
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    Some(bytes)
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
        assert!(disk_bytes(Utf8Path::from_path(directory.path()).unwrap()).unwrap() >= 100_000);
    }
}
