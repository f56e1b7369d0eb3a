//! One HTTP/1.1 exchange over a fresh connection.
//!
//! The gateway is on this machine, so a connection costs little, and one that is used once cannot be stale.
//!
//! hyper is driven by hand, with `poll(2)` on the one socket: an async runtime would want sockets of its own for
//! its signals, which a locked-down run may not have.
#![expect(clippy::disallowed_methods, reason = "shell")]

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io::{self, Read, Write},
    pin::{Pin, pin},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header, rt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::stream::Stream;

/// The longest answer that is read.
const MAX_BODY: usize = 1 << 30;

/// How much is read at once.
const READ_BYTES: usize = 64 * 1024;

/// A request to the gateway.
#[derive(Debug, Clone)]
pub(super) struct Exchange {
    pub(super) method: Method,
    /// Path and query.
    pub(super) target: String,
    pub(super) host: String,
    pub(super) token: String,
    pub(super) idempotency_key: Option<String>,
    pub(super) body: Option<Bytes>,
    pub(super) timeout: Duration,
}

impl Exchange {
    /// Sends the request and reads the whole answer.
    pub(super) fn perform(&self, stream: Stream) -> io::Result<(StatusCode, Bytes)> {
        stream.set_nonblocking()?;
        let socket = stream.try_clone()?;
        let wants = Rc::new(Wants::default());
        let io = Socket { stream, wants: Rc::clone(&wants), buffer: vec![0; READ_BYTES] };
        drive(&socket, &wants, Instant::now() + self.timeout, self.exchange(io))?
    }

    async fn exchange(&self, socket: Socket) -> io::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) = http1::handshake(socket).await.map_err(io::Error::other)?;
        let request = self.request()?;
        let mut connection = pin!(connection);
        let mut answer = pin!(async move {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        });
        let mut connected = true;
        poll_fn(|context| {
            if let Poll::Ready(answer) = answer.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            // Should it fail, the answer says so.
            if connected && connection.as_mut().poll(context).is_ready() {
                connected = false;
                return answer.as_mut().poll(context);
            }
            Poll::Pending
        })
        .await
    }

    fn request(&self) -> io::Result<Request<Full<Bytes>>> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.target)
            .header(header::HOST, &self.host)
            .header(header::ACCEPT, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONNECTION, "close");
        if let Some(key) = &self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        if self.body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        request
            .body(Full::new(self.body.clone().unwrap_or_default()))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
    }
}

/// For what the socket is waited for.
#[derive(Default)]
struct Wants {
    read: Cell<bool>,
    write: Cell<bool>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs a future that waits for nothing but the socket and itself.
fn drive<F: Future>(socket: &Stream, wants: &Wants, deadline: Instant, future: F) -> io::Result<F::Output> {
    let mut future = pin!(future);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(Arc::clone(&woken));
    loop {
        wants.read.set(false);
        wants.write.set(false);
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Ok(output);
        }
        if woken.0.swap(false, Ordering::Acquire) {
            continue;
        }
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::IN, wants.read.get() || !wants.write.get());
        flags.set(PollFlags::OUT, wants.write.get());
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, flags)], Some(&timeout)) {
            Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "there was no answer in time")),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A socket that does not block, as hyper wants it.
struct Socket {
    stream: Stream,
    wants: Rc<Wants>,
    buffer: Vec<u8>,
}

/// Turns "would block" into waiting.
fn ready<T>(result: io::Result<T>, wants: &Cell<bool>) -> Poll<io::Result<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            wants.set(true);
            Poll::Pending
        }
        other => Poll::Ready(other),
    }
}

impl rt::Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut target: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, wants, buffer } = &mut *self;
        let room = target.remaining().min(buffer.len());
        ready(stream.read(&mut buffer[..room]), &wants.read).map_ok(|count| target.put_slice(&buffer[..count]))
    }
}

impl rt::Write for Socket {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, wants, .. } = &mut *self;
        ready(stream.write(bytes), &wants.write)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.shutdown();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, thread};

    use super::*;

    fn exchange(body: Option<Bytes>, timeout: Duration) -> Exchange {
        Exchange {
            method: Method::POST,
            target: "/task".to_owned(),
            host: "gateway".to_owned(),
            token: "token".to_owned(),
            idempotency_key: Some("key".to_owned()),
            body,
            timeout,
        }
    }

    #[test]
    fn long_requests_and_answers_pass_a_narrow_socket() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let body = [vec![b'x'; 3 << 20], b"!".to_vec()].concat();
        let server = thread::spawn(move || {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"x!") {
                let count = far.read(&mut buffer).unwrap();
                request.extend_from_slice(&buffer[..count]);
            }
            far.write_all(b"HTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
            for _ in 0..300 {
                far.write_all(b"2710\r\n").unwrap();
                far.write_all(&[b'y'; 10_000]).unwrap();
                far.write_all(b"\r\n").unwrap();
            }
            far.write_all(b"0\r\n\r\n").unwrap();
            String::from_utf8_lossy(&request[..300]).into_owned()
        });
        let exchange = exchange(Some(body.into()), Duration::from_secs(30));
        let (status, answer) = exchange.perform(Stream::Local(near, None)).unwrap();
        assert_eq!((status, answer.len()), (StatusCode::CREATED, 3_000_000));
        let head = server.join().unwrap();
        assert!(head.starts_with("POST /task HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("authorization: Bearer token\r\n") && head.contains("idempotency-key: key\r\n"));
    }

    #[test]
    fn silence_and_a_lost_connection_are_errors() {
        let (near, far) = UnixStream::pair().unwrap();
        let error = exchange(None, Duration::from_millis(50)).perform(Stream::Local(near, None)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(far);
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert!(exchange(None, Duration::from_secs(30)).perform(Stream::Local(near, None)).is_err());
    }
}
