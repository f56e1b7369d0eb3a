use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Figures for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// The address at which `/metrics` is served, over plain HTTP and to whoever reaches it: keep it on a private
    /// network. Without it there are none.
    pub listen: Option<SocketAddr>,
}
