//! The control channel of a run that has no network namespace: how it reaches its gateway and its twins.
//!
//! The run's agent holds the other end, because the channel must outlive the node.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendFlags},
};

use super::message::{self, Control, ControlAnswer, Received, Report};

/// How many calls to the gateway wait for a node to come back, as many as a listening socket would hold.
const MOST_WAITING: usize = 128;

/// What a run without a network asked for, and what the node opened to it.
pub(crate) struct Channel {
    run: Option<OwnedFd>,
    network: bool,
    /// What the run may dial.
    open: BTreeSet<SocketAddrV4>,
    /// Where the run listens, and the channel that brings it each connection.
    listening: BTreeMap<u16, OwnedFd>,
    /// Calls to the gateway that no node has taken.
    waiting: VecDeque<OwnedFd>,
}

impl Channel {
    pub(crate) fn new(run: OwnedFd, network: bool) -> Self {
        Self { run: Some(run), network, open: BTreeSet::new(), listening: BTreeMap::new(), waiting: VecDeque::new() }
    }

    /// What to wait on for the run's requests, while there can be any.
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.run.as_ref().map(|run| run.as_fd())
    }

    pub(crate) fn node_attached(&mut self, node: &OwnedFd) {
        while let Some(stream) = self.waiting.pop_front() {
            if message::send(node, &Report::Gateway, &[stream.as_fd()], SendFlags::DONTWAIT).is_err() {
                self.waiting.push_front(stream);
                return;
            }
        }
    }

    pub(crate) fn node_gone(&mut self) {
        self.open.clear();
    }

    pub(crate) fn listen(&mut self, address: SocketAddrV4) -> io::Result<()> {
        if self.open.insert(address) { Ok(()) } else { Err(Errno::ADDRINUSE.into()) }
    }

    pub(crate) fn close(&mut self, address: SocketAddrV4) {
        self.open.remove(&address);
    }

    /// Brings the run a connection to where it listens, with the address it comes from, and answers the other end of it.
    pub(crate) fn connect(&self, source: Option<Ipv4Addr>, port: u16) -> io::Result<OwnedFd> {
        let listening = self.listening.get(&port).ok_or(Errno::CONNREFUSED)?;
        let (node_end, run_end) = message::stream_pair()?;
        message::send(listening, &ControlAnswer::Ok { ok: true, source }, &[run_end.as_fd()], SendFlags::DONTWAIT)
            .map_err(|_| Errno::CONNREFUSED)?;
        Ok(node_end)
    }

    /// Hears one request of the run.
    pub(crate) fn hear(&mut self, node: Option<&OwnedFd>) {
        let Some(run) = &self.run else { return };
        let request = match message::receive(run, RecvFlags::DONTWAIT) {
            Ok(Received::Message(request, _)) => Some(request),
            Ok(Received::Malformed) => None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(Received::Closed) | Err(_) => {
                self.run = None;
                return;
            }
        };
        let answer = match request {
            Some(request) => self.serve(request, node),
            None => Err("the request must be JSON with `op` being `gateway`, `dial` or `listen`".to_owned()),
        };
        let Some(run) = &self.run else { return };
        let sent = match &answer {
            Ok(socket) => message::send(run, &ControlAnswer::OK, &[socket.as_fd()], SendFlags::DONTWAIT),
            Err(error) => message::send(run, &ControlAnswer::error(error), &[], SendFlags::DONTWAIT),
        };
        // A run that does not read its answers asks for nothing more.
        if sent.is_err() {
            self.run = None;
        }
    }

    fn serve(&mut self, request: Control, node: Option<&OwnedFd>) -> Result<OwnedFd, String> {
        if !self.network {
            return Err("this run has no network".into());
        }
        let failed = |error: io::Error| format!("cannot make a connection: {error}");
        match request {
            Control::Gateway => {
                let (node_end, run_end) = message::stream_pair().map_err(failed)?;
                let sent = node.is_some_and(|node| {
                    message::send(node, &Report::Gateway, &[node_end.as_fd()], SendFlags::DONTWAIT).is_ok()
                });
                if !sent {
                    if self.waiting.len() >= MOST_WAITING {
                        return Err("too many calls wait for the gateway".into());
                    }
                    self.waiting.push_back(node_end);
                }
                Ok(run_end)
            }
            Control::Dial { address } => {
                let Some(node) = node.filter(|_| self.open.contains(&address)) else {
                    return Err(format!("{address}: connection refused"));
                };
                let (node_end, run_end) = message::stream_pair().map_err(failed)?;
                message::send(node, &Report::Dialed { address }, &[node_end.as_fd()], SendFlags::DONTWAIT)
                    .map_err(|_| format!("{address}: connection refused"))?;
                Ok(run_end)
            }
            Control::Listen { port } => {
                if self.listening.get(&port).is_some_and(is_held) {
                    return Err(format!("port {port}: address in use"));
                }
                let (agent_end, run_end) = message::packet_pair().map_err(failed)?;
                self.listening.insert(port, agent_end);
                Ok(run_end)
            }
        }
    }
}

/// Whether the run still holds the other end of where it listens.
fn is_held(listening: &OwnedFd) -> bool {
    let mut other_end = [PollFd::new(listening, PollFlags::empty())];
    // What cannot be looked at is taken to be held.
    let _ = poll(&mut other_end, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
    !other_end[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
}
