//! The node's end of a run: talks to its agent.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::FileExt as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot, watch},
    task::AbortHandle,
};
use twinmesh_protocol::time::Time;

use super::{
    EXIT_FILE, LOG_FILE, OUTPUT_FILE, SOCKET_FILE,
    message::{self, Received, Report, Request},
    sys,
};
use crate::runtime::{Exit, ExitCause, OutputError, RunHandle, RunListener, RunStream};

/// How many connections may wait to be accepted, as a listening socket would hold.
const BACKLOG: usize = 128;

/// How many requests may wait for the link; each caller waits for its answer, so this bounds nothing that matters.
const REQUESTS: usize = 32;

/// How long an agent may take to answer. It answers at once unless the machine is overloaded.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a handle that another one replaced looks whether the run has ended.
const RECORD_INTERVAL: Duration = Duration::from_millis(250);

/// A run, seen from the node.
pub(crate) struct Handle {
    directory: Utf8PathBuf,
    output: Output,
    log_bytes: u64,
    requests: mpsc::Sender<Order>,
    exit: watch::Receiver<Option<Exit>>,
    listener: watch::Receiver<Option<Arc<TcpListener>>>,
    gateway: Mutex<mpsc::Receiver<RunStream>>,
    link: Option<AbortHandle>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handle").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            link.abort();
        }
    }
}

/// What is known of a run besides how to reach it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) directory: Utf8PathBuf,
    pub(crate) output: Output,
    pub(crate) log_bytes: u64,
}

/// How the run began, as far as the agent tells.
pub(crate) enum Beginning {
    Started(Handle),
    Failed {
        stage: String,
        source: io::Error,
    },
    /// The agent was gone before it said anything.
    Silent,
}

impl Handle {
    /// The handle of a run that has ended.
    pub(crate) fn ended(parts: Parts, exit: Exit) -> Self {
        Self {
            directory: parts.directory,
            output: parts.output,
            log_bytes: parts.log_bytes,
            requests: mpsc::channel(1).0,
            exit: watch::channel(Some(exit)).1,
            listener: watch::channel(None).1,
            gateway: Mutex::new(mpsc::channel(1).1),
            link: None,
        }
    }

    /// Waits until the agent at the other end of `socket` says how the run began.
    pub(crate) async fn begin(parts: Parts, socket: OwnedFd) -> io::Result<Beginning> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let socket = sys::register(socket)?;
        let (first, descriptors) = match receive(&socket).await? {
            Some((Report::Started, descriptors)) => (None, descriptors),
            Some((Report::Failed { stage, error }, _)) => {
                return Ok(Beginning::Failed { stage, source: io::Error::from_raw_os_error(error) });
            }
            Some((other, descriptors)) => (Some(other), descriptors),
            None => return Ok(Beginning::Silent),
        };
        let (requests, orders) = mpsc::channel(REQUESTS);
        let (exit_sender, exit) = watch::channel(None);
        let (listener_sender, listener) = watch::channel(None);
        let (gateway_sender, gateway) = mpsc::channel(BACKLOG);
        let mut link = Link {
            directory: parts.directory.clone(),
            orders,
            exit: exit_sender,
            listener: listener_sender,
            gateway: gateway_sender,
            listeners: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_id: 0,
        };
        let is_over = match first {
            None => {
                link.take_gateway(descriptors);
                false
            }
            Some(report) => link.hear(report, descriptors) == Heard::Over,
        };
        let task = if is_over { None } else { Some(tokio::spawn(link.run(socket)).abort_handle()) };
        Ok(Beginning::Started(Self {
            directory: parts.directory,
            output: parts.output,
            log_bytes: parts.log_bytes,
            requests,
            exit,
            listener,
            gateway: Mutex::new(gateway),
            link: task,
        }))
    }

    async fn ask(&self, ask: Ask) -> io::Result<Option<OwnedFd>> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Order::Ask { ask, answer }).await.map_err(|_| not_connected())?;
        match tokio::time::timeout(ANSWER_TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(not_connected()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn listener_accept(&self) -> io::Result<RunStream> {
        let mut changes = self.listener.clone();
        loop {
            let listener = changes.borrow_and_update().clone();
            let accept = async {
                match &listener {
                    Some(listener) => listener.accept().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                accepted = accept => {
                    let (stream, _) = accepted?;
                    stream.set_nodelay(true)?;
                    return Ok(RunStream::Tcp(stream));
                }
                changed = changes.changed() => changed.map_err(|_| not_connected())?,
            }
        }
    }

    async fn channel_accept(&self) -> io::Result<RunStream> {
        self.gateway.lock().await.recv().await.ok_or_else(not_connected)
    }
}

#[async_trait]
impl RunHandle for Handle {
    async fn wait(&self) -> Exit {
        let mut exit = self.exit.clone();
        match exit.wait_for(Option::is_some).await {
            Ok(exit) => exit.clone().unwrap_or_else(vanished),
            // The link ended without a word, which it does only when the process shuts down.
            Err(_) => vanished(),
        }
    }

    async fn kill(&self) {
        // A run that ended needs no killing.
        let _ = self.requests.send(Order::Kill).await;
    }

    async fn accept_gateway(&self) -> io::Result<RunStream> {
        tokio::select! {
            stream = self.listener_accept() => stream,
            stream = self.channel_accept() => stream,
            _ = self.wait() => Err(not_connected()),
        }
    }

    async fn listen(&self, address: SocketAddrV4) -> io::Result<RunListener> {
        let (sender, streams) = mpsc::channel(BACKLOG);
        match self.ask(Ask::Listen { address, sender }).await? {
            Some(descriptor) => RunListener::from_descriptor(address, descriptor),
            None => {
                let requests = self.requests.clone().downgrade();
                Ok(RunListener::from_channel(address, streams, move || {
                    if let Some(requests) = requests.upgrade() {
                        // Full only if the link is stuck, and then it closes everything when it ends.
                        let _ = requests.try_send(Order::Close { address });
                    }
                }))
            }
        }
    }

    async fn connect(&self, source: Option<Ipv4Addr>, port: u16) -> io::Result<RunStream> {
        let descriptor = self
            .ask(Ask::Connect { source, port })
            .await?
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let stream = RunStream::from_descriptor(descriptor)?;
        if let RunStream::Tcp(stream) = &stream {
            tokio::time::timeout(ANSWER_TIMEOUT, stream.writable()).await??;
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
        }
        Ok(stream)
    }

    async fn output(&self) -> Result<Vec<u8>, OutputError> {
        let output = self.output.clone();
        let path = output.path.clone();
        match tokio::task::spawn_blocking(move || output.read()).await {
            Ok(answer) => answer,
            Err(error) => Err(OutputError::Read { path, source: io::Error::other(error) }),
        }
    }

    async fn log(&self) -> io::Result<Vec<u8>> {
        // The line that says how much is missing comes on top of the limit.
        let limit = self.log_bytes + 128;
        let path = self.directory.join(LOG_FILE);
        let read = move || {
            let mut bytes = Vec::new();
            match File::open(path) {
                Ok(file) => file.take(limit).read_to_end(&mut bytes).map(|_| bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes),
                Err(error) => Err(error),
            }
        };
        tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
    }
}

/// The result file, by the descriptor under which the node made it, so that no name matters.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    file: Arc<File>,
    path: Utf8PathBuf,
    limit_bytes: u64,
}

impl Output {
    pub(crate) fn new(file: File, path: Utf8PathBuf, limit_bytes: u64) -> Self {
        Self { file: Arc::new(file), path, limit_bytes }
    }

    /// Opens the result of a run that another process of this node started.
    ///
    /// Nothing but the regular file that was made there is accepted, and nothing can make this wait.
    pub(crate) fn reopen(directory: &Utf8Path, limit_bytes: u64) -> Result<Self, OutputError> {
        let path = directory.join(OUTPUT_FILE);
        let open = || {
            let directory = open_directory(directory)?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            io::Result::Ok(File::from(openat2(&directory, OUTPUT_FILE, flags, Mode::empty(), resolve)?))
        };
        let file: File = match open() {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(OutputError::NotOurs { path }),
            Err(source) => return Err(OutputError::Read { path, source }),
        };
        let metadata = file.metadata().map_err(|source| OutputError::Read { path: path.clone(), source })?;
        if !metadata.is_file() || std::os::unix::fs::MetadataExt::nlink(&metadata) != 1 {
            return Err(OutputError::NotOurs { path });
        }
        Ok(Self::new(file, path, limit_bytes))
    }

    fn read(&self) -> Result<Vec<u8>, OutputError> {
        let failed = |source| OutputError::Read { path: self.path.clone(), source };
        let mut bytes = Vec::new();
        let mut part = vec![0; 64 * 1024];
        loop {
            let count = self.file.read_at(&mut part, bytes.len() as u64).map_err(failed)?;
            if count == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&part[..count]);
            if bytes.len() as u64 > self.limit_bytes {
                return Err(OutputError::TooLarge { limit: self.limit_bytes });
            }
        }
    }
}

/// What a handle wants of its link.
enum Order {
    Ask { ask: Ask, answer: oneshot::Sender<io::Result<Option<OwnedFd>>> },
    Close { address: SocketAddrV4 },
    Kill,
}

enum Ask {
    Listen { address: SocketAddrV4, sender: mpsc::Sender<RunStream> },
    Connect { source: Option<Ipv4Addr>, port: u16 },
}

struct Waiting {
    answer: oneshot::Sender<io::Result<Option<OwnedFd>>>,
    /// Where the connections shall go, if the agent brings them itself.
    listener: Option<(SocketAddrV4, mpsc::Sender<RunStream>)>,
}

/// Owns the connection to the agent.
struct Link {
    directory: Utf8PathBuf,
    orders: mpsc::Receiver<Order>,
    exit: watch::Sender<Option<Exit>>,
    listener: watch::Sender<Option<Arc<TcpListener>>>,
    gateway: mpsc::Sender<RunStream>,
    listeners: BTreeMap<SocketAddrV4, mpsc::Sender<RunStream>>,
    waiting: BTreeMap<u64, Waiting>,
    next_id: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Heard {
    More,
    /// The run has ended.
    Over,
    /// Another node has taken over.
    Replaced,
}

impl Link {
    async fn run(mut self, mut socket: AsyncFd<OwnedFd>) {
        loop {
            tokio::select! {
                report = receive(&socket) => match report {
                    Ok(Some((report, descriptors))) => match self.hear(report, descriptors) {
                        Heard::More => {}
                        Heard::Over => return,
                        Heard::Replaced => return self.await_record().await,
                    },
                    Ok(None) | Err(_) => {
                        self.waiting.clear();
                        self.listeners.clear();
                        match self.reconnect().await {
                            Some(again) => socket = again,
                            None => return,
                        }
                    }
                },
                Some(order) = self.orders.recv() => self.obey(&socket, order).await,
            }
        }
    }

    /// Finds the agent again. If it is gone, publishes how the run ended.
    async fn reconnect(&self) -> Option<AsyncFd<OwnedFd>> {
        loop {
            let connected = connect_agent(&self.directory).and_then(|socket| {
                rustix::io::ioctl_fionbio(&socket, true)?;
                sys::register(socket)
            });
            let error = match connected {
                Ok(socket) => return Some(socket),
                Err(error) => error,
            };
            let exit = read_record(&self.directory).ok().flatten();
            if exit.is_some() || is_gone(&error) {
                self.exit.send_replace(Some(exit.unwrap_or_else(vanished)));
                return None;
            }
            tracing::warn!(directory = %self.directory, %error, "the run's agent cannot be asked; trying again");
            tokio::time::sleep(RECORD_INTERVAL).await;
        }
    }

    async fn await_record(&mut self) {
        self.orders.close();
        self.waiting.clear();
        self.listeners.clear();
        loop {
            if let Ok(Some(exit)) = read_record(&self.directory) {
                self.exit.send_replace(Some(exit));
                return;
            }
            tokio::time::sleep(RECORD_INTERVAL).await;
        }
    }

    async fn obey(&mut self, socket: &AsyncFd<OwnedFd>, order: Order) {
        let request = match order {
            Order::Kill => Request::Kill,
            Order::Close { address } => {
                self.listeners.remove(&address);
                Request::Close { address }
            }
            Order::Ask { ask, answer } => {
                let id = self.next_id;
                self.next_id += 1;
                let (request, listener) = match ask {
                    Ask::Listen { address, sender } => (Request::Listen { id, address }, Some((address, sender))),
                    Ask::Connect { source, port } => (Request::Connect { id, source, port }, None),
                };
                self.waiting.insert(id, Waiting { answer, listener });
                request
            }
        };
        // If the agent is gone, receiving says so and everything that waits is answered then.
        let _ = send(socket, &request).await;
    }

    fn hear(&mut self, report: Report, mut descriptors: Vec<OwnedFd>) -> Heard {
        match report {
            Report::Started => self.take_gateway(descriptors),
            Report::Done { id } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    let descriptor = descriptors.pop();
                    if descriptor.is_none()
                        && let Some((address, sender)) = waiting.listener
                    {
                        self.listeners.insert(address, sender);
                    }
                    // Whoever asked may have given up; then the descriptor is closed.
                    let _ = waiting.answer.send(Ok(descriptor));
                }
            }
            Report::Refused { id, error } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    let _ = waiting.answer.send(Err(io::Error::from_raw_os_error(error)));
                }
            }
            Report::Gateway => bring(&self.gateway, descriptors),
            Report::Dialed { address } => {
                if let Some(listener) = self.listeners.get(&address) {
                    bring(listener, descriptors);
                }
            }
            Report::Ended(exit) => {
                self.exit.send_replace(Some(exit));
                return Heard::Over;
            }
            Report::Failed { .. } => {}
            Report::Replaced => return Heard::Replaced,
        }
        Heard::More
    }

    fn take_gateway(&mut self, mut descriptors: Vec<OwnedFd>) {
        let Some(descriptor) = descriptors.pop() else { return };
        let listener = rustix::io::ioctl_fionbio(&descriptor, true)
            .map_err(io::Error::from)
            .and_then(|()| TcpListener::from_std(descriptor.into()));
        match listener {
            Ok(listener) => {
                self.listener.send_replace(Some(Arc::new(listener)));
            }
            Err(error) => {
                tracing::error!(directory = %self.directory, %error, "cannot accept a run's calls to its gateway")
            }
        }
    }
}

/// Passes a connection on. If nobody accepts them it is closed, as a full backlog would.
fn bring(to: &mpsc::Sender<RunStream>, mut descriptors: Vec<OwnedFd>) {
    let stream = descriptors.pop().map(RunStream::from_descriptor);
    if let Some(Ok(stream)) = stream {
        let _ = to.try_send(stream);
    }
}

async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(Report, Vec<OwnedFd>)>> {
    loop {
        let received = socket
            .async_io(Interest::READABLE, |socket| message::receive::<Report>(socket.as_fd(), RecvFlags::DONTWAIT))
            .await?;
        match received {
            Received::Message(report, descriptors) => return Ok(Some((report, descriptors))),
            Received::Malformed => tracing::warn!("a run's agent said something that this version does not understand"),
            Received::Closed => return Ok(None),
        }
    }
}

async fn send(socket: &AsyncFd<OwnedFd>, request: &Request) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, |socket| message::send(socket.as_fd(), request, &[], SendFlags::DONTWAIT)).await
}

/// Connects to the agent of a run.
pub(crate) fn connect_agent(directory: &Utf8Path) -> io::Result<OwnedFd> {
    let directory = open_directory(directory)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &socket_address(&directory)?)?;
    Ok(socket)
}

/// Whether an attempt to connect says that there is no agent. Anything else, such as too many open files, says nothing about it.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECONNREFUSED | libc::ENOENT))
}

/// The address of the agent in a directory; short, whatever the directory's path is.
pub(crate) fn socket_address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    use std::os::fd::AsRawFd as _;
    Ok(SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_FILE}", directory.as_raw_fd()))?)
}

pub(crate) fn open_directory(directory: &Utf8Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory.as_str(), flags, Mode::empty())?)
}

/// Opens a directory in which files are to be made.
pub(crate) fn open_directory_for_writing(directory: &Utf8Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory.as_str(), flags, Mode::empty())?)
}

/// How the run in a directory ended, if it has.
pub(crate) fn read_record(directory: &Utf8Path) -> io::Result<Option<Exit>> {
    match std::fs::read(directory.join(EXIT_FILE)) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn vanished() -> Exit {
    Exit { cause: ExitCause::Vanished, finished_at: now() }
}

/// The present, for the record of an exit.
#[expect(clippy::disallowed_methods, reason = "shell")]
pub(crate) fn now() -> Time {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
}

fn not_connected() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the run has ended")
}
