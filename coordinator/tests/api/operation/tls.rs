//! TLS by the coordinator itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use twinmesh_coordinator::config::{Config, TlsConfig};
use twinmesh_coordinator::{Coordinator, Running};

use super::{config, program, said, start};

/// An authority of one's own, and the files of a certificate.
pub(crate) struct Authority {
    authority: CertifiedKey,
    directory: PathBuf,
}

impl Authority {
    pub(crate) fn new(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key_pair = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key_pair).unwrap();
        Self { authority: CertifiedKey { cert, key_pair }, directory: directory.to_owned() }
    }

    /// Writes a certificate for this machine that ends in a year, and its key; what it looks like.
    fn issue(&self, ends: i32) -> Vec<u8> {
        let CertifiedKey { cert, key_pair } = self.vouch_for(&["localhost", "127.0.0.1"], ends);
        std::fs::write(self.files().key.unwrap(), key_pair.serialize_pem()).unwrap();
        std::fs::write(self.files().certificate.unwrap(), cert.pem()).unwrap();
        cert.der().to_vec()
    }

    fn vouch_for(&self, names: &[&str], ends: i32) -> CertifiedKey {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(ends, 1, 1);
        let key_pair = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key_pair, &self.authority.cert, &self.authority.key_pair).unwrap();
        CertifiedKey { cert, key_pair }
    }

    /// What a server by this name shakes hands with.
    pub(crate) fn acceptor(&self, name: &str) -> TlsAcceptor {
        let CertifiedKey { cert, key_pair } = self.vouch_for(&[name], 2099);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key_pair.serialize_der()).unwrap();
        let config = config.unwrap().with_no_client_auth().with_single_cert(vec![cert.der().clone()], key);
        TlsAcceptor::from(Arc::new(config.unwrap()))
    }

    /// Writes its own certificate, for those who are to believe it.
    pub(crate) fn file(&self) -> PathBuf {
        let path = self.directory.join("authority.pem");
        std::fs::write(&path, self.authority.cert.pem()).unwrap();
        path
    }

    fn files(&self) -> TlsConfig {
        let (certificate, key) = (self.directory.join("fullchain.pem"), self.directory.join("privkey.pem"));
        TlsConfig { certificate: Some(certificate), key: Some(key) }
    }

    /// A client that believes this authority, and has met nobody yet: who resumes a session sees no certificate again.
    fn client(&self) -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = reqwest::Certificate::from_pem(self.authority.cert.pem().as_bytes()).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).tls_info(true);
        builder.pool_max_idle_per_host(0).build().unwrap()
    }
}

async fn config_with(authority: &Authority, directory: &Path) -> Config {
    Config { tls: authority.files(), ..config(directory).await }
}

/// The certificate that is shown.
async fn shown(client: &reqwest::Client, running: &Running) -> Vec<u8> {
    let answer = client.get(format!("{}/version", running.url())).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("strict-transport-security"));
    answer.extensions().get::<reqwest::tls::TlsInfo>().unwrap().peer_certificate().unwrap().to_vec()
}

#[tokio::test]
async fn clients_that_know_the_authority_are_served_and_others_turn_away() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    let certificate = authority.issue(2099);
    let running = start(config_with(&authority, directory.path()).await).await;
    assert!(running.url().starts_with("https://127.0.0.1:"));
    assert_eq!(shown(&authority.client(), &running).await, certificate);

    let other = tempfile::tempdir().unwrap();
    let stranger = Authority::new(other.path()).client();
    let error = stranger.get(running.url()).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");

    // Whoever speaks plain HTTP is cut off.
    let host = running.url().trim_start_matches("https://").trim_end_matches("/api");
    let mut plain = TcpStream::connect(host).await.unwrap();
    plain.write_all(b"GET /api/version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"));

    // The doctor and the health check know the coordinator by its certificate.
    let environment = authority.files();
    for verb in ["doctor", "health"] {
        let mut command = program(directory.path(), &[verb]).await;
        command.env("COORDINATOR__TLS__CERTIFICATE", environment.certificate.clone().unwrap());
        command.env("COORDINATOR__TLS__KEY", environment.key.clone().unwrap());
        let output = command.output().await.unwrap();
        assert!(!said(&output).contains("FAIL  service"), "{}", said(&output));
        assert!(!said(&output).contains("FAIL  certificate"), "{}", said(&output));
        assert!(verb == "doctor" || output.status.success(), "{}", said(&output));
    }
    running.shutdown().await;
}

#[tokio::test]
async fn a_renewed_certificate_is_used_and_one_that_is_wrong_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    let first = authority.issue(2098);
    let running = start(config_with(&authority, directory.path()).await).await;
    assert_eq!(shown(&authority.client(), &running).await, first);

    let second = authority.issue(2099);
    running.reload();
    assert_eq!(shown(&authority.client(), &running).await, second);

    authority.issue(2021);
    running.reload();
    assert_eq!(shown(&authority.client(), &running).await, second, "one that has ended is not used");
    std::fs::write(authority.files().certificate.unwrap(), "half of a").unwrap();
    running.reload();
    assert_eq!(shown(&authority.client(), &running).await, second, "nor one that cannot be read");

    let third = authority.issue(2100);
    running.reload();
    assert_eq!(shown(&authority.client(), &running).await, third);
    running.shutdown().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_files_is_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path());
    authority.issue(2099);
    let key = std::fs::read(authority.files().key.unwrap()).unwrap();
    authority.issue(2099);
    // The key of another.
    std::fs::write(authority.files().key.unwrap(), key).unwrap();
    let refused = async || {
        let error = Coordinator::start(config_with(&authority, directory.path()).await).await.unwrap_err();
        format!("{:#}", anyhow::Error::from(error))
    };
    let why = refused().await;
    assert!(why.contains("privkey.pem") && why.contains("fullchain.pem"), "{why}");
    std::fs::remove_file(authority.files().key.unwrap()).unwrap();
    let why = refused().await;
    assert!(why.contains("private key") && why.contains("privkey.pem"), "{why}");
    std::fs::write(authority.files().certificate.unwrap(), "").unwrap();
    let why = refused().await;
    assert!(why.contains("no certificate in") && why.contains("fullchain.pem"), "{why}");
}
