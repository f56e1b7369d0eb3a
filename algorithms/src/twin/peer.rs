//! One twin as seen from another: its channel, the current connection, and the threads that serve them.
#![expect(clippy::disallowed_methods, reason = "shell")]

use std::{
    collections::VecDeque,
    io::{self, BufReader},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use twinmesh_protocol::id::OrganizationId;

use super::{
    Identity, Options, TwinError,
    channel::{Channel, Gap},
    frame::{Answer, Frame, Hello, Message, PROTOCOL, read_json, write_frames, write_json},
    network::{DialError, Listener, Network},
};
use crate::sdk::stream::Stream;

/// How long a greeting may take.
const GREETING: Duration = Duration::from_secs(10);

/// How often a twin with nothing to say gives a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a connection may be silent before it is given up: four signs of life.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a twin that has said goodbye is waited for after its connection is gone: it has what it needs, and
/// only its answer to our goodbye may be lost.
const LINGER: Duration = Duration::from_secs(3);

/// How long a failing twin tries to tell the others.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// The pauses between tries to connect.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often those who wait look at the clock.
const GLANCE: Duration = Duration::from_millis(200);

/// How many frames are written at once.
const BATCH: usize = 16;

pub(super) struct Peer {
    identity: Identity,
    organization: OrganizationId,
    patience: Duration,
    state: Mutex<State>,
    /// Something came, or the connection or its failure changed.
    incoming: Condvar,
    /// Something is to be written, or the connection changed.
    outgoing: Condvar,
    /// The connection changed.
    link: Condvar,
}

struct State {
    channel: Channel,
    inbox: VecDeque<Bytes>,
    connection: Option<Stream>,
    /// Counts connections, so that the threads of an old one do no harm.
    generation: u64,
    /// Since when there is no connection.
    lost_since: Instant,
    /// Why the last connection or try failed.
    reason: String,
    /// Why there will be no further connection.
    failure: Option<Failure>,
    /// The other side has said goodbye.
    parted: bool,
    /// The report that was written last.
    reported: u64,
    abort: bool,
    closed: bool,
}

#[derive(Debug, Clone)]
enum Failure {
    Aborted,
    Broken(String),
}

impl Peer {
    pub(super) fn new(identity: Identity, organization: OrganizationId, options: Options) -> Self {
        Self {
            identity,
            organization,
            patience: options.patience.unwrap_or(Duration::from_secs(300)),
            state: Mutex::new(State {
                channel: Channel::new(options.replay),
                inbox: VecDeque::new(),
                connection: None,
                generation: 0,
                lost_since: Instant::now(),
                reason: "there was no connection yet".to_owned(),
                failure: None,
                parted: false,
                reported: 0,
                abort: false,
                closed: false,
            }),
            incoming: Condvar::new(),
            outgoing: Condvar::new(),
            link: Condvar::new(),
        }
    }

    /// Waits for the first connection.
    pub(super) fn await_connection(&self) -> Result<(), TwinError> {
        self.wait(|state| (state.generation > 0).then_some(Ok(())))
    }

    /// Adds a message; it is written as soon as there is a connection.
    pub(super) fn send(&self, message: Bytes) -> Result<(), TwinError> {
        let mut state = self.lock();
        self.check(&state)?;
        state.channel.push(Message::Data(message));
        drop(state);
        self.outgoing.notify_all();
        Ok(())
    }

    /// As [`Peer::send`], but waits while more than `limit` bytes have not yet reached the twin.
    pub(super) fn send_bounded(&self, message: Bytes, limit: usize) -> Result<(), TwinError> {
        self.wait(|state| (state.channel.kept_bytes() <= limit).then_some(Ok(())))?;
        self.send(message)
    }

    /// Waits for the next message.
    pub(super) fn receive(&self) -> Result<Bytes, TwinError> {
        self.wait(|state| match state.inbox.pop_front() {
            Some(message) => Some(Ok(message)),
            None if state.parted => Some(Err(TwinError::Finished(self.organization))),
            None => None,
        })
    }

    pub(super) fn say_goodbye(&self) {
        self.lock().channel.push(Message::Goodbye);
        self.outgoing.notify_all();
    }

    /// Waits until both sides have said goodbye and know it.
    pub(super) fn await_goodbye(&self) -> Result<(), TwinError> {
        self.wait(|state| {
            let done = state.channel.is_delivered() && state.reported >= state.channel.received();
            let gone = state.connection.is_none() && state.lost_since.elapsed() > LINGER;
            (state.parted && (done || gone)).then_some(Ok(()))
        })
    }

    pub(super) fn say_abort(&self) {
        self.lock().abort = true;
        self.outgoing.notify_all();
    }

    /// Waits a little until the abort is written.
    pub(super) fn await_aborted(&self) {
        let end = Instant::now() + LAST_WORDS;
        let mut state = self.lock();
        while state.abort && state.connection.is_some() && Instant::now() < end {
            state = self.incoming.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the connection and all threads.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        if let Some(stream) = state.connection.take() {
            stream.shutdown();
        }
        drop(state);
        self.notify();
    }

    /// Waits until `ready` has an answer, the twin has failed, or patience ends.
    fn wait<T>(&self, mut ready: impl FnMut(&mut State) -> Option<Result<T, TwinError>>) -> Result<T, TwinError> {
        let mut state = self.lock();
        loop {
            if let Some(answer) = ready(&mut state) {
                return answer;
            }
            self.check(&state)?;
            if state.connection.is_none() && state.lost_since.elapsed() > self.patience {
                return Err(TwinError::Lost {
                    organization: self.organization,
                    waited: self.patience,
                    reason: state.reason.clone(),
                });
            }
            state = self.incoming.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn check(&self, state: &State) -> Result<(), TwinError> {
        let organization = self.organization;
        match &state.failure {
            Some(Failure::Aborted) => Err(TwinError::Failed(organization)),
            Some(Failure::Broken(reason)) => Err(TwinError::Broken { organization, reason: reason.clone() }),
            None if state.closed => Err(TwinError::Broken { organization, reason: "the group is closed".to_owned() }),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.incoming.notify_all();
        self.outgoing.notify_all();
        self.link.notify_all();
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL.to_owned(),
            task: self.identity.task,
            from: self.identity.organization,
            to: self.organization,
            received: self.lock().channel.received(),
        }
    }

    fn fail(&self, failure: Failure) {
        let mut state = self.lock();
        state.failure.get_or_insert(failure);
        if let Some(stream) = state.connection.take() {
            stream.shutdown();
        }
        drop(state);
        self.notify();
    }

    /// Makes a greeted stream the current connection, and serves it.
    fn attach(self: &Arc<Self>, stream: Stream, told: u64, their_received: u64) -> io::Result<()> {
        stream.set_timeouts(Some(SILENCE))?;
        let (mut reader, writer) = (BufReader::with_capacity(64 * 1024, stream.try_clone()?), stream.try_clone()?);
        let generation = {
            let mut state = self.lock();
            if state.closed || state.failure.is_some() {
                return Err(io::ErrorKind::NotConnected.into());
            }
            if state.channel.connected(their_received, told).is_err() {
                drop(state);
                self.fail(Failure::Broken(FORGOTTEN.to_owned()));
                return Err(io::Error::other(FORGOTTEN));
            }
            if let Some(old) = state.connection.replace(stream) {
                old.shutdown();
            }
            state.generation += 1;
            state.reported = told;
            state.generation
        };
        self.notify();
        let peer = Arc::clone(self);
        spawn("twin-read", move || {
            let ended = peer.read_frames(&mut reader, generation);
            peer.lost(generation, &ended);
        });
        let peer = Arc::clone(self);
        spawn("twin-write", move || {
            if let Err(error) = peer.write_frames(writer, generation) {
                peer.lost(generation, &error);
            }
        });
        Ok(())
    }

    fn lost(&self, generation: u64, error: &io::Error) {
        let mut state = self.lock();
        if state.generation != generation || state.connection.is_none() {
            return;
        }
        if let Some(stream) = state.connection.take() {
            stream.shutdown();
        }
        state.lost_since = Instant::now();
        state.reason = format!("the connection was lost: {error}");
        drop(state);
        self.notify();
    }

    fn read_frames(&self, stream: &mut BufReader<Stream>, generation: u64) -> io::Error {
        loop {
            let frame = match Frame::read(stream) {
                Ok(frame) => frame,
                Err(error) => return error,
            };
            let mut state = self.lock();
            if state.generation != generation {
                return io::ErrorKind::ConnectionReset.into();
            }
            match frame {
                Frame::Message(number, message) => match state.channel.message(number, message) {
                    Ok(Some(Message::Data(bytes))) => state.inbox.push_back(bytes),
                    Ok(Some(Message::Goodbye)) => state.parted = true,
                    Ok(None) => {}
                    Err(Gap) => return io::Error::new(io::ErrorKind::InvalidData, "messages are missing"),
                },
                Frame::Received(number) => state.channel.acknowledge(number),
                Frame::Abort => {
                    drop(state);
                    self.fail(Failure::Aborted);
                    return io::ErrorKind::ConnectionAborted.into();
                }
                Frame::Forgotten => {
                    drop(state);
                    self.fail(Failure::Broken(FORGOTTEN.to_owned()));
                    return io::ErrorKind::ConnectionAborted.into();
                }
            }
            let report = state.channel.must_report();
            drop(state);
            self.incoming.notify_all();
            if report {
                self.outgoing.notify_all();
            }
        }
    }

    fn write_frames(&self, mut stream: Stream, generation: u64) -> io::Result<()> {
        let mut batch = Vec::with_capacity(BATCH);
        let mut state = self.lock();
        loop {
            if state.generation != generation || state.connection.is_none() {
                return Ok(());
            }
            if state.abort {
                drop(state);
                write_frames(&mut stream, &[Frame::Abort])?;
                self.lock().abort = false;
                self.incoming.notify_all();
                return Ok(());
            }
            batch.extend(std::iter::from_fn(|| state.channel.next()).take(BATCH));
            if batch.is_empty() {
                let (guard, timeout) =
                    self.outgoing.wait_timeout(state, HEARTBEAT).unwrap_or_else(PoisonError::into_inner);
                state = guard;
                if !timeout.timed_out() {
                    continue;
                }
                batch.push(state.channel.report());
            }
            drop(state);
            write_frames(&mut stream, &batch)?;
            state = self.lock();
            for frame in batch.drain(..) {
                if let Frame::Received(number) = frame {
                    state.reported = state.reported.max(number);
                    self.incoming.notify_all();
                }
            }
        }
    }

    /// Connects once and greets.
    fn dial(self: &Arc<Self>, network: &dyn Network) -> Result<(), DialError> {
        let later = |error: io::Error| DialError::Later(format!("it does not greet: {error}"));
        let mut stream = network.dial(self.organization)?;
        stream.set_timeouts(Some(GREETING)).map_err(later)?;
        let own = self.hello();
        write_json(&mut stream, &own).map_err(later)?;
        match read_json::<Answer>(&mut stream).map_err(later)? {
            Answer::Refused { refused, fatal: true } => Err(DialError::Never(refused)),
            Answer::Refused { refused, fatal: false } => Err(DialError::Later(refused)),
            Answer::Hello(hello) => {
                if hello.protocol != PROTOCOL || hello.from != self.organization {
                    return Err(DialError::Later("another twin answered in its place".to_owned()));
                }
                let mut last_words = stream.try_clone().map_err(later)?;
                self.attach(stream, own.received, hello.received).map_err(|error| {
                    if self.lock().failure.is_some() {
                        // Whether it arrives or not, this side gives up.
                        let _told = write_frames(&mut last_words, &[Frame::Forgotten]);
                    }
                    later(error)
                })
            }
        }
    }

    /// Checks a greeting and answers it.
    fn welcome(self: &Arc<Self>, mut stream: Stream, hello: &Hello) -> io::Result<()> {
        let own = self.hello();
        let refuse = |stream: &mut Stream, refused: &str, fatal| {
            write_json(stream, &Answer::Refused { refused: refused.to_owned(), fatal })
        };
        {
            let state = self.lock();
            if state.failure.is_some() {
                drop(state);
                return refuse(&mut stream, "the twin has given up", true);
            }
            if state.channel.has_forgotten(hello.received) {
                drop(state);
                self.fail(Failure::Broken(FORGOTTEN.to_owned()));
                return refuse(&mut stream, FORGOTTEN, true);
            }
        }
        let told = own.received;
        write_json(&mut stream, &Answer::Hello(own))?;
        self.attach(stream, told, hello.received)
    }
}

const FORGOTTEN: &str = "one of the two started over, but messages it needs were not kept (`Replay::Connection`)";

/// Keeps a twin of higher rank connected.
pub(super) fn spawn_dialer(peer: Arc<Peer>, network: Arc<dyn Network>) {
    spawn("twin-dial", move || {
        let mut pause = PAUSES.0;
        loop {
            {
                let mut state = peer.lock();
                while state.connection.is_some() && !state.closed {
                    state = peer.link.wait(state).unwrap_or_else(PoisonError::into_inner);
                    pause = PAUSES.0;
                }
                if state.closed || state.failure.is_some() {
                    return;
                }
            }
            match peer.dial(&*network) {
                Ok(()) => continue,
                Err(DialError::Never(reason)) => return peer.fail(Failure::Broken(reason)),
                Err(DialError::Later(reason)) => peer.lock().reason = reason,
            }
            thread::sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    });
}

/// Lets twins of lower rank in.
pub(super) fn spawn_acceptor(
    identity: Identity,
    peers: Vec<Arc<Peer>>,
    listener: Arc<dyn Listener>,
    network: Arc<dyn Network>,
) {
    spawn("twin-accept", move || {
        while let Some(accepted) = listener.accept() {
            let Ok(stream) = accepted else {
                // Such as too many open files; the twin tries again.
                thread::sleep(PAUSES.0);
                continue;
            };
            let (peers, network) = (peers.clone(), Arc::clone(&network));
            // A caller that does not greet must not keep others waiting. What fails here, the caller tries again.
            spawn("twin-greet", move || {
                let _greeted = greet(identity, &peers, stream, &*network);
            });
        }
    });
}

fn greet(identity: Identity, peers: &[Arc<Peer>], mut stream: Stream, network: &dyn Network) -> io::Result<()> {
    stream.set_timeouts(Some(GREETING))?;
    let hello: Hello = read_json(&mut stream)?;
    let known = peers.iter().find(|peer| peer.organization == hello.from);
    let refused = match known {
        Some(peer) => {
            if hello.protocol != PROTOCOL {
                "the twin speaks another version"
            } else if hello.task != identity.task || hello.to != identity.organization {
                "another run is at this address"
            } else if let Err(reason) = network.admits(hello.from, stream.peer()) {
                reason
            } else {
                return peer.welcome(stream, &hello);
            }
        }
        None => "the organization is not among the twins that dial here",
    };
    write_json(&mut stream, &Answer::Refused { refused: refused.to_owned(), fatal: false })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) {
    // Without threads left there is no connection, which those who wait find out in time.
    let _started = thread::Builder::new().name(name.to_owned()).spawn(body);
}
