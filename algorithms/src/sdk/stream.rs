//! Byte streams, over TCP or as handed over by the node.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{IpAddr, Shutdown, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::net::{AddressFamily, sockopt};

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// A TCP connection.
    Tcp(TcpStream),
    /// Any other stream socket, and the address for which the node vouches.
    Local(UnixStream, Option<IpAddr>),
}

impl Stream {
    /// Wraps a connected stream socket of whatever family.
    ///
    /// # Errors
    ///
    /// The descriptor is not a socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Ok(match sockopt::socket_domain(&fd)? {
            AddressFamily::INET | AddressFamily::INET6 => {
                let stream = TcpStream::from(fd);
                stream.set_nodelay(true)?;
                Self::Tcp(stream)
            }
            _ => Self::Local(fd.into(), None),
        })
    }

    /// Notes the other end's address as the node says it. A TCP connection says it itself.
    pub(crate) fn coming_from(self, source: Option<IpAddr>) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream),
            Self::Local(stream, _) => Self::Local(stream, source),
        }
    }

    /// Another handle to the same connection.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
            Self::Local(stream, peer) => Self::Local(stream.try_clone()?, *peer),
        })
    }

    /// Ends the connection for all its handles.
    pub(crate) fn shutdown(&self) {
        // An error says that it has ended already.
        let _ended = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Local(stream, _) => stream.shutdown(Shutdown::Both),
        };
    }

    pub(crate) fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(true),
            Self::Local(stream, _) => stream.set_nonblocking(true),
        }
    }

    pub(crate) fn set_timeouts(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
            Self::Local(stream, _) => {
                stream.set_read_timeout(timeout)?;
                stream.set_write_timeout(timeout)
            }
        }
    }

    /// The other end's address, when there is such a thing.
    pub(crate) fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(stream) => stream.peer_addr().ok().map(|address| address.ip()),
            Self::Local(_, peer) => *peer,
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Local(stream, _) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Local(stream, _) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Local(stream, _) => stream.write(buffer),
        }
    }

    fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write_vectored(buffers),
            Self::Local(stream, _) => stream.write_vectored(buffers),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
