//! The control channel of runs that have no network of their own.
//!
//! Such a run inherits one Unix socket of type `SOCK_SEQPACKET`. It asks there for connections, one request at a time,
//! and gets them as descriptors.

use std::{
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr},
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, Shutdown, recvmsg, send, shutdown};
use serde::{Deserialize, Serialize};

use super::stream::Stream;

/// The longest message on the channel.
const MAX_MESSAGE: usize = 4096;

/// A reason for not getting a connection.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The node closed the channel; nothing will come from it any more.
    #[error("the node closed the run's control channel")]
    Closed,
    /// The channel failed.
    #[error("cannot use the run's control channel")]
    Io(#[from] io::Error),
    /// The node said something unintelligible.
    #[error("the node's answer on the control channel {0}")]
    Malformed(&'static str),
    /// The node said no.
    #[error("the node does not connect this run: {0}")]
    Refused(String),
}

#[derive(Debug, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Request<'a> {
    Gateway,
    Dial { address: &'a str },
    Listen { port: u16 },
}

#[derive(Debug, Deserialize)]
struct Reply {
    error: Option<String>,
    /// Whose connection it is, as the node found out for itself.
    source: Option<Ipv4Addr>,
}

/// The run's end of the channel.
#[derive(Debug)]
pub struct Control {
    socket: Mutex<OwnedFd>,
}

impl Control {
    /// Wraps the inherited socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket: Mutex::new(socket) }
    }

    /// Asks for a connection to the gateway.
    ///
    /// # Errors
    ///
    /// See [`ControlError`].
    pub fn gateway(&self) -> Result<Stream, ControlError> {
        Ok(Stream::from_fd(self.ask(&Request::Gateway)?)?)
    }

    /// Asks for a connection to a twin at `address:port`.
    ///
    /// # Errors
    ///
    /// See [`ControlError`].
    pub fn dial(&self, address: &str) -> Result<Stream, ControlError> {
        Ok(Stream::from_fd(self.ask(&Request::Dial { address })?)?)
    }

    /// Asks for the connections that twins make to one of this run's ports.
    ///
    /// # Errors
    ///
    /// See [`ControlError`].
    pub fn listen(&self, port: u16) -> Result<ControlListener, ControlError> {
        Ok(ControlListener { socket: self.ask(&Request::Listen { port })? })
    }

    fn ask(&self, request: &Request<'_>) -> Result<OwnedFd, ControlError> {
        let text = serde_json::to_vec(request).map_err(io::Error::from)?;
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        match rustix::io::retry_on_intr(|| send(&*socket, &text, SendFlags::NOSIGNAL)) {
            Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => return Err(ControlError::Closed),
            other => other.map_err(io::Error::from)?,
        };
        receive(&socket).map(|(descriptor, _)| descriptor)
    }
}

/// Connections made to one of this run's ports.
#[derive(Debug)]
pub struct ControlListener {
    socket: OwnedFd,
}

impl ControlListener {
    /// Waits for the next connection, which knows the address of the twin that made it if the node said so.
    ///
    /// # Errors
    ///
    /// See [`ControlError`]; `Closed` also after [`ControlListener::close`].
    pub fn accept(&self) -> Result<Stream, ControlError> {
        let (descriptor, source) = receive(&self.socket)?;
        Ok(Stream::from_fd(descriptor)?.coming_from(source))
    }

    /// Ends the waiting of all threads.
    pub fn close(&self) {
        // An error says that it has ended already.
        let _ended = shutdown(&self.socket, Shutdown::Both);
    }
}

fn receive(socket: &OwnedFd) -> Result<(OwnedFd, Option<IpAddr>), ControlError> {
    let mut text = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    });
    let length = match received {
        Ok(message) if message.bytes == 0 => return Err(ControlError::Closed),
        Ok(message) => message.bytes,
        Err(rustix::io::Errno::CONNRESET) => return Err(ControlError::Closed),
        Err(error) => return Err(ControlError::Io(error.into())),
    };
    // Draining takes ownership of every descriptor that came, so that none is leaked.
    let mut descriptors: Vec<OwnedFd> = ancillary
        .drain()
        .flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        })
        .collect();
    let reply: Reply = serde_json::from_slice(text.get(..length).unwrap_or_default())
        .map_err(|_| ControlError::Malformed("is not valid JSON"))?;
    if let Some(reason) = reply.error {
        return Err(ControlError::Refused(reason));
    }
    match (descriptors.pop(), descriptors.is_empty()) {
        (Some(descriptor), true) => Ok((descriptor, reply.source.map(IpAddr::V4))),
        (None, _) => Err(ControlError::Malformed("carries no connection")),
        (Some(_), false) => Err(ControlError::Malformed("carries several connections")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        io::{Read, Write},
        os::{
            fd::{AsFd, BorrowedFd},
            unix::net::UnixStream,
        },
    };

    use rustix::net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SocketFlags, SocketType, recv, sendmsg, socketpair,
    };

    use super::*;

    pub(crate) fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    /// Reads one request as the node would; `None` at the end.
    pub(crate) fn request(socket: &OwnedFd) -> Option<serde_json::Value> {
        let mut text = [0; MAX_MESSAGE];
        let (length, _) = recv(socket, &mut text[..], RecvFlags::empty()).unwrap();
        (length > 0).then(|| serde_json::from_slice(&text[..length]).unwrap())
    }

    pub(crate) fn reply(socket: &OwnedFd, text: &str, descriptor: Option<BorrowedFd<'_>>) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = descriptor.as_slice();
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)));
        }
        sendmsg(socket, &[std::io::IoSlice::new(text.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    }

    #[test]
    fn connections_come_as_descriptors() {
        let (own, node) = pair();
        let node = std::thread::spawn(move || {
            assert_eq!(request(&node).unwrap(), serde_json::json!({"op": "dial", "address": "100.64.0.2:49152"}));
            let (mut near, far) = UnixStream::pair().unwrap();
            near.write_all(b"hello").unwrap();
            drop(near);
            reply(&node, r#"{"ok":true}"#, Some(far.as_fd()));
            assert_eq!(request(&node).unwrap(), serde_json::json!({"op": "gateway"}));
            reply(&node, r#"{"error":"not for you"}"#, None);
        });
        let control = Control::new(own);
        let mut stream = control.dial("100.64.0.2:49152").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(matches!(control.gateway(), Err(ControlError::Refused(reason)) if reason == "not for you"));
        node.join().unwrap();
        assert!(matches!(control.gateway(), Err(ControlError::Closed)));
    }

    #[test]
    fn accepted_connections_arrive_until_the_listener_is_closed() {
        let (own, node) = pair();
        let (listener, feed) = pair();
        let (_near, far) = UnixStream::pair().unwrap();
        let control = Control::new(own);
        let listening = std::thread::scope(|scope| {
            let asking = scope.spawn(|| control.listen(8888).unwrap());
            assert_eq!(request(&node).unwrap(), serde_json::json!({"op": "listen", "port": 8888}));
            reply(&node, r#"{"ok":true}"#, Some(listener.as_fd()));
            asking.join().unwrap()
        });
        drop(listener);
        reply(&feed, r#"{"ok":true,"source":"100.64.0.3"}"#, Some(far.as_fd()));
        let accepted = listening.accept().unwrap();
        assert_eq!(accepted.peer(), Some(Ipv4Addr::new(100, 64, 0, 3).into()));
        assert_eq!(accepted.try_clone().unwrap().peer(), accepted.peer());
        reply(&feed, r#"{"ok":true}"#, Some(far.as_fd()));
        assert_eq!(listening.accept().unwrap().peer(), None);
        reply(&feed, r#"{"ok":true,"source":"somewhere"}"#, Some(far.as_fd()));
        assert!(matches!(listening.accept(), Err(ControlError::Malformed(_))));
        reply(&feed, r#"{"ok":true}"#, None);
        assert!(matches!(listening.accept(), Err(ControlError::Malformed("carries no connection"))));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| listening.accept());
            listening.close();
            assert!(matches!(waiting.join().unwrap(), Err(ControlError::Closed)));
        });
    }
}
