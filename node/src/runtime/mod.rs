//! Where an algorithm runs, and what the node may do with a run.
//!
//! * [`Runtime`] starts runs and finds them again after a restart; [`RunHandle`] is one run.
//! * [`stream`]: what connects the node to a run, whatever carries it.
//! * [`thread`]: runs inside this process, for tests and in-process federations.
//! * [`crate::sandbox`]: runs as confined processes of their own; the default on Linux.
//!
//! A run has no network. It reaches the node's gateway ([`RunHandle::accept_gateway`]), the addresses for which the node
//! opened a listener ([`RunHandle::listen`]), and is reached by what the node connects ([`RunHandle::connect`]).

pub mod stream;
pub mod thread;

use std::{collections::BTreeMap, fmt, io, net::Ipv4Addr, net::SocketAddrV4, sync::Arc, time::Duration};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use twinmesh_protocol::{id::RunId, time::Time};

pub use stream::{RunListener, RunStream};

/// The address of the node's gateway as a run in a network namespace sees it.
pub const GATEWAY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 8080);

/// The variable that names the control descriptor (plain decimal) in runtimes whose runs have no network namespace.
pub const CONTROL_VARIABLE: &str = "TWINMESH_CONTROL_FD";

/// Starts runs, and finds again what a former process of this node started.
#[async_trait]
pub trait Runtime: Send + Sync + fmt::Debug {
    /// How strongly runs are confined here.
    fn strength(&self) -> &Strength;

    /// The paths under which a run will find its files.
    ///
    /// Asked before [`RunSpec::environment`] is filled in, because these paths appear in it. Looks only at
    /// `run_id`, `directory`, `files` and `temporary`.
    fn layout(&self, spec: &RunSpec) -> Layout;

    /// Starts a run and returns once the algorithm itself has begun.
    ///
    /// `spec.directory` is created if need be and must not have been used by another attempt. When this fails, nothing
    /// runs.
    async fn start(&self, spec: RunSpec) -> Result<Arc<dyn RunHandle>, RuntimeError>;

    /// Finds the run of an earlier [`start`](Self::start) by its directory, also after a restart of the node.
    ///
    /// A run that ended meanwhile yields a handle whose [`wait`](RunHandle::wait) returns at once. `None` means that nothing
    /// runs there and that no exit was recorded: the run never began, or it was killed together with its agent.
    ///
    /// # Errors
    ///
    /// When that cannot be told at the moment; the run may be alive.
    async fn attach(&self, directory: &Utf8Path) -> Result<Option<Arc<dyn RunHandle>>, RuntimeError>;

    /// Whether the algorithm may have begun in the directory of a run that [`attach`](Self::attach) does not find. If not, the
    /// node died in the middle of the start, and the attempt does not count.
    fn has_begun(&self, directory: &Utf8Path) -> bool;
}

/// One run. All methods may be called concurrently; dropping every handle leaves the run running.
#[async_trait]
pub trait RunHandle: Send + Sync + fmt::Debug {
    /// Waits until the run has ended. May be called any number of times; the answer stays the same.
    async fn wait(&self) -> Exit;

    /// Ends the run with all its processes. Returns once that was asked for; [`wait`](Self::wait) tells when it is done.
    async fn kill(&self);

    /// Waits for the run's next connection to its gateway.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`] once the run has ended. For a run without network this waits for that end.
    async fn accept_gateway(&self) -> io::Result<RunStream>;

    /// Opens a listener at an address that then exists for this run only. Dropping the listener closes it.
    ///
    /// Addresses lie in 127.0.0.0/8 or 100.64.0.0/10.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`] when the address is listened at already, [`io::ErrorKind::NotConnected`] once the run has
    /// ended.
    async fn listen(&self, address: SocketAddrV4) -> io::Result<RunListener>;

    /// Connects to a port on which the run listens; `source` is the address it sees as its peer's.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ConnectionRefused`] when the run does not listen there, [`io::ErrorKind::NotConnected`] once the run
    /// has ended.
    async fn connect(&self, source: Option<Ipv4Addr>, port: u16) -> io::Result<RunStream>;

    /// Reads what the run wrote as its result; complete only after [`wait`](Self::wait).
    async fn output(&self) -> Result<Vec<u8>, OutputError>;

    /// Reads what the run printed on both streams: at most [`Limits::log_bytes`] and one line that says how much was cut out
    /// of the middle.
    async fn log(&self) -> io::Result<Vec<u8>>;
}

/// Everything that a runtime needs to know about one attempt at a run.
#[derive(Debug, Clone)]
pub struct RunSpec {
    pub run_id: RunId,
    /// A host directory of this attempt alone. The runtime keeps there what it needs to find the run again; the caller removes
    /// it when the outcome is safe elsewhere.
    pub directory: Utf8PathBuf,
    pub entry: Entry,
    /// The complete environment, as the algorithm shall see it; nothing is inherited. Runtimes that have a control descriptor add
    /// [`CONTROL_VARIABLE`].
    pub environment: BTreeMap<String, String>,
    pub files: Vec<RunFile>,
    pub input: Vec<u8>,
    pub token: Secret,
    /// The host directory that the runs of a job share as their temporary folder; created if need be. `None` gives the run
    /// a folder of its own.
    pub temporary: Option<Utf8PathBuf>,
    pub limits: Limits,
    /// Whether there is a gateway, and whether [`RunHandle::listen`] and [`RunHandle::connect`] work.
    pub network: bool,
    /// How long a run goes on while no node is attached to it.
    pub orphan_grace: Duration,
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The algorithms that are part of this program.
    Builtin,
    /// A command of an unpacked image.
    Command {
        /// The host directory that holds the image's root file system. It is mounted read-only.
        root: Utf8PathBuf,
        /// Program and arguments; a program without `/` is looked for along `PATH` of the run's environment.
        argv: Vec<String>,
        working_directory: Utf8PathBuf,
    },
}

/// One thing that a run may read.
#[derive(Debug, Clone)]
pub struct RunFile {
    /// Where an image expects it: an absolute path below `/mnt`, such as `/mnt/data/patients.csv`. The path that a run is
    /// really to use is the one in [`Layout::files`].
    pub path: Utf8PathBuf,
    pub source: FileSource,
}

/// Where the content of a [`RunFile`] comes from.
#[derive(Clone)]
pub enum FileSource {
    /// A file or a directory of the host.
    Host(Utf8PathBuf),
    Bytes(Vec<u8>),
}

impl fmt::Debug for FileSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(path) => formatter.debug_tuple("Host").field(path).finish(),
            Self::Bytes(bytes) => write!(formatter, "Bytes([{} bytes redacted])", bytes.len()),
        }
    }
}

/// A text that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[redacted]")
    }
}

/// The paths under which a run finds its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub input: Utf8PathBuf,
    pub output: Utf8PathBuf,
    pub token: Utf8PathBuf,
    pub temporary: Utf8PathBuf,
    /// One path for each of [`RunSpec::files`], in the same order.
    pub files: Vec<Utf8PathBuf>,
    /// The gateway's address, or `None` where the run reaches it through its control descriptor.
    pub gateway: Option<SocketAddrV4>,
}

/// What a run may use. Every limit always applies, as far as the runtime can enforce it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Private memory of all processes of the run together.
    pub memory_bytes: u64,
    /// Processes and threads together.
    pub processes: u32,
    pub wall_time: Duration,
    /// Processor time of all processes of the run together; `None` for no limit of its own.
    pub cpu_time: Option<Duration>,
    /// The size of any one file that the run writes.
    pub file_bytes: u64,
    pub output_bytes: u64,
    pub log_bytes: u64,
    /// The content of each of the temporary folders.
    pub temporary_bytes: u64,
}

impl Default for Limits {
    /// What suits an analysis of a table of ordinary size.
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            processes: 256,
            wall_time: Duration::from_secs(6 * 60 * 60),
            cpu_time: None,
            file_bytes: 1 << 30,
            output_bytes: 64 << 20,
            log_bytes: 1 << 20,
            temporary_bytes: 512 << 20,
        }
    }
}

/// How a run ended, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    pub cause: ExitCause,
    pub finished_at: Time,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitCause {
    /// The algorithm ended by itself; 0 says that it succeeded.
    Code(i32),
    /// A signal ended it that was neither [`RunHandle::kill`] nor a limit: a crash, or somebody outside.
    Signal(i32),
    LimitExceeded(Limit),
    /// [`RunHandle::kill`] was called.
    Killed,
    /// No node attached to it for [`RunSpec::orphan_grace`].
    Orphaned,
    /// It is gone and left no record: its agent was killed, and the run with it.
    Vanished,
}

impl ExitCause {
    /// Whether something outside the run and outside this node ended it, so that another attempt is worth while.
    ///
    /// A run that crashes by itself receives another signal than SIGKILL.
    pub fn is_from_outside(self) -> bool {
        const SIGKILL: i32 = 9;
        match self {
            Self::Signal(signal) => signal == SIGKILL,
            Self::Vanished | Self::Orphaned => true,
            Self::Code(_) | Self::LimitExceeded(_) | Self::Killed => false,
        }
    }
}

impl fmt::Display for ExitCause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(formatter, "ended with exit code {code}"),
            Self::Signal(signal) => write!(formatter, "was ended by signal {signal}"),
            Self::LimitExceeded(limit) => write!(formatter, "was ended because it exceeded its limit of {limit}"),
            Self::Killed => formatter.write_str("was killed by the node"),
            Self::Orphaned => formatter.write_str("was ended because no node attached to it"),
            Self::Vanished => formatter.write_str("disappeared together with its agent"),
        }
    }
}

/// Which of the [`Limits`] ended a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Memory,
    Processes,
    WallTime,
    CpuTime,
    Temporary,
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Memory => "memory",
            Self::Processes => "processes",
            Self::WallTime => "wall time",
            Self::CpuTime => "processor time",
            Self::Temporary => "temporary space",
        })
    }
}

/// How strongly a runtime confines runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strength {
    /// Own namespaces, Landlock, seccomp, limits: nothing of the host is visible.
    Full,
    /// Landlock, seccomp and limits only. Runs built-in algorithms only.
    Lite { reason: String },
    /// No confinement: the run is part of this process.
    Thread,
}

impl fmt::Display for Strength {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => formatter.write_str("full"),
            Self::Lite { reason } => write!(formatter, "lite ({reason})"),
            Self::Thread => formatter.write_str("none (runs are threads of this process)"),
        }
    }
}

/// Why a run could not be started or found.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The machine does not offer what the node's configuration demands.
    #[error("the sandbox offers `{found}` here but at least `{wanted}` is demanded")]
    TooWeak { wanted: String, found: String },
    #[error("cannot prepare `{path}` for a run")]
    Prepare { path: Utf8PathBuf, source: io::Error },
    #[error("cannot run `{program}` as the init of a sandbox")]
    Spawn { program: Utf8PathBuf, source: io::Error },
    /// `stage` says what the init was doing.
    #[error("cannot start the run: {stage}")]
    Start { stage: String, source: io::Error },
    #[error(
        "`{path}` is not a path at which a run can be given a file: it must be absolute, below `/mnt`, and without `..`"
    )]
    FilePath { path: Utf8PathBuf },
    #[error("this runtime (`{strength}`) runs built-in algorithms only; images need the full sandbox")]
    BuiltinOnly { strength: String },
    #[error("another run uses `{directory}` already")]
    DirectoryInUse { directory: Utf8PathBuf },
    #[error("cannot talk to the run in `{directory}`")]
    Attach { directory: Utf8PathBuf, source: io::Error },
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("the result is larger than the {limit} bytes allowed")]
    TooLarge { limit: u64 },
    #[error("`{path}` is not the file that the node made for the result")]
    NotOurs { path: Utf8PathBuf },
    #[error("cannot read the result from `{path}`")]
    Read { path: Utf8PathBuf, source: io::Error },
}
