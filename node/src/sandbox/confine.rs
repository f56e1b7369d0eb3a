//! The first process of a run: it locks itself in, then becomes the algorithm.

use std::{
    fs,
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    process::Command,
};

use camino::{Utf8Path, Utf8PathBuf};
use landlock::{
    ABI, Access as _, AccessFs, BitFlags, PathBeneath, PathFd, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, openat},
    process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid},
    thread::{CapabilitySet, CapabilitySets, UnshareFlags},
};

use super::{
    filter,
    message::{Confinement, Program, Setup},
    root,
    stage::{Stage as _, StageError},
    sys,
};
use crate::runtime::CONTROL_VARIABLE;

/// The user and group that a run in full confinement sees itself as, whoever it is outside.
const NOBODY: u32 = 65534;

/// Where a run in lite confinement finds its control channel, its files and its temporary folder.
const CONTROL: i32 = 3;
const FILES: i32 = 4;
const TEMPORARY: i32 = 5;
/// Where a run keeps the pipe on which it reports until it starts.
const READY: i32 = 6;

/// The path of the run's files in lite confinement: through a descriptor, so that the directories above may be closed to it.
pub(super) fn lite_files() -> Utf8PathBuf {
    format!("/proc/self/fd/{FILES}").into()
}

/// The path of the temporary folder in lite confinement.
pub(super) fn lite_temporary() -> Utf8PathBuf {
    format!("/proc/self/fd/{TEMPORARY}").into()
}

/// What the agent hands to the run's first process.
pub(super) struct Ends {
    pub(super) log: OwnedFd,
    /// Closed when the algorithm starts; an error is written to it before.
    pub(super) ready: OwnedFd,
    pub(super) control: Option<OwnedFd>,
}

/// Locks this process in and becomes the algorithm.
pub(super) fn become_algorithm(setup: &Setup, ends: Ends, builtin: fn() -> i32) -> ! {
    let ready = match lock_in(setup, ends) {
        Ok(ready) => ready,
        Err((error, ready)) => fail(&error, ready),
    };
    match &setup.program {
        Program::Probe => {
            drop(ready);
            std::process::exit(0)
        }
        Program::Builtin => {
            for (name, value) in &setup.environment {
                sys::set_variable(name, value);
            }
            if setup.confinement == Confinement::Lite {
                sys::set_variable(CONTROL_VARIABLE, CONTROL.to_string());
            }
            drop(ready);
            // Caught here, because unwinding further would close what the agent's part of this process has owned.
            std::process::exit(std::panic::catch_unwind(builtin).unwrap_or(101))
        }
        Program::Command { argv, working_directory, .. } => {
            let Some((program, arguments)) = argv.split_first() else {
                let source = io::Error::from(io::ErrorKind::InvalidInput);
                fail(&StageError { stage: "the image has no command".into(), source }, ready)
            };
            let source = Command::new(program)
                .args(arguments)
                .env_clear()
                .envs(&setup.environment)
                .current_dir(working_directory)
                .exec();
            fail(&StageError { stage: format!("executing `{program}` in `{working_directory}`"), source }, ready)
        }
    }
}

fn fail(error: &StageError, ready: OwnedFd) -> ! {
    let report = (&error.stage, error.source.raw_os_error().unwrap_or(libc::EIO));
    let text = serde_json::to_vec(&report).unwrap_or_default();
    // Whoever would have read this is gone if it fails.
    let _ = fs::File::from(ready).write_all(&text);
    std::process::exit(126)
}

/// Answers the pipe on which to report readiness; it is the only descriptor besides those of the run.
fn lock_in(setup: &Setup, ends: Ends) -> Result<OwnedFd, (StageError, OwnedFd)> {
    let Ends { log, ready, control } = ends;
    let folders = match isolate(setup) {
        Ok(folders) => folders,
        Err(error) => return Err((error, ready)),
    };
    let ready = place(log, ready, control, folders)?;
    match close_up(setup, &ready) {
        Ok(()) => Ok(ready),
        Err(error) => Err((error, ready)),
    }
}

/// The folders of a run in lite confinement.
struct Folders {
    files: OwnedFd,
    temporary: Option<OwnedFd>,
}

/// Everything that needs descriptors or powers of the host.
fn isolate(setup: &Setup) -> Result<Option<Folders>, StageError> {
    // Fails only for a leader of a process group, which a child is not.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Prefer a run over the node when the host runs out of memory.
    let _ = fs::write("/proc/self/oom_score_adj", "500");
    let process = rustix::fs::open("/proc/self", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .stage("opening `/proc/self`")?;
    let stdin =
        rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).stage("opening `/dev/null`")?;
    sys::place_descriptor(&stdin, 0).stage("replacing standard input")?;

    let (folders, rules) = match setup.confinement {
        Confinement::Full => {
            let spaces = UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS | UnshareFlags::NEWCGROUP;
            sys::unshare(spaces).stage("making mount, ipc, uts and cgroup namespaces")?;
            rustix::system::sethostname(b"run").stage("naming the host")?;
            root::enter(setup)?;
            (None, full_rules(setup)?)
        }
        Confinement::Lite => {
            let files = open_directory(&setup.directory.join("files"))?;
            let temporary = setup.temporary.as_deref().map(open_directory).transpose()?;
            let rules = lite_rules(setup)?;
            (Some(Folders { files, temporary }), rules)
        }
    };
    become_unprivileged(setup, &process)?;
    limit(setup)?;
    apply_landlock(rules, setup.confinement)?;
    Ok(folders)
}

fn open_directory(path: &Utf8Path) -> Result<OwnedFd, StageError> {
    rustix::fs::open(path.as_str(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .stage(format!("opening `{path}`"))
}

/// Gives up every power, and as root the identity as well.
///
/// In full confinement ends in a user namespace of the run's own, so that processes are counted for this run alone, and what is
/// left of the identity has no meaning in any other namespace of the run.
fn become_unprivileged(setup: &Setup, process: &OwnedFd) -> Result<(), StageError> {
    if let Some((user, group)) = setup.unprivileged {
        empty_bounding_set();
        let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(group));
        rustix::thread::set_thread_groups(&[]).stage("leaving the groups of root")?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).stage(format!("becoming group {group}"))?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).stage(format!("becoming user {user}"))?;
        // The change of identity made the process's own `/proc` entries unreachable to itself.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
            .stage("regaining its own `/proc` entries")?;
    }
    if setup.confinement == Confinement::Full {
        // Refused where the number of namespaces is limited: then root's runs share one count, everything else holds.
        if sys::unshare(UnshareFlags::NEWUSER).is_ok() {
            // Others than root are 0 in the namespace that the agent made.
            let (user, group) = setup.unprivileged.unwrap_or((0, 0));
            // Denied already if this is not the first user namespace.
            let _ = write_at(process, "setgroups", "deny");
            write_at(process, "uid_map", &format!("{NOBODY} {user} 1")).stage("mapping the user")?;
            write_at(process, "gid_map", &format!("{NOBODY} {group} 1")).stage("mapping the group")?;
        }
    }
    empty_bounding_set();
    rustix::thread::clear_ambient_capability_set().stage("clearing ambient capabilities")?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .stage("dropping all capabilities")?;
    rustix::thread::set_no_new_privs(true).stage("renouncing new privileges")
}

/// Fails without the power to, and then there is nothing to take away from either.
fn empty_bounding_set() {
    for capability in CapabilitySet::all().iter() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
}

fn write_at(directory: &OwnedFd, name: &str, text: &str) -> io::Result<()> {
    let file = openat(directory, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    fs::File::from(file).write_all(text.as_bytes())
}

fn limit(setup: &Setup) -> Result<(), StageError> {
    let limits = &setup.limits;
    // Far above what may be used: allocators and runtimes reserve much more than they touch, and the agent watches what is
    // really used. This only bounds how fast it can be overtaken.
    let address_space = limits.memory_bytes.saturating_mul(2).saturating_add(4 << 30);
    let mut wanted = vec![
        (Resource::As, address_space),
        (Resource::Core, 0),
        (Resource::Fsize, limits.file_bytes),
        (Resource::Nofile, 1024),
        (Resource::Msgqueue, 0),
        (Resource::Rtprio, 0),
    ];
    if setup.confinement == Confinement::Full {
        wanted.push((Resource::Nproc, u64::from(limits.processes)));
    }
    for (resource, wanted) in wanted {
        let value = rustix::process::getrlimit(resource).maximum.map_or(wanted, |maximum| maximum.min(wanted));
        rustix::process::setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
            .stage(format!("limiting {resource:?}"))?;
    }
    Ok(())
}

type Rules = Vec<(PathFd, BitFlags<AccessFs>)>;

const LANDLOCK: ABI = ABI::V6;

fn readable() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

fn writable_file() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate
}

fn writable_folder() -> BitFlags<AccessFs> {
    AccessFs::from_all(LANDLOCK) & !(AccessFs::Execute | AccessFs::MakeBlock | AccessFs::MakeChar | AccessFs::IoctlDev)
}

fn full_rules(setup: &Setup) -> Result<Rules, StageError> {
    let mut rules = Vec::new();
    let mut allow = |path: &str, access| {
        let path = PathFd::new(path).map_err(io::Error::other).stage(format!("opening `{path}`"))?;
        rules.push((path, access));
        Ok(())
    };
    match setup.program {
        Program::Builtin | Program::Probe => allow("/", readable())?,
        Program::Command { .. } => allow("/", readable() | AccessFs::Execute)?,
    }
    allow("/tmp", writable_folder())?;
    allow("/mnt/tmp", writable_folder())?;
    allow("/dev", AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile)?;
    for file in setup.mounts.iter().filter(|file| file.writable) {
        allow(file.target.as_str(), writable_file())?;
    }
    Ok(rules)
}

fn lite_rules(setup: &Setup) -> Result<Rules, StageError> {
    let mut rules = Vec::new();
    let mut allow = |path: &Utf8Path, access| {
        let path = PathFd::new(path.as_str()).map_err(io::Error::other).stage(format!("opening `{path}`"))?;
        rules.push((path, access));
        Ok(())
    };
    for file in &setup.mounts {
        let is_directory = file.source.is_dir();
        allow(
            &file.source,
            match (file.writable, is_directory) {
                (true, _) => writable_file(),
                (false, true) => readable(),
                (false, false) => AccessFs::ReadFile.into(),
            },
        )?;
    }
    if let Some(temporary) = &setup.temporary {
        allow(temporary, writable_folder())?;
    }
    for device in ["/dev/null", "/dev/zero", "/dev/urandom"] {
        allow(Utf8Path::new(device), AccessFs::ReadFile | AccessFs::WriteFile)?;
    }
    Ok(rules)
}

fn apply_landlock(rules: Rules, confinement: Confinement) -> Result<(), StageError> {
    let apply = || {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .scope(Scope::AbstractUnixSocket | Scope::Signal)?
            .create()?;
        for (path, access) in rules {
            ruleset = ruleset.add_rule(PathBeneath::new(path, access))?;
        }
        ruleset.restrict_self()
    };
    let status = apply().map_err(io::Error::other).stage("applying Landlock")?;
    match (confinement, status.ruleset) {
        // The mounts say the same already.
        (Confinement::Full, _) => Ok(()),
        (Confinement::Lite, RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced) => Ok(()),
        (Confinement::Lite, RulesetStatus::NotEnforced) => {
            Err(io::Error::from_raw_os_error(libc::ENOSYS)).stage("applying Landlock, which this kernel does not offer")
        }
    }
}

/// Puts the run's descriptors in their places and closes all others.
fn place(
    log: OwnedFd,
    ready: OwnedFd,
    control: Option<OwnedFd>,
    folders: Option<Folders>,
) -> Result<OwnedFd, (StageError, OwnedFd)> {
    let (files, temporary) = folders.map_or((None, None), |folders| (Some(folders.files), folders.temporary));
    let wanted = [
        (Some(&log), 1),
        (Some(&log), 2),
        (control.as_ref(), CONTROL),
        (files.as_ref(), FILES),
        (temporary.as_ref(), TEMPORARY),
        (Some(&ready), READY),
    ];
    // First out of the way of the places, then into them.
    let moved: io::Result<Vec<(OwnedFd, i32)>> = wanted
        .into_iter()
        .filter_map(|(descriptor, place)| descriptor.map(|descriptor| (descriptor, place)))
        .map(|(descriptor, place)| Ok((rustix::io::fcntl_dupfd_cloexec(descriptor, READY + 1)?, place)))
        .collect();
    let moved = match moved {
        Ok(moved) => moved,
        Err(source) => return Err((StageError { stage: "moving descriptors".into(), source }, ready)),
    };
    // From here on the numbers below belong to the places, so nothing may close them by their former owners.
    for descriptor in [Some(log), Some(ready), control, files, temporary].into_iter().flatten() {
        std::mem::forget(descriptor);
    }
    let fill = || {
        sys::close_range(CONTROL, READY)?;
        for (descriptor, place) in &moved {
            sys::place_descriptor(descriptor, *place)?;
        }
        Ok(())
    };
    let filled: io::Result<()> = fill();
    // Closed with all others.
    std::mem::forget(moved);
    let closed = filled.and_then(|()| sys::close_range(READY + 1, i32::MAX));
    let ready = sys::adopt_descriptor(READY);
    match closed {
        Ok(()) => Ok(ready),
        Err(source) => Err((StageError { stage: "placing descriptors".into(), source }, ready)),
    }
}

/// The last steps, after which little is possible any more.
fn close_up(setup: &Setup, ready: &OwnedFd) -> Result<(), StageError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).stage("tying itself to its agent")?;
    // An agent that died before that has left nobody at the other end.
    let mut other_end = [PollFd::new(ready, PollFlags::OUT)];
    poll(&mut other_end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).stage("looking for its agent")?;
    if other_end[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
        std::process::exit(1);
    }
    let builtin = match setup.program {
        Program::Builtin | Program::Probe => true,
        Program::Command { .. } => {
            sys::close_from_on_exec(CONTROL).stage("closing descriptors on exec")?;
            false
        }
    };
    let pid = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
    filter::apply(filter::Subject { confinement: setup.confinement, builtin, pid }).stage("filtering system calls")
}
