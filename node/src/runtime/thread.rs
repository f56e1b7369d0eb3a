//! Runs inside this process, for tests and for federations that live in one process.
//!
//! Nothing confines them. A small attendant beside each takes the part of an agent, so that everything the node does with a run
//! works the same way. A run that is killed loses its control channel and its handle says so, but a thread cannot be ended from
//! outside: it goes on until it notices.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::FileExt as _,
    panic::AssertUnwindSafe,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use camino::Utf8Path;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{RecvFlags, SendFlags, SocketFlags, accept_with},
};

use super::{
    Entry, Exit, ExitCause, FileSource, Layout, Limit, Limits, RunHandle, RunSpec, Runtime, RuntimeError, Strength,
};
use crate::sandbox::{
    BEGUN_FILE, LOG_FILE, OUTPUT_FILE, agent,
    control::Channel,
    handle::{self, Beginning, Handle, Output, Parts},
    message::{self, Received, Report, Request},
    runtime::{self, Staging},
};

/// How often limits are looked at.
const TICK: Duration = Duration::from_millis(20);

/// What an algorithm in a thread is given.
#[derive(Debug)]
pub struct ThreadRun {
    /// What [`RunSpec::environment`] says; the process's own environment has nothing to do with it.
    pub environment: BTreeMap<String, String>,
    /// The run's end of its control channel.
    pub control: OwnedFd,
}

/// An algorithm that runs in a thread: answers the result, or the text of its failure.
pub type Algorithm = dyn Fn(ThreadRun) -> Result<Vec<u8>, String> + Send + Sync;

/// Runs algorithms as threads of this process.
pub struct ThreadRuntime {
    algorithm: Arc<Algorithm>,
    strength: Strength,
}

impl ThreadRuntime {
    /// Wraps what stands for all built-in algorithms.
    pub fn new(algorithm: impl Fn(ThreadRun) -> Result<Vec<u8>, String> + Send + Sync + 'static) -> Self {
        Self { algorithm: Arc::new(algorithm), strength: Strength::Thread }
    }
}

impl fmt::Debug for ThreadRuntime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ThreadRuntime")
    }
}

#[async_trait]
impl Runtime for ThreadRuntime {
    fn strength(&self) -> &Strength {
        &self.strength
    }

    fn layout(&self, spec: &RunSpec) -> Layout {
        let files = spec.directory.join("files");
        Layout {
            input: files.join("input"),
            output: files.join("output"),
            token: files.join("token"),
            temporary: spec.temporary.clone().unwrap_or_else(|| spec.directory.join("temporary")),
            files: spec
                .files
                .iter()
                .enumerate()
                .map(|(index, file)| match &file.source {
                    FileSource::Host(path) => path.clone(),
                    FileSource::Bytes(_) => files.join(runtime::copy_name(index, file)),
                })
                .collect(),
            gateway: None,
        }
    }

    async fn start(&self, spec: RunSpec) -> Result<Arc<dyn RunHandle>, RuntimeError> {
        if spec.entry != Entry::Builtin {
            return Err(RuntimeError::BuiltinOnly { strength: self.strength.to_string() });
        }
        let algorithm = Arc::clone(&self.algorithm);
        let layout = self.layout(&spec);
        let directory = spec.directory.clone();
        let began = tokio::task::spawn_blocking(move || begin(&spec, &layout, algorithm)).await;
        let failed = |source| RuntimeError::Start { stage: "starting its thread".into(), source };
        let (parts, socket) = began.map_err(|error| failed(io::Error::other(error)))??;
        match Handle::begin(parts, socket).await.map_err(failed)? {
            Beginning::Started(handle) => Ok(Arc::new(handle)),
            Beginning::Failed { stage, source } => Err(RuntimeError::Start { stage, source }),
            Beginning::Silent => Err(RuntimeError::Start {
                stage: format!("the thread of `{directory}` ended at once"),
                source: io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    async fn attach(&self, directory: &Utf8Path) -> Result<Option<Arc<dyn RunHandle>>, RuntimeError> {
        runtime::attach(directory).await
    }

    fn has_begun(&self, directory: &Utf8Path) -> bool {
        runtime::has_begun(directory)
    }
}

fn begin(spec: &RunSpec, layout: &Layout, algorithm: Arc<Algorithm>) -> Result<(Parts, OwnedFd), RuntimeError> {
    let stage = Staging::with_owner(&spec.directory, None)?;
    stage.claim(spec)?;
    for (index, file) in spec.files.iter().enumerate() {
        runtime::check_path(&file.path)?;
        if let FileSource::Bytes(bytes) = &file.source {
            stage.give_copy(index, file, bytes)?;
        }
    }
    stage.give_directory(&layout.temporary)?;
    let output = stage.make_output()?;
    let failed = |source| RuntimeError::Prepare { path: spec.directory.clone(), source };
    let output_writer = output.try_clone().map_err(failed)?;
    let log = File::create_new(spec.directory.join(LOG_FILE)).map_err(failed)?;
    let listener = runtime::listen_for_nodes(&spec.directory).map_err(failed)?;
    let directory = handle::open_directory_for_writing(&spec.directory).map_err(failed)?;
    let (node_end, attendant_end) = message::packet_pair().map_err(failed)?;
    let (control_end, run_end) = message::packet_pair().map_err(failed)?;
    let (wake_reader, wake_writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;

    File::create_new(spec.directory.join(BEGUN_FILE)).map_err(failed)?;
    let (ended, outcome) = mpsc::channel();
    let run = ThreadRun { environment: spec.environment.clone(), control: run_end };
    let name = format!("run {}", spec.run_id);
    std::thread::Builder::new()
        .name(name.clone())
        .spawn(move || {
            let answer = std::panic::catch_unwind(AssertUnwindSafe(|| algorithm(run)));
            let code = conclude(answer.unwrap_or_else(|_| Err("the algorithm panicked".into())), &output_writer, &log);
            // Without an attendant there is nobody who cares.
            let _ = ended.send(code);
            drop(wake_writer);
        })
        .map_err(failed)?;
    let attendant = Attendant {
        listener,
        directory,
        channel: Channel::new(control_end, spec.network),
        network: spec.network,
        limits: spec.limits.clone(),
        orphan_grace: spec.orphan_grace,
        outcome,
        wake: wake_reader,
    };
    std::thread::Builder::new()
        .name(format!("{name} attendant"))
        .spawn(move || attendant.attend(attendant_end))
        .map_err(failed)?;
    let output = Output::new(output, spec.directory.join(OUTPUT_FILE), spec.limits.output_bytes);
    Ok((Parts { directory: spec.directory.clone(), output, log_bytes: spec.limits.log_bytes }, node_end))
}

/// Puts down what an algorithm answered, and tells the exit code that a process would have had.
fn conclude(answer: Result<Vec<u8>, String>, output: &File, log: &File) -> i32 {
    let written = match &answer {
        // Algorithms that wrote the file themselves answer nothing.
        Ok(result) if result.is_empty() => Ok(()),
        Ok(result) => output.write_all_at(result, 0),
        Err(text) => log.write_all_at(text.as_bytes(), 0),
    };
    i32::from(answer.is_err() || written.is_err())
}

/// Stands beside a run in a thread as an agent stands beside a process.
struct Attendant {
    listener: OwnedFd,
    directory: OwnedFd,
    channel: Channel,
    network: bool,
    limits: Limits,
    orphan_grace: Duration,
    outcome: mpsc::Receiver<i32>,
    /// Closed at its other end when the run has ended.
    wake: OwnedFd,
}

impl Attendant {
    #[expect(clippy::disallowed_methods, reason = "shell")]
    fn attend(mut self, node: OwnedFd) {
        let started = Instant::now();
        let mut attached = Instant::now();
        let mut node = greet(&mut self.channel, node);
        loop {
            let [wake, listening, requests, control] = self.wait(node.as_ref());
            if wake {
                let code = self.outcome.recv().unwrap_or(1);
                return self.finish(node, ExitCause::Code(code));
            }
            if started.elapsed() > self.limits.wall_time {
                return self.finish(node, ExitCause::LimitExceeded(Limit::WallTime));
            }
            if control {
                self.channel.hear(node.as_ref());
            }
            if requests && let Some(present) = &node {
                match self.hear(present) {
                    Heard::More => {}
                    Heard::Gone => {
                        node = None;
                        self.channel.node_gone();
                    }
                    Heard::Kill => return self.finish(node, ExitCause::Killed),
                }
            }
            if listening && let Ok(new) = accept_with(&self.listener, SocketFlags::CLOEXEC) {
                if let Some(old) = node.take() {
                    let _ = message::send(&old, &Report::Replaced, &[], SendFlags::DONTWAIT);
                    self.channel.node_gone();
                }
                node = greet(&mut self.channel, new);
            }
            if node.is_some() {
                attached = Instant::now();
            } else if attached.elapsed() > self.orphan_grace {
                return self.finish(node, ExitCause::Orphaned);
            }
        }
    }

    /// Which of run's end, listener, node and control channel want something.
    fn wait(&self, node: Option<&OwnedFd>) -> [bool; 4] {
        let mut waiting = vec![PollFd::new(&self.wake, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        let mut add = |descriptor| {
            waiting.push(PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
            waiting.len() - 1
        };
        let node_at = node.map(|node| add(node.as_fd()));
        let control_at = self.channel.descriptor().map(add);
        // An interrupted wait is one in which nothing happened.
        let _ = poll(&mut waiting, Some(&Timespec { tv_sec: 0, tv_nsec: i64::from(TICK.subsec_nanos()) }));
        let happened = |at: usize| !waiting[at].revents().is_empty();
        [happened(0), happened(1), node_at.is_some_and(happened), control_at.is_some_and(happened)]
    }

    fn hear(&mut self, node: &OwnedFd) -> Heard {
        let request = match message::receive(node, RecvFlags::DONTWAIT) {
            Ok(Received::Message(request, _)) => request,
            Ok(Received::Malformed) => return Heard::More,
            Ok(Received::Closed) => return Heard::Gone,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Heard::More,
            Err(_) => return Heard::Gone,
        };
        let (id, answer) = match request {
            Request::Start => return Heard::More,
            Request::Kill => return Heard::Kill,
            Request::Close { address } => {
                self.channel.close(address);
                return Heard::More;
            }
            Request::Listen { id, .. } | Request::Connect { id, .. } if !self.network => {
                (id, Err(io::Error::from_raw_os_error(libc::ENETUNREACH)))
            }
            Request::Listen { id, address } => (id, self.channel.listen(address).map(|()| None)),
            Request::Connect { id, source, port } => (id, self.channel.connect(source, port).map(Some)),
        };
        match agent::answer(node, id, answer) {
            Ok(()) => Heard::More,
            Err(_) => Heard::Gone,
        }
    }

    fn finish(self, node: Option<OwnedFd>, cause: ExitCause) {
        let exit = Exit { cause, finished_at: handle::now() };
        // An attached node still learns the exit.
        let _ = agent::record(&self.directory, &exit);
        if let Some(node) = node {
            let _ = message::send(&node, &Report::Ended(exit), &[], SendFlags::DONTWAIT);
        }
    }
}

enum Heard {
    More,
    Gone,
    Kill,
}

fn greet(channel: &mut Channel, node: OwnedFd) -> Option<OwnedFd> {
    message::send(&node, &Report::Started, &[], SendFlags::DONTWAIT).ok()?;
    channel.node_attached(&node);
    Some(node)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{IoSliceMut, Read as _, Write as _},
        mem::MaybeUninit,
        net::{Ipv4Addr, SocketAddrV4},
        os::unix::net::UnixStream,
    };

    use camino::Utf8PathBuf;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage};
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use twinmesh_protocol::id::RunId;

    use super::*;
    use crate::runtime::{OutputError, Secret};

    const TWIN: &str = "100.64.0.2:49152";

    #[tokio::test]
    async fn a_thread_reads_its_input_and_leaves_its_result() {
        let place = Place::new();
        let runtime = ThreadRuntime::new(|run| Ok(std::fs::read(&run.environment["INPUT_FILE"]).unwrap()));
        let mut spec = place.spec();
        let input = runtime.layout(&spec).input;
        spec.environment.insert("INPUT_FILE".into(), input.into());
        let handle = runtime.start(spec).await.unwrap();
        assert_eq!(handle.wait().await.cause, ExitCause::Code(0));
        assert_eq!(handle.output().await.unwrap(), b"the input");
        let again = runtime.attach(&place.path().join("run")).await.unwrap().unwrap();
        assert_eq!(again.wait().await, handle.wait().await);
    }

    #[tokio::test]
    async fn a_failure_and_a_panic_end_with_code_1_and_a_log() {
        for is_panic in [false, true] {
            let place = Place::new();
            let runtime =
                ThreadRuntime::new(move |_| if is_panic { panic!("expected") } else { Err("no such column".into()) });
            let handle = runtime.start(place.spec()).await.unwrap();
            assert_eq!(handle.wait().await.cause, ExitCause::Code(1));
            assert!(!handle.log().await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn a_result_that_is_too_large_is_refused() {
        let place = Place::new();
        let runtime = ThreadRuntime::new(|_| Ok(vec![0; 2000]));
        let mut spec = place.spec();
        spec.limits.output_bytes = 1000;
        let handle = runtime.start(spec).await.unwrap();
        handle.wait().await;
        assert!(matches!(handle.output().await, Err(OutputError::TooLarge { limit: 1000 })));
    }

    #[tokio::test]
    async fn a_thread_reaches_gateway_and_twins_through_its_control_channel() {
        let place = Place::new();
        let runtime = ThreadRuntime::new(|run| {
            let mut text = String::new();
            let mut gateway = ask(&run.control, r#"{"op":"gateway"}"#)?;
            gateway.read_to_string(&mut text).unwrap();
            let refused = ask(&run.control, r#"{"op":"dial","address":"100.64.0.9:49152"}"#).unwrap_err();
            assert!(refused.contains("refused"), "{refused}");
            let mut twin = ask(&run.control, &format!(r#"{{"op":"dial","address":"{TWIN}"}}"#))?;
            twin.read_to_string(&mut text).unwrap();
            let listening = ask(&run.control, r#"{"op":"listen","port":8888}"#)?;
            gateway = ask(&run.control, r#"{"op":"gateway"}"#)?;
            gateway.write_all(b"!").unwrap();
            let listening = OwnedFd::from(listening);
            let (mut caller, message) = receive_with(&listening)?;
            caller.read_to_string(&mut text).unwrap();
            text.push_str(&message);
            let (_, message) = receive_with(&listening)?;
            text.push_str(&message);
            Ok(text.into_bytes())
        });
        let handle = runtime.start(place.spec()).await.unwrap();
        let mut gateway = handle.accept_gateway().await.unwrap();
        let twin = handle.listen(TWIN.parse::<SocketAddrV4>().unwrap()).await.unwrap();
        assert_eq!(handle.connect(None, 8888).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        gateway.write_all(b"gateway ").await.unwrap();
        drop(gateway);
        twin.accept().await.unwrap().write_all(b"twin ").await.unwrap();
        let mut ready = [0];
        handle.accept_gateway().await.unwrap().read_exact(&mut ready).await.unwrap();
        let twin = Some(Ipv4Addr::new(100, 64, 0, 2));
        handle.connect(twin, 8888).await.unwrap().write_all(b"caller").await.unwrap();
        handle.connect(None, 8888).await.unwrap();
        assert_eq!(handle.wait().await.cause, ExitCause::Code(0));
        let text = String::from_utf8(handle.output().await.unwrap()).unwrap();
        assert_eq!(text, r#"gateway twin caller{"ok":true,"source":"100.64.0.2"}{"ok":true}"#);
    }

    #[tokio::test]
    async fn a_killed_thread_loses_its_control_channel() {
        let place = Place::new();
        let (sender, receiver) = mpsc::channel();
        let runtime = ThreadRuntime::new(move |run| {
            let outcome = receive(&run.control).map(|_| ());
            sender.send(outcome).unwrap();
            Ok(Vec::new())
        });
        let handle = runtime.start(place.spec()).await.unwrap();
        handle.kill().await;
        assert_eq!(handle.wait().await.cause, ExitCause::Killed);
        assert!(receiver.recv_timeout(Duration::from_secs(20)).unwrap().is_err());
    }

    struct Place(TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> Utf8PathBuf {
            Utf8PathBuf::from_path_buf(self.0.path().to_owned()).unwrap()
        }

        fn spec(&self) -> RunSpec {
            RunSpec {
                run_id: RunId::new(7),
                directory: self.path().join("run"),
                entry: Entry::Builtin,
                environment: BTreeMap::new(),
                files: Vec::new(),
                input: b"the input".to_vec(),
                token: Secret::new("the token"),
                temporary: None,
                limits: Limits::default(),
                network: true,
                orphan_grace: Duration::from_secs(60),
            }
        }
    }

    fn ask(control: &OwnedFd, request: &str) -> Result<UnixStream, String> {
        rustix::net::send(control, request.as_bytes(), SendFlags::NOSIGNAL).map_err(|error| error.to_string())?;
        receive(control)
    }

    fn receive(channel: &OwnedFd) -> Result<UnixStream, String> {
        receive_with(channel).map(|(stream, _)| stream)
    }

    /// A stream, and what is said beside it.
    fn receive_with(channel: &OwnedFd) -> Result<(UnixStream, String), String> {
        let mut text = [0; 1024];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let parts = &mut [IoSliceMut::new(&mut text)];
        let received = rustix::net::recvmsg(channel, parts, &mut ancillary, RecvFlags::empty())
            .map_err(|error| error.to_string())?;
        let message = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
        for rights in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = rights {
                let stream = descriptors.next().map(UnixStream::from).ok_or("no descriptor")?;
                return Ok((stream, message));
            }
        }
        Err(message)
    }
}
