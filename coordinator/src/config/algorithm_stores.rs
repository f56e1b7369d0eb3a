//! `[algorithm_stores]`: how services that review algorithms are asked.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Size, Span};

/// How algorithm stores are asked. Where a store is, an administrator of a collaboration says, so what this machine may
/// be made to ask is bounded here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AlgorithmStoresConfig {
    /// The address under which stores know this coordinator, with or without the API's path:
    /// `https://coordinator.example.org/api`. Without it, who links a store says it.
    pub server_url: Option<String>,
    /// The hosts at which stores may be. Empty: any.
    pub hosts: Vec<String>,
    /// Whether stores may be on this machine, where any service may run: for development. They must be asked for with
    /// `force` then.
    pub allow_local: bool,
    /// How long a store may take to answer: `10s`.
    pub timeout: Span,
    /// The largest answer that is read: `1MiB`.
    pub answer: Size,
    /// A PEM file with further authorities for stores' TLS certificates.
    pub ca_file: Option<PathBuf>,
}

impl Default for AlgorithmStoresConfig {
    fn default() -> Self {
        Self {
            server_url: None,
            hosts: Vec::new(),
            allow_local: false,
            timeout: Span(Duration::from_secs(10)),
            answer: Size(1 << 20),
            ca_file: None,
        }
    }
}

impl AlgorithmStoresConfig {
    /// What is wrong with a setting: its key and why.
    pub(super) fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.timeout.0.is_zero() {
            return Some(("algorithm_stores.timeout", "use at least `1s`"));
        }
        if self.answer.0 < 1024 {
            return Some(("algorithm_stores.answer", "use at least `1KiB`"));
        }
        let is_http = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if self.server_url.as_ref().is_some_and(|url| !is_http(url)) {
            return Some(("algorithm_stores.server_url", "use an address like `https://coordinator.example.org/api`"));
        }
        None
    }
}
