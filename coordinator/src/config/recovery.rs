use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// Getting in again after a password or an authenticator is lost, by a token that comes by mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecoveryConfig {
    /// How long a token is good after it was sent: `1h`.
    pub valid_for: Span,
    /// A user is sent one at most this often: `5m`.
    pub mail_every: Span,
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self { valid_for: Span(Duration::from_secs(3600)), mail_every: Span(Duration::from_secs(5 * 60)) }
    }
}

impl RecoveryConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.valid_for.0 < Duration::from_secs(60) {
            return Err(ConfigError::Value { key: "recovery.valid_for", why: "use at least `1m`".into() });
        }
        Ok(())
    }
}
