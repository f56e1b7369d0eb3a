use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// TLS, spoken by the coordinator itself. Behind a proxy that does, leave it out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// A PEM file with the certificate, then those that lead from it to its authority (`fullchain.pem`).
    ///
    /// It and the key are read again when one of them changes, and on SIGHUP.
    pub certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key.
    pub key: Option<PathBuf>,
}

impl TlsConfig {
    /// Certificate and key, if TLS is wanted.
    pub(crate) fn files(&self) -> Option<(&PathBuf, &PathBuf)> {
        self.certificate.as_ref().zip(self.key.as_ref())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let missing = match (&self.certificate, &self.key) {
            (Some(_), None) => "tls.key",
            (None, Some(_)) => "tls.certificate",
            (Some(_), Some(_)) | (None, None) => return Ok(()),
        };
        Err(ConfigError::Value { key: missing, why: "TLS needs both `tls.certificate` and `tls.key`".into() })
    }
}
