use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// What happens when passwords and codes are wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PasswordConfig {
    /// How many wrong ones in a row lock an account: `5`.
    pub max_failed_attempts: u32,
    /// How long it stays locked: `15m`.
    pub locked_for: Span,
    /// A user is told of failed log-ins by mail at most this often: `1h`.
    pub mail_every: Span,
}

impl Default for PasswordConfig {
    /// The contract's (A.3).
    fn default() -> Self {
        Self {
            max_failed_attempts: 5,
            locked_for: Span(Duration::from_secs(15 * 60)),
            mail_every: Span(Duration::from_secs(3600)),
        }
    }
}

impl PasswordConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.max_failed_attempts == 0 {
            return Err(ConfigError::Value { key: "password.max_failed_attempts", why: "use at least 1".into() });
        }
        Ok(())
    }
}
