//! Asks a running coordinator, as its operator does from the same machine.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// How long an answer may take. Above the bound within which a coordinator says that its database is silent.
const PATIENCE: Duration = Duration::from_secs(15);
/// More of an answer is not read.
const MAX_BYTES: usize = 1 << 20;

/// The error of asking.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// The address is none.
    #[error("`{url}` is no address of a coordinator")]
    Address {
        /// What it says.
        url: String,
    },
    /// Nobody is there.
    #[error("nobody answers at `{url}`")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody is there, who does not speak as a coordinator does.
    #[error("what answers at `{url}` is no coordinator: {why}")]
    Strange {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// No answer in time.
    #[error("no answer from `{url}` within {} s", PATIENCE.as_secs())]
    Silent {
        /// Where.
        url: String,
    },
}

/// What a GET of a URL answers.
///
/// # Errors
/// When nothing answers there, or not in time.
pub(crate) async fn get(url: &str) -> Result<(StatusCode, Vec<u8>), AskError> {
    let silent = AskError::Silent { url: url.to_owned() };
    tokio::time::timeout(PATIENCE, get_at_leisure(url)).await.unwrap_or(Err(silent))
}

async fn get_at_leisure(url: &str) -> Result<(StatusCode, Vec<u8>), AskError> {
    let address = || AskError::Address { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| address())?;
    let host = uri.host().ok_or_else(address)?.trim_start_matches('[').trim_end_matches(']');
    let unreachable = |source| AskError::Unreachable { url: url.to_owned(), source };
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.map_err(unreachable)?;
    exchange(url, &uri, stream).await
}

async fn exchange(
    url: &str,
    uri: &Uri,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<(StatusCode, Vec<u8>), AskError> {
    let strange = |why: String| AskError::Strange { url: url.to_owned(), why };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| strange(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = Request::get(path).header(header::HOST, host).body(Body::empty());
    let request = request.map_err(|error| strange(error.to_string()))?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(|error| strange(error.to_string()))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|error| strange(error.to_string()))?;
        Ok((head.status, body.to_bytes().to_vec()))
    };
    let answer = answered.await;
    driver.abort();
    answer
}
