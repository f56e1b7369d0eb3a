//! The [`Runtime`] of confined processes.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use camino::{Utf8Component, Utf8Path, Utf8PathBuf};
use rustix::{
    fs::MemfdFlags,
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, bind, listen, socket_with},
    process::{Gid, Uid},
};
use serde::{Deserialize, Serialize};
use twinmesh_protocol::id::RunId;

use super::{
    BEGUN_FILE, INIT, OUTPUT_FILE, RUN_FILE, confine,
    handle::{Beginning, Handle, Output, Parts, connect_agent, is_gone, open_directory, read_record, socket_address},
    message::{self, Confinement, Mount, Program, Request, Setup},
};
use crate::runtime::{
    Entry, FileSource, GATEWAY, Layout, Limits, OutputError, RunFile, RunHandle, RunSpec, Runtime, RuntimeError,
    Secret, Strength,
};

/// How long an agent may take until the run begins: longer than the agent itself waits.
const START_TIMEOUT: Duration = Duration::from_secs(40);

/// How a sandbox is set up on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The program to execute as agent; its `main` must begin with [`intercept`](super::intercept).
    pub program: Utf8PathBuf,
    /// The user that runs become when the node is root.
    pub user: u32,
    /// The group that runs become when the node is root.
    pub group: u32,
    /// Whether to make no namespaces even where they are possible.
    pub lite: bool,
    /// Where probes keep their files while they try; the system's temporary folder if absent.
    pub scratch: Option<Utf8PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        // 65534 is `nobody` on every distribution.
        Self { program: "/proc/self/exe".into(), user: 65534, group: 65534, lite: false, scratch: None }
    }
}

impl Settings {
    /// Whom runs become, if this process has the powers of root and can give them up for that.
    ///
    /// Root of a user namespace that knows no other user is an ordinary user in truth.
    fn unprivileged(&self) -> Option<(u32, u32)> {
        let knows = |file: &str, id: u32| fs::read_to_string(file).is_ok_and(|map| is_mapped(&map, id));
        let can_change = rustix::process::geteuid().is_root()
            && knows("/proc/self/uid_map", self.user)
            && knows("/proc/self/gid_map", self.group);
        can_change.then_some((self.user, self.group))
    }
}

/// Whether a user namespace knows an identity; each line of its map is the first one inside, the first one outside, how many.
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|number| number.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first.saturating_add(count)).contains(&u64::from(id)))
    })
}

/// The least confinement with which a node is content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Minimum {
    Lite,
    Full,
}

/// What a machine offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Full,
    /// `reason` says what full confinement failed at.
    Lite {
        reason: String,
    },
    None {
        reason: String,
    },
}

impl std::fmt::Display for Probe {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full => formatter.write_str("full"),
            Self::Lite { reason } => write!(formatter, "lite ({reason})"),
            Self::None { reason } => write!(formatter, "none ({reason})"),
        }
    }
}

/// Finds out what is possible here by starting runs that do nothing.
pub async fn probe(settings: &Settings) -> Probe {
    let full = if settings.lite {
        Err("the configuration asks for no namespaces".to_owned())
    } else {
        try_confinement(settings, Confinement::Full).await
    };
    let Err(reason) = full else { return Probe::Full };
    match try_confinement(settings, Confinement::Lite).await {
        Ok(()) => Probe::Lite { reason },
        Err(lite) => Probe::None { reason: format!("{reason}; without namespaces: {lite}") },
    }
}

/// Runs algorithms as confined processes.
#[derive(Debug)]
pub struct SandboxRuntime {
    settings: Settings,
    confinement: Confinement,
    strength: Strength,
}

impl SandboxRuntime {
    /// Probes the machine.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::TooWeak`] if it offers less than `minimum`.
    pub async fn new(settings: Settings, minimum: Minimum) -> Result<Self, RuntimeError> {
        let found = probe(&settings).await;
        let (confinement, strength) = match &found {
            Probe::Full => (Confinement::Full, Strength::Full),
            Probe::Lite { reason } if minimum == Minimum::Lite => {
                (Confinement::Lite, Strength::Lite { reason: reason.clone() })
            }
            Probe::Lite { .. } | Probe::None { .. } => {
                let wanted = match minimum {
                    Minimum::Full => "full",
                    Minimum::Lite => "lite",
                };
                return Err(RuntimeError::TooWeak { wanted: wanted.into(), found: found.to_string() });
            }
        };
        Ok(Self { settings, confinement, strength })
    }

    fn attach_blocking(directory: &Utf8Path) -> Result<Option<Found>, RuntimeError> {
        let failed = |source| RuntimeError::Attach { directory: directory.to_owned(), source };
        let text = match fs::read(directory.join(RUN_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        // A node that was killed while it wrote this had not started the run.
        let Ok(about) = serde_json::from_slice::<About>(&text) else { return Ok(None) };
        let output = match Output::reopen(directory, about.output_bytes) {
            Ok(output) => output,
            // A node that was killed before it made this had not started the run.
            Err(OutputError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound
                    && connect_agent(directory).is_err_and(|error| is_gone(&error)) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(failed(io::Error::other(error))),
        };
        let parts = Parts { directory: directory.to_owned(), output, log_bytes: about.log_bytes };
        if let Some(exit) = read_record(directory).map_err(failed)? {
            return Ok(Some(Found::Ended(Handle::ended(parts, exit))));
        }
        match connect_agent(directory) {
            Ok(socket) => Ok(Some(Found::Alive(parts, socket))),
            // It may have ended between the two looks.
            Err(error) if is_gone(&error) => {
                Ok(read_record(directory).map_err(failed)?.map(|exit| Found::Ended(Handle::ended(parts, exit))))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

enum Found {
    Ended(Handle),
    Alive(Parts, OwnedFd),
}

#[async_trait]
impl Runtime for SandboxRuntime {
    fn strength(&self) -> &Strength {
        &self.strength
    }

    fn layout(&self, spec: &RunSpec) -> Layout {
        layout(&self.settings, self.confinement, spec)
    }

    async fn start(&self, spec: RunSpec) -> Result<Arc<dyn RunHandle>, RuntimeError> {
        if self.confinement == Confinement::Lite && spec.entry != Entry::Builtin {
            return Err(RuntimeError::BuiltinOnly { strength: self.strength.to_string() });
        }
        let program = match &spec.entry {
            Entry::Builtin => Program::Builtin,
            Entry::Command { root, argv, working_directory } => Program::Command {
                root: root.clone(),
                argv: argv.clone(),
                working_directory: working_directory.clone(),
            },
        };
        let handle = start(&self.settings, self.confinement, spec, program).await?;
        Ok(Arc::new(handle))
    }

    async fn attach(&self, directory: &Utf8Path) -> Result<Option<Arc<dyn RunHandle>>, RuntimeError> {
        attach(directory).await
    }

    fn has_begun(&self, directory: &Utf8Path) -> bool {
        has_begun(directory)
    }
}

/// Whether the algorithm may have begun; shared by all runtimes that keep a directory.
pub(crate) fn has_begun(directory: &Utf8Path) -> bool {
    // What cannot be looked at counts.
    fs::exists(directory.join(BEGUN_FILE)).unwrap_or(true)
}

/// Finds a run by its directory; shared by all runtimes that keep one.
pub(crate) async fn attach(directory: &Utf8Path) -> Result<Option<Arc<dyn RunHandle>>, RuntimeError> {
    let owned = directory.to_owned();
    let failed = |source| RuntimeError::Attach { directory: directory.to_owned(), source };
    let found = tokio::task::spawn_blocking(move || SandboxRuntime::attach_blocking(&owned))
        .await
        .map_err(|error| failed(io::Error::other(error)))??;
    let handle = match found {
        None => return Ok(None),
        Some(Found::Ended(handle)) => handle,
        Some(Found::Alive(parts, socket)) => {
            let begin = tokio::time::timeout(START_TIMEOUT, Handle::begin(parts, socket));
            match begin.await.map_err(|error| failed(error.into()))?.map_err(failed)? {
                Beginning::Started(handle) => handle,
                // It ended while it was being greeted.
                Beginning::Failed { .. } | Beginning::Silent => {
                    let owned = directory.to_owned();
                    let ended = tokio::task::spawn_blocking(move || SandboxRuntime::attach_blocking(&owned))
                        .await
                        .map_err(|error| failed(io::Error::other(error)))??;
                    match ended {
                        Some(Found::Ended(handle)) => handle,
                        // Nobody must take it for gone.
                        Some(Found::Alive(..)) => return Err(failed(io::ErrorKind::ConnectionReset.into())),
                        None => return Ok(None),
                    }
                }
            }
        }
    };
    Ok(Some(Arc::new(handle)))
}

/// What a restarted node must know about a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct About {
    run_id: RunId,
    output_bytes: u64,
    log_bytes: u64,
}

async fn try_confinement(settings: &Settings, confinement: Confinement) -> Result<(), String> {
    let directory = match &settings.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let directory = directory.map_err(|error| format!("cannot make a temporary directory: {error}"))?;
    let path = Utf8Path::from_path(directory.path()).ok_or("the temporary directory's name is not UTF-8")?;
    let spec = RunSpec {
        run_id: RunId::new(0),
        directory: path.join("probe"),
        entry: Entry::Builtin,
        environment: Default::default(),
        files: Vec::new(),
        input: Vec::new(),
        token: Secret::new(""),
        temporary: None,
        limits: Limits::default(),
        network: true,
        orphan_grace: Duration::ZERO,
    };
    let handle = start(settings, confinement, spec, Program::Probe).await.map_err(|error| chain(&error))?;
    match handle.wait().await.cause {
        crate::runtime::ExitCause::Code(0) => Ok(()),
        other => Err(format!("a run that does nothing {other}")),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}

async fn start(
    settings: &Settings,
    confinement: Confinement,
    spec: RunSpec,
    program: Program,
) -> Result<Handle, RuntimeError> {
    let directory = spec.directory.clone();
    let owned = settings.clone();
    let (parts, setup, listener) = tokio::task::spawn_blocking(move || prepare(&owned, confinement, spec, program))
        .await
        .map_err(|error| RuntimeError::Prepare { path: directory.clone(), source: io::Error::other(error) })??;
    let (socket, mut agent) = spawn(settings, &directory)?;
    let begun = match hand_over(&socket, setup, listener) {
        Ok(()) => tokio::time::timeout(START_TIMEOUT, Handle::begin(parts, socket)).await,
        Err(error) => Ok(Err(error)),
    };
    if !matches!(begun, Ok(Ok(Beginning::Started(_)))) {
        // Whoever tries again must not meet what is left of this attempt: with the agent goes the run, which is tied to it.
        // It fails only if the agent has ended already.
        let _ = agent.kill().await;
    } else {
        // So that no zombie is left of it; the outcome comes another way.
        tokio::spawn(async move { agent.wait().await });
    }
    let failed = |source| RuntimeError::Start { stage: "talking to its agent".into(), source };
    match begun.map_err(|late| failed(late.into()))?.map_err(failed)? {
        Beginning::Started(handle) => Ok(handle),
        Beginning::Failed { stage, source } => Err(RuntimeError::Start { stage, source }),
        Beginning::Silent => Err(RuntimeError::Start {
            stage: format!("`{}` ended at once; does it know how to be the agent of a run?", settings.program),
            source: io::ErrorKind::UnexpectedEof.into(),
        }),
    }
}

/// Executes an agent, and answers the socket at which it listens to this node.
fn spawn(settings: &Settings, directory: &Utf8Path) -> Result<(OwnedFd, tokio::process::Child), RuntimeError> {
    let failed = |source| RuntimeError::Spawn { program: settings.program.clone(), source };
    let (node_end, agent_end) = message::packet_pair().map_err(failed)?;
    let errors = File::options().create(true).append(true).open(directory.join("agent.err")).map_err(failed)?;
    let agent = tokio::process::Command::new(&settings.program)
        .arg0(INIT.0)
        .arg(INIT.1)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(agent_end))
        .stdout(Stdio::null())
        .stderr(Stdio::from(errors))
        .spawn()
        .map_err(failed)?;
    Ok((node_end, agent))
}

/// Gives an agent its orders. If the node dies before this, the agent ends without having begun anything; if after, it goes on.
fn hand_over(agent: &OwnedFd, setup: OwnedFd, listener: OwnedFd) -> io::Result<()> {
    message::send(agent, &Request::Start, &[listener.as_fd(), setup.as_fd()], SendFlags::empty())
}

/// Makes the run's directory with all that the run reads.
fn prepare(
    settings: &Settings,
    confinement: Confinement,
    spec: RunSpec,
    program: Program,
) -> Result<(Parts, OwnedFd, OwnedFd), RuntimeError> {
    let directory = &spec.directory;
    let stage = Staging::new(settings, directory)?;
    stage.claim(&spec)?;
    let output = stage.make_output()?;
    let layout = layout(settings, confinement, &spec);
    let own = |name: &str, target: &Utf8PathBuf, writable| Mount {
        source: directory.join("files").join(name),
        target: target.clone(),
        writable,
    };
    let mut mounts = vec![
        own("input", &layout.input, false),
        own("token", &layout.token, false),
        own("output", &layout.output, true),
    ];
    for (index, (file, target)) in spec.files.iter().zip(&layout.files).enumerate() {
        check_path(&file.path)?;
        let source = match &file.source {
            FileSource::Bytes(bytes) => stage.give_copy(index, file, bytes)?,
            FileSource::Host(path) if !is_copied(path, settings, confinement) => path.clone(),
            FileSource::Host(path) => stage.copy(index, file, path)?,
        };
        mounts.push(Mount { source, target: target.clone(), writable: false });
    }
    let temporary = match (&spec.temporary, confinement) {
        (Some(shared), _) => Some(stage.give_directory(shared)?),
        (None, Confinement::Lite) => Some(stage.give_directory(&directory.join("temporary"))?),
        (None, Confinement::Full) => None,
    };

    let parts = Parts {
        directory: directory.clone(),
        output: Output::new(output, directory.join(OUTPUT_FILE), spec.limits.output_bytes),
        log_bytes: spec.limits.log_bytes,
    };
    let listener = listen_for_nodes(directory)
        .map_err(|source| RuntimeError::Prepare { path: directory.join(super::SOCKET_FILE), source })?;
    let setup = Setup {
        directory: directory.clone(),
        confinement,
        unprivileged: settings.unprivileged(),
        program,
        environment: spec.environment,
        mounts,
        temporary,
        limits: spec.limits,
        network: spec.network,
        orphan_grace: spec.orphan_grace,
    };
    let setup = in_memory(&setup).map_err(|source| RuntimeError::Prepare { path: directory.clone(), source })?;
    Ok((parts, setup, listener))
}

fn in_memory(setup: &Setup) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("setup", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(setup)?)?;
    Ok(file.into())
}

/// Opens the socket at which nodes to come find the agent. Listening begins before the agent exists, so that there is no moment
/// in which a run lives that cannot be found.
pub(crate) fn listen_for_nodes(directory: &Utf8Path) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &socket_address(&directory)?)?;
    listen(&socket, 8)?;
    Ok(socket)
}

fn layout(settings: &Settings, confinement: Confinement, spec: &RunSpec) -> Layout {
    match confinement {
        Confinement::Full => {
            let task = Utf8PathBuf::from(format!("/mnt/data/task-{:09}", spec.run_id.get()));
            Layout {
                input: task.join("input"),
                output: task.join("output"),
                token: task.join("token"),
                temporary: "/mnt/tmp".into(),
                files: spec.files.iter().map(|file| file.path.clone()).collect(),
                gateway: Some(GATEWAY),
            }
        }
        Confinement::Lite => {
            let files = confine::lite_files();
            let place = |(index, file): (usize, &RunFile)| match &file.source {
                FileSource::Host(path) if !is_copied(path, settings, confinement) => path.clone(),
                FileSource::Host(_) | FileSource::Bytes(_) => files.join(copy_name(index, file)),
            };
            Layout {
                input: files.join("input"),
                output: files.join("output"),
                token: files.join("token"),
                temporary: confine::lite_temporary(),
                files: spec.files.iter().enumerate().map(place).collect(),
                gateway: None,
            }
        }
    }
}

/// Whether a run is given a copy of a host's file, because root may read it but the run may not.
fn is_copied(path: &Utf8Path, settings: &Settings, confinement: Confinement) -> bool {
    if settings.unprivileged().is_none() {
        return false;
    }
    let Ok(metadata) = fs::metadata(path) else { return false };
    let all_may_read = metadata.permissions().mode() & 0o004 != 0;
    // Without a mount the directories above count as well.
    metadata.is_file() && (!all_may_read || confinement == Confinement::Lite)
}

/// Where a run's copy of a file lies, relative to its files; keeps the name, because algorithms look at its ending.
pub(crate) fn copy_name(index: usize, file: &RunFile) -> Utf8PathBuf {
    Utf8Path::new("data").join(index.to_string()).join(file.path.file_name().unwrap_or("file"))
}

/// Refuses paths at which a file would hide, or lie in, what is the run's own.
pub(crate) fn check_path(path: &Utf8Path) -> Result<(), RuntimeError> {
    let mut components = path.components();
    let is_below = components.next() == Some(Utf8Component::RootDir)
        && components.next() == Some(Utf8Component::Normal("mnt"))
        && components.clone().next().is_some_and(|first| first != Utf8Component::Normal("tmp"))
        && components.all(|component| matches!(component, Utf8Component::Normal(_)));
    if is_below && path != "/mnt/data" { Ok(()) } else { Err(RuntimeError::FilePath { path: path.to_owned() }) }
}

/// Puts files into a run's directory, such that the run can read them and others cannot.
pub(crate) struct Staging<'a> {
    directory: &'a Utf8Path,
    /// Whom to give files to, if the node is root.
    owner: Option<(Uid, Gid)>,
}

impl<'a> Staging<'a> {
    fn new(settings: &Settings, directory: &'a Utf8Path) -> Result<Self, RuntimeError> {
        let owner = settings.unprivileged().map(|(user, group)| (Uid::from_raw(user), Gid::from_raw(group)));
        Self::with_owner(directory, owner)
    }

    pub(crate) fn with_owner(directory: &'a Utf8Path, owner: Option<(Uid, Gid)>) -> Result<Self, RuntimeError> {
        let staging = Self { directory, owner };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| RuntimeError::Prepare { path: directory.to_owned(), source })?;
        Ok(staging)
    }

    fn failed(&self, name: impl AsRef<Utf8Path>, source: io::Error) -> RuntimeError {
        RuntimeError::Prepare { path: self.directory.join(name), source }
    }

    /// Takes the directory for a run, and puts down what every run reads.
    pub(crate) fn claim(&self, spec: &RunSpec) -> Result<(), RuntimeError> {
        let (output_bytes, log_bytes) = (spec.limits.output_bytes, spec.limits.log_bytes);
        let about = serde_json::to_vec(&About { run_id: spec.run_id, output_bytes, log_bytes })
            .map_err(|error| self.failed(RUN_FILE, error.into()))?;
        self.write_new(RUN_FILE, &about).map_err(|error| match error {
            RuntimeError::Prepare { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                RuntimeError::DirectoryInUse { directory: self.directory.to_owned() }
            }
            other => other,
        })?;
        self.directory("files")?;
        self.give_file("files/input", &spec.input)?;
        self.give_file("files/token", spec.token.expose().as_bytes())
    }

    fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), RuntimeError> {
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        options
            .open(self.directory.join(name))
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| self.failed(name, error))
    }

    fn give(&self, path: &Utf8Path) -> Result<(), RuntimeError> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        rustix::fs::chown(path.as_str(), Some(user), Some(group)).map_err(|error| self.failed(path, error.into()))
    }

    fn directory(&self, name: impl AsRef<Utf8Path>) -> Result<(), RuntimeError> {
        let path = self.directory.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|error| self.failed(&path, error))?;
        self.give(&path)
    }

    /// Makes a directory that may exist already, because other runs share it.
    pub(crate) fn give_directory(&self, path: &Utf8Path) -> Result<Utf8PathBuf, RuntimeError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| self.failed(path, error))?;
        self.give(path)?;
        Ok(path.to_owned())
    }

    fn give_file(&self, name: impl AsRef<Utf8Path>, bytes: &[u8]) -> Result<(), RuntimeError> {
        let name = name.as_ref();
        self.write_new(name.as_str(), bytes)?;
        self.give(&self.directory.join(name))
    }

    pub(crate) fn make_output(&self) -> Result<File, RuntimeError> {
        let path = self.directory.join(OUTPUT_FILE);
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| self.failed(OUTPUT_FILE, error))?;
        self.give(&path)?;
        Ok(file)
    }

    /// Makes the run's copy of a file, and answers where it is.
    pub(crate) fn give_copy(&self, index: usize, file: &RunFile, bytes: &[u8]) -> Result<Utf8PathBuf, RuntimeError> {
        let name = self.copy_place(index, file)?;
        self.give_file(&name, bytes)?;
        Ok(self.directory.join(name))
    }

    /// Makes the run's copy of a file of the host, and answers where it is.
    fn copy(&self, index: usize, file: &RunFile, path: &Utf8Path) -> Result<Utf8PathBuf, RuntimeError> {
        let copy = self.directory.join(self.copy_place(index, file)?);
        fs::copy(path, &copy).map_err(|error| self.failed(path, error))?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o400)).map_err(|error| self.failed(&copy, error))?;
        self.give(&copy)?;
        Ok(copy)
    }

    fn copy_place(&self, index: usize, file: &RunFile) -> Result<Utf8PathBuf, RuntimeError> {
        let name = Utf8Path::new("files").join(copy_name(index, file));
        if !self.directory.join("files/data").exists() {
            self.directory("files/data")?;
        }
        if let Some(parent) = name.parent() {
            self.directory(parent)?;
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_tells_which_identities_exist() {
        assert!(is_mapped("         0          0 4294967295\n", 65534));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65534));
        assert!(!is_mapped("0 1000 1\n", 65534));
        assert!(!is_mapped("", 0));
    }

    #[test]
    fn files_are_placed_below_mnt_only() {
        for path in ["/mnt/data/a.csv", "/mnt/a.csv", "/mnt/data/folder/a.csv"] {
            assert!(check_path(Utf8Path::new(path)).is_ok(), "{path}");
        }
        for path in ["/mnt", "/mnt/", "/mnt/data", "/mnt/tmp/a", "/etc/passwd", "/mnt/../etc", "mnt/a", "", "/"] {
            assert!(check_path(Utf8Path::new(path)).is_err(), "{path}");
        }
    }
}
