//! The process beside a run that outlives the node.
//!
//! It makes the run's namespaces, starts the run's first process, keeps its log, watches its limits, and does for the node what
//! can only be done inside the run's network. It has one thread and no secrets.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, accept_with, bind, connect,
        listen, socket_with, sockopt,
    },
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid},
    thread::UnshareFlags,
};

use super::{
    BEGUN_FILE, EXIT_FILE, LOG_FILE,
    confine::{self, Ends},
    control::Channel,
    handle,
    log::Log,
    message::{self, Confinement, Received, Report, Request, Setup},
    stage::{Stage as _, StageError},
    sys::{self, Fork},
    watch,
};
use crate::runtime::{Exit, ExitCause, GATEWAY, Limit};

/// How often limits are looked at. Between two looks a run can take what its memory bandwidth allows: some hundred MiB.
const TICK: Duration = Duration::from_millis(50);

/// How many ticks pass between looks at what takes longer to see: temporary files, the end of the log.
const SLOW_TICKS: u32 = 20;

/// How long a run may take to lock itself in.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// How many connections may wait to be accepted, as in most servers.
const BACKLOG: i32 = 128;

/// Every address that a run may dial lies in one of these two.
const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
const OVERLAY: (Ipv4Addr, u8) = (Ipv4Addr::new(100, 64, 0, 0), 10);

/// Ports below are for the twins' listeners, which the overlay counts from 49152.
const EPHEMERAL_PORTS: &str = "32768 49151";

/// Is the agent: takes its orders from standard input and ends with the run.
pub(super) fn run(builtin: fn() -> i32) -> ! {
    // Nothing inherited is wanted but the three standard streams.
    if sys::close_range(3, i32::MAX).is_err() {
        std::process::exit(1);
    }
    // Not to die with the node's session; fails only for a leader of a process group.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let _ = rustix::process::chdir("/");
    let node = sys::adopt_descriptor(0);
    match begin(&node, builtin) {
        Ok(agent) => agent.attend(node),
        Err(error) => {
            let report = Report::Failed { stage: error.stage, error: error.source.raw_os_error().unwrap_or(libc::EIO) };
            // Without a node there is nobody to tell.
            let _ = message::send(&node, &report, &[], SendFlags::empty());
            std::process::exit(1)
        }
    }
}

struct Agent {
    setup: Setup,
    directory: OwnedFd,
    /// Where nodes find this agent.
    listener: OwnedFd,
    process: Process,
    log: Log,
    /// The pipe of the run's standard streams, while anybody holds its other end.
    printed: Option<OwnedFd>,
    /// What the run may dial, in full confinement.
    gateway: Option<OwnedFd>,
    /// What the run asks for, in lite confinement.
    channel: Option<Channel>,
    started: Instant,
    /// What this agent ended the run for.
    cause: Option<ExitCause>,
}

struct Process {
    pid: Pid,
    descriptor: OwnedFd,
}

/// Prepares and starts the run.
fn begin(node: &OwnedFd, builtin: fn() -> i32) -> Result<Agent, StageError> {
    let (mut setup, listener) = receive_setup(node)?;
    let directory =
        rustix::fs::open(setup.directory.as_str(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .stage(format!("opening `{}`", setup.directory))?;
    let log = openat(
        &directory,
        LOG_FILE,
        OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .stage("making the log")?;
    let (printed, print) = pipe_with(PipeFlags::CLOEXEC).stage("making a pipe for the log")?;
    rustix::io::ioctl_fionbio(&printed, true).stage("making a pipe for the log")?;
    let (ready, report) = pipe_with(PipeFlags::CLOEXEC).stage("making a pipe for the start")?;

    let (mut gateway, mut channel, mut control) = (None, None, None);
    match setup.confinement {
        Confinement::Full => {
            make_namespaces(setup.unprivileged.is_some())?;
            if setup.network {
                make_network()?;
                gateway = Some(listen_at(GATEWAY).stage("listening for the run's calls to its gateway")?);
            }
        }
        Confinement::Lite => {
            let (agent_end, run_end) = message::packet_pair().stage("making a control channel")?;
            channel = Some(Channel::new(agent_end, setup.network));
            control = Some(run_end);
        }
    }
    // From here on the algorithm may begin, whatever becomes of the node and of this process.
    let begun = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(&directory, BEGUN_FILE, begun, Mode::RUSR | Mode::WUSR).stage("noting that the run begins")?;
    let pid = match sys::fork().stage("making the run's first process")? {
        Fork::Child => confine::become_algorithm(&setup, Ends { log: print, ready: report, control }, builtin),
        Fork::Parent(pid) => pid,
    };
    drop((print, report, control));
    // Values of variables may be secrets of the run's data; the agent has no use for them.
    setup.environment.clear();
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).stage("watching the run's first process")?;
    let process = Process { pid, descriptor };
    if let Err(error) = wait_until_ready(ready, &process) {
        // Killed before it was the algorithm. If the note stays, the attempt counts, which is the lesser evil.
        let _ = unlinkat(&directory, BEGUN_FILE, AtFlags::empty());
        return Err(error);
    }
    Ok(Agent {
        log: Log::new(log.into(), setup.limits.log_bytes),
        setup,
        directory,
        listener,
        process,
        printed: Some(printed),
        gateway,
        channel,
        #[expect(clippy::disallowed_methods, reason = "shell")]
        started: Instant::now(),
        cause: None,
    })
}

fn receive_setup(node: &OwnedFd) -> Result<(Setup, OwnedFd), StageError> {
    let stage = "receiving its orders";
    let Received::Message(Request::Start, descriptors) = message::receive(node, RecvFlags::empty()).stage(stage)?
    else {
        return Err(io::Error::from(io::ErrorKind::InvalidData)).stage(stage);
    };
    let Ok([listener, setup]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err(io::Error::from(io::ErrorKind::InvalidData)).stage(stage);
    };
    let mut text = Vec::new();
    let mut setup = File::from(setup);
    setup.rewind().and_then(|()| setup.read_to_end(&mut text)).stage(stage)?;
    Ok((serde_json::from_slice(&text).map_err(io::Error::from).stage(stage)?, listener))
}

/// Leaves the host's network, and lets the next process be the first of a new tree.
///
/// Root does so with the powers it has; others need a user namespace, in which they are root. There `/` and all files keep the
/// owners they have, so this gives no access that they lack.
fn make_namespaces(as_root: bool) -> Result<(), StageError> {
    if !as_root {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        sys::unshare(UnshareFlags::NEWUSER).stage("making a user namespace")?;
        for (file, text) in
            [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
        {
            std::fs::write(format!("/proc/self/{file}"), text)
                .stage(format!("writing `{file}` of the user namespace"))?;
        }
    }
    sys::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWPID).stage("making network and process namespaces")
}

fn make_network() -> Result<(), StageError> {
    let socket =
        socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).stage("opening a socket")?;
    sys::loopback_up(&socket).stage("bringing loopback up")?;
    let mask = Ipv4Addr::from(u32::MAX << (32 - OVERLAY.1));
    sys::loopback_prefix(&socket, 0, OVERLAY.0, mask).stage("making the overlay's addresses local")?;
    // Where `/proc/sys` is read-only the default range stays, and a twin's port may, rarely, be taken by an outgoing connection.
    let _ = std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", EPHEMERAL_PORTS);
    Ok(())
}

fn wait_until_ready(ready: OwnedFd, process: &Process) -> Result<(), StageError> {
    let stage = "waiting for the run's first process";
    let mut readable = [PollFd::new(&ready, PollFlags::IN)];
    let timeout = Timespec { tv_sec: START_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    let found = rustix::io::retry_on_intr(|| poll(&mut readable, Some(&timeout))).stage(stage)?;
    if found == 0 {
        process.kill();
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT)).stage(stage);
    }
    let mut text = Vec::new();
    File::from(ready).read_to_end(&mut text).stage(stage)?;
    if text.is_empty() {
        return Ok(());
    }
    process.kill();
    let (stage, error): (String, i32) = serde_json::from_slice(&text).map_err(io::Error::from).stage(stage)?;
    Err(StageError { stage, source: io::Error::from_raw_os_error(error) })
}

impl Process {
    fn kill(&self) {
        // Fails only when there is nothing left to kill.
        let _ = pidfd_send_signal(&self.descriptor, Signal::KILL);
    }
}

impl Agent {
    /// Serves node and run until the run ends.
    fn attend(mut self, node: OwnedFd) -> ! {
        let mut node = self.greet(node);
        let mut alone = Duration::ZERO;
        let mut ticks: u32 = 0;
        let mut last = self.started;
        loop {
            let woken = self.wait(node.as_ref());
            #[expect(clippy::disallowed_methods, reason = "shell")]
            let now = Instant::now();
            if woken.printed {
                self.read_log();
            }
            if woken.ended {
                self.finish(node);
            }
            if woken.channel {
                self.hear_run(&mut node);
            }
            if woken.node && node.as_ref().is_some_and(|node| !self.hear_node(node)) {
                node = None;
                self.forget_node();
            }
            if woken.listener
                && let Some(new) = self.accept_node()
            {
                if let Some(old) = node.take() {
                    // It may be gone; then there is nobody to tell.
                    let _ = message::send(&old, &Report::Replaced, &[], SendFlags::DONTWAIT);
                    self.forget_node();
                }
                node = self.greet(new);
            }
            if now.duration_since(last) >= TICK {
                alone = if node.is_some() { Duration::ZERO } else { alone + now.duration_since(last) };
                last = now;
                ticks = ticks.wrapping_add(1);
                self.check_limits(now, alone, ticks.is_multiple_of(SLOW_TICKS));
            }
        }
    }

    fn wait(&self, node: Option<&OwnedFd>) -> Woken {
        let mut waiting =
            vec![PollFd::new(&self.process.descriptor, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        let mut add = |descriptor| {
            waiting.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
            waiting.len() - 1
        };
        let printed_at = self.printed.as_ref().map(|printed| add(printed.as_fd()));
        let node_at = node.map(|node| add(node.as_fd()));
        let channel_at = self.channel.as_ref().and_then(Channel::descriptor).map(add);
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) };
        // An interrupted wait is one in which nothing happened.
        let _ = poll(&mut waiting, Some(&timeout));
        let happened = |at: usize| !waiting[at].revents().is_empty();
        Woken {
            ended: happened(0),
            listener: happened(1),
            printed: printed_at.is_some_and(happened),
            node: node_at.is_some_and(happened),
            channel: channel_at.is_some_and(happened),
        }
    }

    fn accept_node(&self) -> Option<OwnedFd> {
        let node = accept_with(&self.listener, SocketFlags::CLOEXEC).ok()?;
        // In a user namespace this process's own user is 0, and whoever is unknown there is not.
        let peer = sockopt::socket_peercred(&node).ok()?;
        (peer.uid == rustix::process::geteuid()).then_some(node)
    }

    /// Tells a node how things stand.
    fn greet(&mut self, node: OwnedFd) -> Option<OwnedFd> {
        let gateway: Vec<BorrowedFd<'_>> = self.gateway.iter().map(|gateway| gateway.as_fd()).collect();
        message::send(&node, &Report::Started, &gateway, SendFlags::DONTWAIT).ok()?;
        if let Some(channel) = &mut self.channel {
            channel.node_attached(&node);
        }
        Some(node)
    }

    fn forget_node(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.node_gone();
        }
    }

    /// Answers whether the node is still there.
    fn hear_node(&mut self, node: &OwnedFd) -> bool {
        let request = match message::receive(node, RecvFlags::DONTWAIT) {
            Ok(Received::Message(request, _)) => request,
            Ok(Received::Malformed) => return true,
            Ok(Received::Closed) => return false,
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        };
        let (id, reply) = match request {
            Request::Start => return true,
            Request::Kill => {
                self.end(ExitCause::Killed);
                return true;
            }
            Request::Close { address } => {
                if let Some(channel) = &mut self.channel {
                    channel.close(address);
                }
                return true;
            }
            Request::Listen { id, address } => (id, self.listen(address)),
            Request::Connect { id, source, port } => (id, self.connect(source, port)),
        };
        answer(node, id, reply).is_ok()
    }

    fn hear_run(&mut self, node: &mut Option<OwnedFd>) {
        if let Some(channel) = &mut self.channel {
            channel.hear(node.as_ref());
        }
    }

    fn listen(&mut self, address: SocketAddrV4) -> io::Result<Option<OwnedFd>> {
        if !self.setup.network {
            return Err(Errno::NETUNREACH.into());
        }
        if !within(*address.ip(), LOOPBACK) && !within(*address.ip(), OVERLAY) {
            return Err(Errno::ADDRNOTAVAIL.into());
        }
        match &mut self.channel {
            Some(channel) => channel.listen(address).map(|()| None),
            None => listen_at(address).map(Some),
        }
    }

    fn connect(&self, source: Option<Ipv4Addr>, port: u16) -> io::Result<Option<OwnedFd>> {
        if !self.setup.network {
            return Err(Errno::NETUNREACH.into());
        }
        match &self.channel {
            Some(channel) => channel.connect(source, port).map(Some),
            None => connect_to(source, port).map(Some),
        }
    }

    /// Answers whether there was anything to read.
    fn read_log(&mut self) -> bool {
        let Some(printed) = &self.printed else { return false };
        let mut bytes = [0; 64 * 1024];
        // Never more than a pipe holds, so that a flood of words does not keep the agent from its other duties. What cannot
        // be written (the disk may be full) is lost: the run itself is worth more.
        match rustix::io::read(printed, &mut bytes) {
            Ok(0) => {
                self.printed = None;
                false
            }
            Ok(count) => {
                let _ = self.log.push(&bytes[..count]);
                true
            }
            Err(_) => false,
        }
    }

    fn check_limits(&mut self, now: Instant, alone: Duration, slowly: bool) {
        let limits = &self.setup.limits;
        let usage = watch::usage(self.process.pid.as_raw_nonzero().get());
        let exceeded = if now.duration_since(self.started) > limits.wall_time {
            Some(Limit::WallTime)
        } else if usage.memory_bytes > limits.memory_bytes {
            Some(Limit::Memory)
        } else if usage.threads > u64::from(limits.processes) {
            Some(Limit::Processes)
        } else if limits.cpu_time.is_some_and(|limit| usage.cpu_time > limit) {
            Some(Limit::CpuTime)
        } else if slowly && self.is_temporary_full() {
            Some(Limit::Temporary)
        } else {
            None
        };
        if let Some(limit) = exceeded {
            self.end(ExitCause::LimitExceeded(limit));
        } else if alone > self.setup.orphan_grace {
            self.end(ExitCause::Orphaned);
        }
        if slowly {
            let _ = self.log.flush();
        }
    }

    fn is_temporary_full(&self) -> bool {
        self.setup.temporary.as_deref().is_some_and(|directory| {
            let run = self.process.pid.as_raw_nonzero().get();
            watch::disk_bytes(directory, run).is_none_or(|bytes| bytes > self.setup.limits.temporary_bytes)
        })
    }

    fn end(&mut self, cause: ExitCause) {
        self.cause.get_or_insert(cause);
        self.process.kill();
    }

    /// Records how the run ended, tells the node if there is one, and ends.
    fn finish(&mut self, node: Option<OwnedFd>) -> ! {
        let cause = self.reap();
        while self.read_log() {}
        let _ = self.log.flush();
        let exit = Exit { cause, finished_at: handle::now() };
        // Without a record (the disk may be full) an attached node still learns the exit; another one sees the run vanished.
        let _ = record(&self.directory, &exit);
        if let Some(node) = node {
            let _ = message::send(&node, &Report::Ended(exit), &[], SendFlags::DONTWAIT);
        }
        std::process::exit(0)
    }

    fn reap(&self) -> ExitCause {
        let Ok(Some((_, status))) = rustix::io::retry_on_intr(|| waitpid(Some(self.process.pid), WaitOptions::empty()))
        else {
            return ExitCause::Vanished;
        };
        match (status.exit_status(), status.terminating_signal(), self.cause) {
            // It ended by itself before what was asked for reached it.
            (Some(code), _, _) => ExitCause::Code(code),
            (None, Some(libc::SIGKILL), Some(cause)) => cause,
            (None, Some(signal), _) => ExitCause::Signal(signal),
            (None, None, _) => ExitCause::Vanished,
        }
    }
}

/// What there is to do.
struct Woken {
    ended: bool,
    printed: bool,
    listener: bool,
    node: bool,
    channel: bool,
}

fn within(address: Ipv4Addr, (prefix, length): (Ipv4Addr, u8)) -> bool {
    (u32::from(address) ^ u32::from(prefix)) >> (32 - length) == 0
}

fn listen_at(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Begins to connect to the run; the node waits for the outcome.
fn connect_to(source: Option<Ipv4Addr>, port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    if let Some(source) = source {
        bind(&socket, &SocketAddrV4::new(source, 0))?;
    }
    match connect(&socket, &SocketAddrAny::from(std::net::SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))))
    {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

/// Answers a request of the node.
pub(crate) fn answer(node: &OwnedFd, id: u64, answer: io::Result<Option<OwnedFd>>) -> io::Result<()> {
    match answer {
        Ok(socket) => {
            let sockets: Vec<BorrowedFd<'_>> = socket.iter().map(|socket| socket.as_fd()).collect();
            message::send(node, &Report::Done { id }, &sockets, SendFlags::DONTWAIT)
        }
        Err(error) => {
            let error = error.raw_os_error().unwrap_or(libc::EIO);
            message::send(node, &Report::Refused { id, error }, &[], SendFlags::DONTWAIT)
        }
    }
}

/// Writes the exit so that it is there whole or not at all.
pub(crate) fn record(directory: &OwnedFd, exit: &Exit) -> io::Result<()> {
    let part = format!("{EXIT_FILE}.part");
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, part.as_str(), flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(&serde_json::to_vec(exit)?)?;
    file.sync_all()?;
    renameat(directory, part.as_str(), directory, EXIT_FILE)?;
    Ok(rustix::fs::fsync(directory)?)
}
