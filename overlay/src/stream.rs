//! The byte stream between two nodes.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::{
    compat::{Compat, FuturesAsyncReadCompatExt},
    sync::{CancellationToken, WaitForCancellationFutureOwned},
};

use crate::{
    path::{Counters, Path},
    record::Records,
};

/// A reliable, ordered, two-way byte stream to another node, encrypted end to end whatever its path.
///
/// Each direction ends by `shutdown`, and reading then returns zero bytes. When the stream is lost instead (the peer
/// died, its connection was cut, the mesh it belonged to was closed, or the other side dropped its end), reading and
/// writing fail, so a half-sent message is never taken for a whole one. Written bytes may wait in a buffer until
/// `flush`. Dropping a stream resets it.
pub struct TwinStream {
    records: Records<Compat<libp2p::Stream>>,
    peer: PeerId,
    path: Path,
    counters: Arc<Counters>,
    ends: Vec<End>,
    /// Counts this stream among those that were opened on its connection.
    _opened: Option<Arc<()>>,
}

/// Something whose end is the stream's end too; one waiting future for each direction, because each has its own waker.
struct End {
    token: CancellationToken,
    reading: Pin<Box<WaitForCancellationFutureOwned>>,
    writing: Pin<Box<WaitForCancellationFutureOwned>>,
    reason: &'static str,
    /// Whether bytes that have arrived already are withheld too.
    abrupt: bool,
}

impl TwinStream {
    pub(crate) fn new(
        stream: libp2p::Stream,
        peer: PeerId,
        path: Path,
        counters: Arc<Counters>,
        connection: CancellationToken,
        opened: Option<Arc<()>>,
    ) -> Self {
        let mut stream =
            Self { records: Records::new(stream.compat()), peer, path, counters, ends: Vec::new(), _opened: opened };
        stream.ends.push(End::new(connection, "the connection to the twin's node was lost", false));
        stream
    }

    /// The node at the other end, proven by its key when the connection was made.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// The path this stream takes. It stays the same for the life of the stream; a later one may get a better path.
    #[must_use]
    pub fn path(&self) -> Path {
        self.path
    }

    /// Cuts the stream, with this reason, once the token is cancelled.
    pub(crate) fn cut_by(&mut self, token: CancellationToken, reason: &'static str) {
        self.ends.push(End::new(token, reason, true));
    }

    fn poll_lost(&mut self, context: &mut Context<'_>, direction: Direction) -> Poll<io::Error> {
        for end in &mut self.ends {
            let waiting = match direction {
                Direction::Reading => &mut end.reading,
                Direction::Writing => &mut end.writing,
            };
            if end.token.is_cancelled() || waiting.as_mut().poll(context).is_ready() {
                return Poll::Ready(end.error());
            }
        }
        Poll::Pending
    }
}

impl End {
    fn new(token: CancellationToken, reason: &'static str, abrupt: bool) -> Self {
        Self {
            reading: Box::pin(token.clone().cancelled_owned()),
            writing: Box::pin(token.clone().cancelled_owned()),
            token,
            reason,
            abrupt,
        }
    }

    fn error(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, self.reason)
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Reading,
    Writing,
}

impl AsyncRead for TwinStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(end) = self.ends.iter().find(|end| end.abrupt && end.token.is_cancelled()) {
            return Poll::Ready(Err(end.error()));
        }
        let before = buffer.filled().len();
        // What has arrived is handed out even when the connection is gone: only waiting for more is in vain.
        match Pin::new(&mut self.records).poll_read(context, buffer) {
            Poll::Pending => self.poll_lost(context, Direction::Reading).map(Err),
            Poll::Ready(result) => {
                self.counters.received(self.path, buffer.filled().len() - before);
                Poll::Ready(result)
            }
        }
    }
}

impl AsyncWrite for TwinStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_lost(context, Direction::Writing) {
            return Poll::Ready(Err(error));
        }
        let result = Pin::new(&mut self.records).poll_write(context, bytes);
        if let Poll::Ready(Ok(written)) = &result {
            self.counters.sent(self.path, *written);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.records).poll_flush(context) {
            Poll::Pending => self.poll_lost(context, Direction::Writing).map(Err),
            ready => ready,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.records).poll_shutdown(context) {
            Poll::Pending => self.poll_lost(context, Direction::Writing).map(Err),
            ready => ready,
        }
    }
}

impl fmt::Debug for TwinStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TwinStream").field("peer", &self.peer).field("path", &self.path).finish_non_exhaustive()
    }
}
