//! Asks a running coordinator, as its operator does from the same machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{self, TlsError};

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
    /// The certificate that the settings name is of no use.
    #[error("cannot tell whether it is ours that answers at `{url}`")]
    Certificate {
        /// Where.
        url: String,
        /// Why.
        source: TlsError,
    },
    /// No answer in time.
    #[error("no answer from `{url}` within {} s", PATIENCE.as_secs())]
    Silent {
        /// Where.
        url: String,
    },
}

/// What a GET of a URL answers. Over TLS, whoever answers there must show this very certificate: its name is that of the
/// outside world, not of this machine.
///
/// # Errors
/// When nothing answers there, or not in time.
pub(crate) async fn get(url: &str, certificate: Option<&Path>) -> Result<(StatusCode, Vec<u8>), AskError> {
    let silent = AskError::Silent { url: url.to_owned() };
    tokio::time::timeout(PATIENCE, get_at_leisure(url, certificate)).await.unwrap_or(Err(silent))
}

async fn get_at_leisure(url: &str, certificate: Option<&Path>) -> Result<(StatusCode, Vec<u8>), AskError> {
    let address = || AskError::Address { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| address())?;
    let host = uri.host().ok_or_else(address)?.trim_start_matches('[').trim_end_matches(']');
    let unreachable = |source| AskError::Unreachable { url: url.to_owned(), source };
    let is_tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
    let stream = TcpStream::connect((host, port)).await.map_err(unreachable)?;
    if !is_tls {
        return exchange(url, &uri, stream).await;
    }
    let strange = |why: String| AskError::Strange { url: url.to_owned(), why };
    let certificate =
        certificate.ok_or_else(|| strange("it speaks TLS, and the settings name no certificate".into()))?;
    let (chain, _) =
        tls::certificates(certificate).map_err(|source| AskError::Certificate { url: url.to_owned(), source })?;
    let expected = chain.into_iter().next().ok_or_else(address)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Exactly { expected, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| strange(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).map_err(|_| address())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable)?;
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

/// Takes one certificate and no other.
#[derive(Debug)]
struct Exactly {
    expected: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
