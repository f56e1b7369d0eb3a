//! One HTTP/1.1 exchange over a fresh connection.
//!
//! The gateway is on this machine, so a connection costs little, and one that is used once cannot be stale.

use std::{io, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::stream::Stream;

/// The longest answer that is read.
const MAX_BODY: usize = 1 << 30;

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
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            tokio::time::timeout(self.timeout, async {
                match stream {
                    Stream::Tcp(stream) => {
                        stream.set_nonblocking(true)?;
                        self.over(tokio::net::TcpStream::from_std(stream)?).await
                    }
                    Stream::Local(stream) => {
                        stream.set_nonblocking(true)?;
                        self.over(tokio::net::UnixStream::from_std(stream)?).await
                    }
                }
            })
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "there was no answer in time"))?
        })
    }

    async fn over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> io::Result<(StatusCode, Bytes)> {
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
        let request = request
            .body(Full::new(self.body.clone().unwrap_or_default()))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let driver = tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(io::Error::other)?;
        driver.abort();
        Ok((status, body.to_bytes()))
    }
}
