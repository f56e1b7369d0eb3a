//! The shell around the interface: connections, and their end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::tls::Tls;

/// How long requests that are being answered may take once the process ends. Held requests and event streams are cut
/// then, without an answer: their clients ask again.
const GRACE: Duration = Duration::from_millis(700);
/// How long what was sent may remain without an acknowledgement, or a quiet peer without a sign of life, before the
/// connection is given up. A node that vanishes without a word counts as gone so soon after; left to themselves systems
/// try for a quarter of an hour (tcp(7), `tcp_retries2`).
const VANISHED: Duration = Duration::from_secs(30);
/// Signs of life asked for within [`VANISHED`]: after half of it, then in even steps.
const PROBES: u32 = 3;
/// How long to wait after the machine had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to serve.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// How long a client may take to shake hands, and to tell a request's head.
    pub(crate) header_timeout: Duration,
    /// How many connections may be open at a time.
    pub(crate) connections: usize,
    /// Whether TLS is spoken.
    pub(crate) tls: Option<Tls>,
}

/// Serves until `shutdown`, then ends every connection within [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, manner: Manner, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(manner.connections.min(Semaphore::MAX_PERMITS)));
    let mut is_full = false;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, peer, place)) => {
                    let (manner, router, shutdown) = (manner.clone(), router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        let _place = place;
                        connection(stream, peer, router, manner, shutdown).await;
                    });
                    let was_full = std::mem::replace(&mut is_full, places.available_permits() == 0);
                    if is_full && !was_full {
                        tracing::warn!("as many connections are open as `limits.connections` allows; more wait");
                    }
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all).await.is_err() {
        connections.shutdown().await;
    }
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

/// The next connection, once there is a place for it.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, manner: Manner, shutdown: CancellationToken) {
    if let Err(error) = attend(&stream) {
        tracing::debug!("a connection keeps the system's settings: {error}");
    }
    let Some(tls) = &manner.tls else { return converse(stream, peer, router, &manner, shutdown).await };
    let greeted = tokio::time::timeout(manner.header_timeout, tls.acceptor().accept(stream));
    let greeted = tokio::select! {
        greeted = greeted => greeted,
        () = shutdown.cancelled() => return,
    };
    match greeted {
        Ok(Ok(stream)) => converse(stream, peer, router, &manner, shutdown).await,
        // Scanners, and those who speak plain HTTP: nothing that somebody must act on.
        Ok(Err(error)) => tracing::debug!("a client does not speak TLS with us: {error}"),
        Err(_) => tracing::debug!("a client took too long to shake hands"),
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: SocketAddr,
    router: Router,
    manner: &Manner,
    shutdown: CancellationToken,
) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| answer(router.clone(), peer, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(manner.header_timeout)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::trace!("a connection ended: {error}");
    }
}

/// Sends small answers at once, and notices when the peer vanishes.
fn attend(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, VANISHED / 2)?;
    sockopt::set_tcp_keepintvl(stream, VANISHED / 2 / PROBES)?;
    sockopt::set_tcp_keepcnt(stream, PROBES)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, u32::try_from(VANISHED.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

async fn answer(
    router: Router,
    peer: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    request.extensions_mut().insert(ConnectInfo(peer));
    router.oneshot(request.map(Body::new)).await
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[tokio::test]
    async fn a_peer_that_vanishes_is_noticed_within_half_a_minute() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        attend(&stream).unwrap();
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        let probing = sockopt::tcp_keepintvl(&stream).unwrap() * sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap() + probing, VANISHED);
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&stream).unwrap(), 30_000);
    }
}
