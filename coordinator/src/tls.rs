//! TLS: the certificate in use, and its renewal while connections go on.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, ServerConfig};
use tokio_rustls::TlsAcceptor;
use twinmesh_protocol::time::Time;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use crate::clock::Clock;

/// How often the files are looked at: renewals come weeks before the end.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The error of using a certificate and its key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it must be.
    #[error("cannot read {what} from `{path}`: use a PEM file")]
    Read {
        /// What it should hold.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// A file holds no certificate.
    #[error("there is no certificate in `{path}`")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate does not read as one.
    #[error("the certificate in `{path}` cannot be understood: {why}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The key is another certificate's, or of a kind that is not known.
    #[error("the key in `{key}` cannot be used for the certificate in `{certificate}`")]
    Key {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The certificate has ended.
    #[error("the certificate in `{path}` ended at {}", until.to_rfc3339())]
    Expired {
        /// Which file.
        path: PathBuf,
        /// When.
        until: Time,
    },
    /// The cryptography cannot be set up.
    #[error("cannot set TLS up")]
    Setup(#[source] rustls::Error),
}

/// A certificate with its key, as read at one time.
#[derive(Debug, Clone)]
struct Loaded {
    key: Arc<CertifiedKey>,
    until: Time,
}

/// The certificate in use; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    inner: Arc<Inner>,
    config: Arc<ServerConfig>,
}

#[derive(Debug)]
struct Inner {
    certificate: PathBuf,
    key: PathBuf,
    clock: Clock,
    loaded: RwLock<Loaded>,
    /// What the files were like when they were last read.
    seen: Mutex<[Option<Stamp>; 2]>,
}

/// What changes with a file's content: when, which, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp(i64, i64, u64, u64);

impl Tls {
    /// Reads a certificate and its key.
    ///
    /// # Errors
    /// When they cannot be read, or do not belong together. A certificate that has ended is told and used: somebody may
    /// have to log in to mend it.
    pub(crate) fn load(certificate: &Path, key: &Path, clock: Clock) -> Result<Self, TlsError> {
        let seen = Mutex::new([stamp(certificate), stamp(key)]);
        let loaded = load(certificate, key)?;
        if let Err(error) = in_time(certificate, &loaded, clock.now()) {
            tracing::error!("{error}: clients will refuse it");
        }
        let (certificate, key) = (certificate.to_owned(), key.to_owned());
        let inner = Arc::new(Inner { certificate, key, clock, loaded: RwLock::new(loaded), seen });
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(&inner))));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { inner, config: Arc::new(config) })
    }

    /// What shakes hands.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// When the certificate in use ends.
    pub(crate) fn valid_until(&self) -> Time {
        self.inner.loaded().until
    }

    /// Reads the files again; connections to come see what is in them then. Whatever is wrong with them, the
    /// certificate in use stays.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let inner = &self.inner;
        *inner.seen.lock().unwrap_or_else(PoisonError::into_inner) = [stamp(&inner.certificate), stamp(&inner.key)];
        let loaded = load(&inner.certificate, &inner.key)?;
        in_time(&inner.certificate, &loaded, inner.clock.now())?;
        let until = loaded.until.to_rfc3339();
        *inner.loaded.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        tracing::info!(until, "the certificate in `{}` is in use", inner.certificate.display());
        Ok(())
    }

    /// Reads the files again whenever they change. Never ends by itself.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.has_changed() {
                self.reload_or_tell();
            }
        }
    }

    /// [`Tls::reload`]; what is wrong goes into the log.
    pub(crate) fn reload_or_tell(&self) {
        if let Err(error) = self.reload() {
            let error = anyhow::Error::from(error);
            tracing::error!("the certificate in use stays: {error:#}");
        }
    }

    fn has_changed(&self) -> bool {
        let now = [stamp(&self.inner.certificate), stamp(&self.inner.key)];
        *self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner) != now
    }
}

impl Inner {
    fn loaded(&self) -> Loaded {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Resolver(Arc<Inner>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.loaded().key)
    }
}

/// The certificates in a PEM file, the coordinator's own first, and when that one ends.
///
/// # Errors
/// When the file cannot be read, or there is none in it.
pub(crate) fn certificates(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Time), TlsError> {
    let failed = |source| TlsError::Read { what: "a certificate", path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let first = chain.first().ok_or_else(|| TlsError::Empty { path: path.to_owned() })?;
    let (_, parsed) = X509Certificate::from_der(first)
        .map_err(|error| TlsError::Certificate { path: path.to_owned(), why: error.to_string() })?;
    let until = parsed.validity().not_after.timestamp();
    Ok((chain, Time::from_micros(until.saturating_mul(1_000_000))))
}

fn load(certificate: &Path, key: &Path) -> Result<Loaded, TlsError> {
    let (chain, until) = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_file(key);
    let private = private.map_err(|source| TlsError::Read { what: "a private key", path: key.to_owned(), source })?;
    let provider: CryptoProvider = rustls::crypto::ring::default_provider();
    let unusable = |source| TlsError::Key { key: key.to_owned(), certificate: certificate.to_owned(), source };
    let signer = provider.key_provider.load_private_key(private).map_err(unusable)?;
    let certified = CertifiedKey::new(chain, signer);
    match certified.keys_match() {
        // Some kinds of key do not tell.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(error) => return Err(unusable(error)),
    }
    Ok(Loaded { key: Arc::new(certified), until })
}

fn in_time(path: &Path, loaded: &Loaded, now: Time) -> Result<(), TlsError> {
    if loaded.until < now {
        return Err(TlsError::Expired { path: path.to_owned(), until: loaded.until });
    }
    Ok(())
}

fn stamp(path: &Path) -> Option<Stamp> {
    let of = |metadata: Metadata| Stamp(metadata.mtime(), metadata.mtime_nsec(), metadata.ino(), metadata.len());
    std::fs::metadata(path).ok().map(of)
}
