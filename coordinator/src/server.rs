//! The shell around the interface: connections, and their end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::authn::limiter::Key;
use crate::config::Network;
use crate::tally::{Entry, Tally};
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
    /// How many of them one address may have.
    pub(crate) per_address: usize,
    /// Whose connections are not counted by address.
    pub(crate) uncounted: Vec<Network>,
    /// Counts those that are closed because their address has too many.
    pub(crate) refused: Counter,
    /// Whether TLS is spoken.
    pub(crate) tls: Option<Tls>,
}

/// Serves until `shutdown`, then ends every connection within [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, manner: Manner, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(manner.connections.min(Semaphore::MAX_PERMITS)));
    let addresses = Tally::default();
    let mut is_full = false;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, peer, place)) => {
                    let Some(own_place) = own_place(&addresses, peer.ip(), &manner) else {
                        // Closed by being dropped: whoever floods us is not worth an answer.
                        manner.refused.inc();
                        tracing::debug!("an address has as many connections as `limits.connections_per_address` allows");
                        continue;
                    };
                    let (manner, router, shutdown) = (manner.clone(), router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        let _places = (place, own_place);
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

/// A place among the connections of an address; `None` when it has enough of them.
fn own_place(addresses: &Tally<Key>, peer: IpAddr, manner: &Manner) -> Option<Option<Entry<Key>>> {
    if manner.uncounted.iter().any(|network| network.contains(peer)) {
        return Some(None);
    }
    addresses.enter(Key::address(peer), manner.per_address).map(Some)
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Asks on a connection, and reads what is answered until `end` or the other side's end.
    async fn ask(stream: &mut TcpStream, end: &str) -> String {
        // Whoever was turned away may notice when writing or when reading.
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut heard = Vec::new();
        while !heard.ends_with(end.as_bytes()) && stream.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {}
        String::from_utf8(heard).unwrap()
    }

    async fn three_connections(uncounted: Vec<Network>) -> ([bool; 3], u64) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refused = Counter::default();
        let manner = Manner {
            header_timeout: VANISHED,
            connections: 10,
            per_address: 2,
            uncounted,
            refused: refused.clone(),
            tls: None,
        };
        let stop = CancellationToken::new();
        let router = Router::new().fallback(async || "well");
        let server = tokio::spawn(serve(listener, router, manner, stop.clone()));
        let mut open = Vec::new();
        let mut answered = [false; 3];
        for answered in &mut answered {
            let mut stream = TcpStream::connect(address).await.unwrap();
            *answered = ask(&mut stream, "well").await.ends_with("well");
            open.push(stream);
        }
        drop(open);
        stop.cancel();
        server.await.unwrap();
        (answered, refused.get())
    }

    #[tokio::test]
    async fn an_address_has_so_many_connections_and_no_more() {
        assert_eq!(three_connections(Vec::new()).await, ([true, true, false], 1));
        assert_eq!(three_connections(Network::own().into()).await, ([true; 3], 0), "this machine is not counted");
    }

    #[tokio::test]
    async fn an_address_may_come_again_once_others_have_left() {
        let addresses = Tally::default();
        let manner = Manner {
            header_timeout: VANISHED,
            connections: 10,
            per_address: 1,
            uncounted: Vec::new(),
            refused: Counter::default(),
            tls: None,
        };
        let place = |address: &str| own_place(&addresses, address.parse().unwrap(), &manner);
        let first = place("2001:db8::1").unwrap();
        assert!(place("2001:db8::2").is_none(), "one customer's network");
        assert!(place("192.0.2.1").is_some());
        drop(first);
        assert!(place("2001:db8::2").is_some());
    }

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
