//! What the node and a run's agent say to each other, and how it travels.
//!
//! One JSON text per packet of a Unix `SOCK_SEQPACKET`, with descriptors beside it. The run's own control channel uses the same
//! packets.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use camino::Utf8PathBuf;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::runtime::{Exit, Limits};

/// The largest packet. Nothing that is said comes near; what is large travels in files.
const PACKET_BYTES: usize = 64 * 1024;

/// The most descriptors beside one packet.
const DESCRIPTORS: usize = 2;

/// All that an agent must know about the run it is for. Travels in a file, because an environment may be large.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) directory: Utf8PathBuf,
    pub(crate) confinement: Confinement,
    /// The user and group that a run becomes, if the node has the powers of root.
    pub(crate) unprivileged: Option<(u32, u32)>,
    pub(crate) program: Program,
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) mounts: Vec<Mount>,
    /// The host directory at `/mnt/tmp`; without it the run has memory there.
    pub(crate) temporary: Option<Utf8PathBuf>,
    pub(crate) limits: Limits,
    pub(crate) network: bool,
    pub(crate) orphan_grace: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Confinement {
    Full,
    Lite,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Program {
    Builtin,
    /// Does nothing, successfully: tells whether runs are possible.
    Probe,
    Command {
        root: Utf8PathBuf,
        argv: Vec<String>,
        working_directory: Utf8PathBuf,
    },
}

/// A file or directory of the host that a run sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Mount {
    pub(crate) source: Utf8PathBuf,
    /// Where the run sees it, in full confinement.
    pub(crate) target: Utf8PathBuf,
    pub(crate) writable: bool,
}

/// From the node to the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Beside it: the listening socket at which later nodes find the agent, and the file with the [`Setup`].
    Start,
    /// Answered with a listening socket in full confinement, without one in lite.
    Listen {
        id: u64,
        address: SocketAddrV4,
    },
    /// Ends a `Listen` in lite confinement.
    Close {
        address: SocketAddrV4,
    },
    /// Answered with a socket that is connected or about to be.
    Connect {
        id: u64,
        source: Option<Ipv4Addr>,
        port: u16,
    },
    Kill,
}

/// From the agent to the node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Report {
    /// The algorithm runs. Beside it, in full confinement with network: the listening socket of the gateway.
    Started,
    /// The run did not begin.
    Failed {
        stage: String,
        error: i32,
    },
    Done {
        id: u64,
    },
    Refused {
        id: u64,
        error: i32,
    },
    /// Beside it, in lite confinement: a connection of the run to its gateway.
    Gateway,
    /// Beside it, in lite confinement: a connection of the run to an address.
    Dialed {
        address: SocketAddrV4,
    },
    Ended(Exit),
    /// Another node attached; this one learns nothing more.
    Replaced,
}

/// From a run without network namespace to its agent.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(crate) enum Control {
    Gateway,
    Dial { address: SocketAddrV4 },
    Listen { port: u16 },
}

/// The answer to [`Control`], with a socket beside it if `ok`; also what a listening run receives for each connection.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum ControlAnswer {
    Ok {
        ok: bool,
        /// Whose connection this is, as the overlay proved it.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<Ipv4Addr>,
    },
    Error {
        error: String,
    },
}

impl ControlAnswer {
    pub(crate) const OK: Self = Self::Ok { ok: true, source: None };

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::Error { error: text.into() }
    }
}

/// What one [`receive`] found.
pub(crate) enum Received<M> {
    Message(M, Vec<OwnedFd>),
    /// Something that is no message of this kind; its descriptors were closed.
    Malformed,
    /// The other end is gone.
    Closed,
}

/// A connected pair of packet sockets that no exec inherits.
pub(crate) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A connected pair of stream sockets that no exec inherits.
pub(crate) fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Sends one message. Fails with [`io::ErrorKind::WouldBlock`] if `flags` say so and the other end does not read.
pub(crate) fn send(
    socket: impl AsFd,
    message: &impl Serialize,
    descriptors: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    if text.len() > PACKET_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    let flags = flags | SendFlags::NOSIGNAL;
    rustix::io::retry_on_intr(|| rustix::net::sendmsg(&socket, &[IoSlice::new(&text)], &mut ancillary, flags))?;
    Ok(())
}

/// Receives one message. Fails with [`io::ErrorKind::WouldBlock`] if `flags` or the socket say so and there is none.
pub(crate) fn receive<M: DeserializeOwned>(socket: impl AsFd, flags: RecvFlags) -> io::Result<Received<M>> {
    let mut text = vec![0; PACKET_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = flags | RecvFlags::CMSG_CLOEXEC;
    let received = match rustix::io::retry_on_intr(|| {
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut text)], &mut ancillary, flags)
    }) {
        Ok(received) => received,
        Err(rustix::io::Errno::CONNRESET) => return Ok(Received::Closed),
        Err(error) => return Err(error.into()),
    };
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(Received::Closed);
    }
    Ok(match serde_json::from_slice(&text[..received.bytes]) {
        Ok(message) => Received::Message(message, descriptors),
        Err(_) => Received::Malformed,
    })
}
