//! Marks the end of a stream, so that a lost connection is never mistaken for one.
//!
//! A multiplexer reports a reset stream and a dead connection to the reader as a plain end of file. Whoever reads until
//! the end would take half of a message for the whole. So bytes travel in records: two bytes of length, big endian,
//! then that many bytes; a record of length zero says that the sender has finished.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest record, as far as two bytes can count.
const MAX_RECORD: usize = u16::MAX as usize;

/// A byte stream whose end is explicit, over one whose end is not.
#[derive(Debug)]
pub(crate) struct Records<S> {
    inner: S,
    reading: Reading,
    /// The record being sent, and how much of it has been; kept until the next write, flush or shutdown.
    outgoing: Vec<u8>,
    outgoing_sent: usize,
    finished: bool,
}

#[derive(Debug)]
enum Reading {
    Header { bytes: [u8; 2], have: usize },
    Body { remaining: usize },
    Ended,
    Lost,
}

impl<S> Records<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            reading: Reading::Header { bytes: [0; 2], have: 0 },
            outgoing: Vec::new(),
            outgoing_sent: 0,
            finished: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Records<S> {
    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.outgoing_sent < self.outgoing.len() {
            let rest = &self.outgoing[self.outgoing_sent..];
            match ready!(Pin::new(&mut self.inner).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                sent => self.outgoing_sent += sent,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.reading {
                Reading::Ended => return Poll::Ready(Ok(())),
                Reading::Lost => return Poll::Ready(Err(lost())),
                Reading::Header { bytes, have: 2 } => {
                    this.reading = match usize::from(u16::from_be_bytes(*bytes)) {
                        0 => Reading::Ended,
                        remaining => Reading::Body { remaining },
                    };
                }
                Reading::Header { bytes, have } => {
                    let mut part = ReadBuf::new(&mut bytes[*have..]);
                    ready!(Pin::new(&mut this.inner).poll_read(context, &mut part))?;
                    match part.filled().len() {
                        0 => this.reading = Reading::Lost,
                        read => *have += read,
                    }
                }
                Reading::Body { remaining: 0 } => this.reading = Reading::Header { bytes: [0; 2], have: 0 },
                Reading::Body { remaining } => {
                    let room = buffer.remaining().min(*remaining);
                    if room == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(room));
                    ready!(Pin::new(&mut this.inner).poll_read(context, &mut part))?;
                    let read = part.filled().len();
                    if read == 0 {
                        this.reading = Reading::Lost;
                        continue;
                    }
                    buffer.advance(read);
                    *remaining -= read;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_drain(context))?;
        let taken = bytes.len().min(MAX_RECORD);
        if taken == 0 {
            return Poll::Ready(Ok(0));
        }
        let header = u16::try_from(taken).expect("a record is no longer than two bytes can say").to_be_bytes();
        this.outgoing.clear();
        this.outgoing.extend_from_slice(&header);
        this.outgoing.extend_from_slice(&bytes[..taken]);
        this.outgoing_sent = 0;
        if let Poll::Ready(Err(error)) = this.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        if !self.finished {
            self.finished = true;
            self.outgoing.clear();
            self.outgoing.extend_from_slice(&[0, 0]);
            self.outgoing_sent = 0;
            ready!(self.poll_drain(context))?;
        }
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the twin's end of the stream was lost before it had finished")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_the_end_is_seen() {
        let (a, b) = duplex(1000);
        let (mut a, mut b) = (Records::new(a), Records::new(b));
        let sent: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            a.write_all(&copy).await.unwrap();
            a.shutdown().await.unwrap();
            let mut answer = String::new();
            a.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let mut received = Vec::new();
        b.read_to_end(&mut received).await.unwrap();
        assert_eq!(received, sent);
        b.write_all(b"still open this way").await.unwrap();
        b.shutdown().await.unwrap();
        assert_eq!(writer.await.unwrap(), "still open this way");
    }

    #[tokio::test]
    async fn an_end_without_its_mark_is_an_error() {
        for garbled in [&b""[..], b"\x00", b"\x00\x05abc", b"\x00\x03abc"] {
            let (mut a, b) = duplex(1000);
            a.write_all(garbled).await.unwrap();
            drop(a);
            let mut received = Vec::new();
            let error = Records::new(b).read_to_end(&mut received).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{garbled:?}");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_holds_the_writer_back() {
        let (a, b) = duplex(4096);
        let mut a = Records::new(a);
        let mut accepted = 0;
        while let Ok(written) = tokio::time::timeout(std::time::Duration::from_millis(50), a.write(&[7; 1024])).await {
            accepted += written.unwrap();
        }
        assert!(accepted <= 4096 + 1024, "{accepted} bytes were taken for a reader with room for 4096");
        drop(b);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            block_on(async {
                let (mut a, b) = duplex(4096);
                a.write_all(&bytes).await.unwrap();
                drop(a);
                let mut received = Vec::new();
                let _ = Records::new(b).read_to_end(&mut received).await;
                assert!(received.len() <= bytes.len());
            });
        }

        #[test]
        fn any_pieces_arrive_in_order(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20), room in 1_usize..64) {
            block_on(async {
                let (a, b) = duplex(room);
                let (mut a, mut b) = (Records::new(a), Records::new(b));
                let expected = pieces.concat();
                let (_, received) = tokio::join!(
                    async {
                        for piece in &pieces {
                            a.write_all(piece).await.unwrap();
                        }
                        a.shutdown().await.unwrap();
                    },
                    async {
                        let mut received = Vec::new();
                        b.read_to_end(&mut received).await.unwrap();
                        received
                    }
                );
                assert_eq!(received, expected);
            });
        }
    }
}
