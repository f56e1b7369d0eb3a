//! Connections between the node and a run.

use std::{
    io,
    net::SocketAddrV4,
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::net::{AddressFamily, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Mutex, mpsc},
};

/// A byte stream to or from a run: TCP inside the run's network namespace, or a Unix socket pair where it has none.
#[derive(Debug)]
pub enum RunStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl RunStream {
    /// Takes over a connected stream socket of either family.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for anything else, and what the registration with the reactor answers.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        match sockopt::socket_domain(descriptor.as_fd())? {
            AddressFamily::UNIX => Ok(Self::Unix(UnixStream::from_std(descriptor.into())?)),
            AddressFamily::INET => {
                let stream = TcpStream::from_std(descriptor.into())?;
                // Twins exchange many small messages; latency counts and nothing is gained by coalescing on loopback.
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the descriptor is not a TCP or Unix stream")),
        }
    }
}

impl AsyncRead for RunStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for RunStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// Accepts what a run dials at one address.
#[derive(Debug)]
pub struct RunListener {
    address: SocketAddrV4,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Tcp(TcpListener),
    /// Connections that a control channel brings; the guard takes the address out of use when the listener is dropped.
    Channel {
        streams: Mutex<mpsc::Receiver<RunStream>>,
        _guard: Guard,
    },
}

impl RunListener {
    /// Takes over a listening TCP socket.
    pub(crate) fn from_descriptor(address: SocketAddrV4, descriptor: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&descriptor, true)?;
        let listener = TcpListener::from_std(descriptor.into())?;
        Ok(Self { address, source: Source::Tcp(listener) })
    }

    /// Wraps a queue of connections; `closed` is called when the listener is dropped.
    pub(crate) fn from_channel(
        address: SocketAddrV4,
        streams: mpsc::Receiver<RunStream>,
        closed: impl FnOnce() + Send + Sync + 'static,
    ) -> Self {
        Self {
            address,
            source: Source::Channel { streams: Mutex::new(streams), _guard: Guard(Some(Box::new(closed))) },
        }
    }

    /// The address that the run dials.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Waits for the run's next connection. Cancelling loses nothing.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotConnected`] once the run has ended, where that can be known; a listener in a network namespace
    /// just stays silent. So wait for the end of the run beside it.
    pub async fn accept(&self) -> io::Result<RunStream> {
        match &self.source {
            Source::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(RunStream::Tcp(stream))
            }
            Source::Channel { streams, .. } => {
                streams.lock().await.recv().await.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
            }
        }
    }
}

struct Guard(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(closed) = self.0.take() {
            closed();
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Guard")
    }
}
