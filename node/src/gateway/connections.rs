//! The connections that a run makes to its gateway, and how much of the node each may take.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::runtime::{RunHandle, RunStream};

/// How much of the node a run may take by its gateway.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At a time. An algorithm has one or two; each costs the node a descriptor, of which all runs together have some
    /// thousand.
    connections: usize,
    /// How long the head of a request may take, counted from the connection or from the answer before.
    header_timeout: Duration,
    /// How long a body may pause.
    body_idle: Duration,
    /// The longest body of a request. An input of 64 MiB is more than a coordinator takes in a body.
    body_bytes: usize,
    /// From here on a body is large.
    large_bytes: usize,
    /// Large bodies in the node's memory at a time, those of answers included.
    large: usize,
}

pub(super) const LIMITS: Limits = Limits {
    connections: 64,
    header_timeout: Duration::from_secs(10),
    body_idle: Duration::from_secs(60),
    body_bytes: 96 << 20,
    large_bytes: 1 << 20,
    large: 2,
};

/// How much of a large answer is handed to a connection at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Answers what the run asks until it has ended or `stop` is cancelled; then its connections are cut.
pub(super) async fn serve<F, Fut>(limits: Limits, handle: Arc<dyn RunHandle>, stop: CancellationToken, answer: F)
where
    F: Fn(Request) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Response> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        // The place comes first: whoever has none waits outside, where it costs the node nothing more.
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, handle.accept_gateway().await)
        };
        let (place, accepted) = tokio::select! {
            accepted = accepted => accepted,
            () = stop.cancelled() => return,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok(stream) => {
                connections.spawn(connection(limits.header_timeout, stream, place, answer.clone()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection to a run's gateway");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

async fn connection<F, Fut>(header_timeout: Duration, stream: RunStream, _place: OwnedSemaphorePermit, answer: F)
where
    F: Fn(Request) -> Fut + Send + 'static,
    Fut: Future<Output = Response> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let answered = answer(request.map(Body::new));
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::trace!(%error, "a connection to a run's gateway broke off");
    }
}

/// The room that a run has for large bodies.
#[derive(Debug, Clone)]
pub(super) struct Room {
    limits: Limits,
    places: Arc<Semaphore>,
}

/// A part of the room, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Room {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, places: Arc::new(Semaphore::new(limits.large)) }
    }

    /// Waits for room for one large body.
    pub(super) async fn take(&self) -> Place {
        Place(Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed"))
    }

    /// Reads the body of a request; a large one takes room, which the caller keeps as long as it keeps the body.
    pub(super) async fn read(&self, mut body: Body) -> Result<(Bytes, Option<Place>), Failure> {
        let Limits { body_idle, body_bytes, large_bytes, .. } = self.limits;
        let mut place = None;
        let mut bytes = BytesMut::new();
        loop {
            let frame = timeout(body_idle, body.frame()).await.map_err(|_| {
                Failure::new(StatusCode::REQUEST_TIMEOUT, format!("the body paused for {} s", body_idle.as_secs()))
            })?;
            let frame = match frame {
                None => return Ok((bytes.freeze(), place)),
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    return Err(Failure::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}")));
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > body_bytes {
                let text = format!("the body is longer than {body_bytes} bytes");
                return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
            }
            if place.is_none() && bytes.len() + data.len() > large_bytes {
                place = Some(self.take().await);
            }
            bytes.extend_from_slice(&data);
        }
    }
}

/// An answer that keeps its room until the run has read it.
pub(super) fn answer_in(place: Place, body: &serde_json::Value) -> Response {
    let bytes = Bytes::from(body.to_string());
    let length = bytes.len();
    let chunks = futures::stream::unfold((bytes, place), |(mut rest, place)| async move {
        if rest.is_empty() {
            return None;
        }
        let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
        Some((Ok::<_, Infallible>(chunk), (rest, place)))
    });
    let headers = [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    (StatusCode::OK, headers, Body::from_stream(chunks)).into_response()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use async_trait::async_trait;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::UnixStream,
        sync::{Mutex, mpsc},
    };

    use super::*;
    use crate::runtime::{Exit, OutputError, RunListener};

    const SHORT: Limits = Limits {
        header_timeout: Duration::from_millis(300),
        body_idle: Duration::from_millis(300),
        body_bytes: 4096,
        large_bytes: 1024,
        ..LIMITS
    };

    /// Longer than anything here takes.
    const EVER: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn idle_connections_do_not_keep_a_run_from_its_gateway() {
        let (dial, _serving) = serve_echo();
        let mut idle = Vec::new();
        for _ in 0..SHORT.connections {
            idle.push(dial_one(&dial).await);
        }
        // A head that never ends counts as idle, too.
        idle[0].write_all(b"POST / HTTP/1.1\r\nx: y").await.unwrap();
        let mut late = dial_one(&dial).await;
        late.write_all(b"POST / HTTP/1.1\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").await.unwrap();
        let mut answer = Vec::new();
        let early = timeout(SHORT.header_timeout / 4, late.read_to_end(&mut answer)).await;
        assert!(early.is_err(), "there is no place yet");
        timeout(EVER, late.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(String::from_utf8(answer).unwrap().starts_with("HTTP/1.1 200"));
        let mut rest = Vec::new();
        timeout(EVER, idle[0].read_to_end(&mut rest)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_body_that_pauses_is_given_up() {
        let (dial, _serving) = serve_echo();
        let mut slow = dial_one(&dial).await;
        slow.write_all(b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhi").await.unwrap();
        let mut head = [0; 12];
        timeout(EVER, slow.read_exact(&mut head)).await.unwrap().unwrap();
        assert_eq!(&head, b"HTTP/1.1 408");
    }

    #[tokio::test]
    async fn two_large_bodies_at_a_time_have_room_and_small_ones_always() {
        let room = Room::new(SHORT);
        let large = || Body::from(vec![0; SHORT.large_bytes + 1]);
        let (_, first) = room.read(large()).await.unwrap();
        let answer = answer_in(room.take().await, &serde_json::json!("x"));
        assert!(futures::poll!(std::pin::pin!(room.read(large()))).is_pending(), "both places are taken");
        let (small, place) = room.read(Body::from("small")).await.unwrap();
        assert!(small == "small" && place.is_none());
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "\"x\"");
        room.read(large()).await.unwrap();
        drop(first);
        let endless = futures::stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from(vec![0; 1000])));
        let failure = room.read(Body::from_stream(endless)).await.unwrap_err();
        assert_eq!(failure.status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    fn serve_echo() -> (mpsc::Sender<RunStream>, JoinSet<()>) {
        let (dial, dialled) = mpsc::channel(1);
        let room = Room::new(SHORT);
        let mut serving = JoinSet::new();
        serving.spawn(serve(
            SHORT,
            Arc::new(Dialled(Mutex::new(dialled))),
            CancellationToken::new(),
            move |request: Request| {
                let room = room.clone();
                async move {
                    match room.read(request.into_body()).await {
                        Ok((bytes, _)) => bytes.into_response(),
                        Err(failure) => failure.into_response(),
                    }
                }
            },
        ));
        (dial, serving)
    }

    async fn dial_one(dial: &mpsc::Sender<RunStream>) -> UnixStream {
        let (run, node) = UnixStream::pair().unwrap();
        dial.send(RunStream::Unix(node)).await.unwrap();
        run
    }

    /// A run that does nothing but dial its gateway.
    #[derive(Debug)]
    struct Dialled(Mutex<mpsc::Receiver<RunStream>>);

    #[async_trait]
    impl RunHandle for Dialled {
        async fn wait(&self) -> Exit {
            std::future::pending().await
        }

        async fn kill(&self) {}

        async fn accept_gateway(&self) -> io::Result<RunStream> {
            self.0.lock().await.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
        }

        async fn listen(&self, _: SocketAddrV4) -> io::Result<RunListener> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn connect(&self, _: Option<Ipv4Addr>, _: u16) -> io::Result<RunStream> {
            Err(io::ErrorKind::Unsupported.into())
        }

        async fn output(&self) -> Result<Vec<u8>, OutputError> {
            Ok(Vec::new())
        }

        async fn log(&self) -> io::Result<Vec<u8>> {
            Ok(Vec::new())
        }
    }
}
