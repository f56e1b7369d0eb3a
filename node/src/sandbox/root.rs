//! The file system that a run sees in full confinement.
//!
//! An empty root in memory that holds the run's own files and, for a command, the image's top-level entries, all read-only.

use std::{fs, io, os::fd::OwnedFd};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change,
        move_mount, open_tree, unmount,
    },
};

use super::{
    message::{Program, Setup},
    stage::{Stage, StageError},
    sys::{self, MountAttributes},
};

const READ_ONLY: MountAttributes = MountAttributes { read_only: true, no_devices: true, no_exec: true };
const WRITABLE: MountAttributes = MountAttributes { read_only: false, no_devices: true, no_exec: true };
const IMAGE: MountAttributes = MountAttributes { read_only: true, no_devices: true, no_exec: false };
const DEVICE: MountAttributes = MountAttributes { read_only: false, no_devices: false, no_exec: true };

/// The devices that a run has: none of them reaches anything outside.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Top-level directories that are the run's own, whatever the image has there.
const OWN: [&str; 4] = ["proc", "dev", "tmp", "mnt"];

/// Something that was taken out of the host's tree and waits for its place in the run's.
struct Taken {
    tree: OwnedFd,
    /// Relative to the run's root.
    target: Utf8PathBuf,
    is_directory: bool,
}

/// Replaces the root of this process, which is in a mount namespace of its own, by the run's.
pub(super) fn enter(setup: &Setup) -> Result<(), StageError> {
    mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).stage("separating its mounts")?;
    // All sources are taken before anything is mounted, so that no mount can hide one.
    let mut taken = Vec::new();
    let mut links = Vec::new();
    if let Program::Command { root, .. } = &setup.program {
        take_image(root, &mut taken, &mut links)?;
    }
    for device in DEVICES {
        taken.push(take(&Utf8Path::new("/dev").join(device), format!("dev/{device}").into(), DEVICE)?);
    }
    if let Some(temporary) = &setup.temporary {
        taken.push(take(temporary, "mnt/tmp".into(), WRITABLE)?);
    }
    for file in &setup.mounts {
        let target = file.target.strip_prefix("/").unwrap_or(&file.target).to_owned();
        taken.push(take(&file.source, target, if file.writable { WRITABLE } else { READ_ONLY })?);
    }

    // The directory of the run serves as the place of its root: it exists, and nothing in it is needed from here on.
    let memory = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", setup.directory.as_str(), "tmpfs", memory, c"mode=755,size=1m,nr_inodes=16k")
        .stage("mounting an empty root")?;
    rustix::process::chdir(setup.directory.as_str()).stage("entering the empty root")?;
    for directory in OWN {
        fs::create_dir(directory).stage("making a directory in the root")?;
    }
    let content = format!("mode=1777,size={},nr_inodes=64k", setup.limits.temporary_bytes);
    let content = std::ffi::CString::new(content).stage("sizing `/tmp`")?;
    mount("tmpfs", "tmp", "tmpfs", memory | MountFlags::NOEXEC, content.as_c_str()).stage("mounting `/tmp`")?;
    if setup.temporary.is_none() {
        fs::create_dir("mnt/tmp").stage("making `/mnt/tmp`")?;
        mount("tmpfs", "mnt/tmp", "tmpfs", memory | MountFlags::NOEXEC, content.as_c_str())
            .stage("mounting `/mnt/tmp`")?;
    }
    for (name, destination) in links {
        std::os::unix::fs::symlink(destination, name).stage("linking an entry of the image")?;
    }
    for taken in &taken {
        put(taken)?;
    }
    for (name, destination) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("shm", "/tmp")]
    {
        std::os::unix::fs::symlink(destination, format!("dev/{name}")).stage("linking a device")?;
    }
    if matches!(setup.program, Program::Command { .. } | Program::Probe) {
        mount_processes()?;
    }

    rustix::process::pivot_root(".", ".").stage("changing the root")?;
    unmount(".", UnmountFlags::DETACH).stage("letting go of the former root")?;
    rustix::process::chdir("/").stage("entering the root")?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .stage("opening the root")?;
    sys::set_mount_attributes(&root, IMAGE, false).stage("making the root read-only")
}

/// Takes the entries of an image one by one, so that the run's own directories need not exist in it.
fn take_image(
    root: &Utf8Path,
    taken: &mut Vec<Taken>,
    links: &mut Vec<(String, Utf8PathBuf)>,
) -> Result<(), StageError> {
    for entry in root.read_dir_utf8().stage(format!("reading the image `{root}`"))? {
        let entry = entry.stage(format!("reading the image `{root}`"))?;
        let name = entry.file_name();
        let kind = entry.file_type().stage(format!("looking at `{name}` of the image"))?;
        if OWN.contains(&name) {
            continue;
        }
        if kind.is_symlink() {
            links.push((name.to_owned(), entry.path().read_link_utf8().stage(format!("reading the link `{name}`"))?));
        } else if kind.is_dir() || kind.is_file() {
            taken.push(take(entry.path(), name.into(), IMAGE)?);
        }
    }
    Ok(())
}

fn take(source: &Utf8Path, target: Utf8PathBuf, attributes: MountAttributes) -> Result<Taken, StageError> {
    let is_directory = fs::metadata(source).stage(format!("looking at `{source}`"))?.is_dir();
    let recursive = if is_directory { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | recursive;
    let tree = open_tree(CWD, source.as_str(), flags).stage(format!("taking `{source}`"))?;
    sys::set_mount_attributes(&tree, attributes, is_directory).stage(format!("restricting `{source}`"))?;
    Ok(Taken { tree, target, is_directory })
}

fn put(taken: &Taken) -> Result<(), StageError> {
    let target = &taken.target;
    let place = || {
        if taken.is_directory {
            fs::create_dir_all(target)?;
        } else {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::OpenOptions::new().write(true).create_new(true).open(target)?;
        }
        move_mount(&taken.tree, "", CWD, target.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        io::Result::Ok(())
    };
    place().stage(format!("mounting `/{target}`"))
}

/// Shows the run its own processes. Inside containers whose `/proc` is partly masked the kernel refuses it; programs then
/// do without.
fn mount_processes() -> Result<(), StageError> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("proc", "proc", "proc", flags, c"hidepid=2") {
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(error) => Err(error).stage("mounting `/proc`"),
    }
}
