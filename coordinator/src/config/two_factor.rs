use serde::{Deserialize, Serialize};

/// The second factor: a code of six digits from an authenticator (TOTP, RFC 6238).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TwoFactorConfig {
    /// Whether every user needs one to log in. Who has none is shown how to set it up at the next log-in.
    pub required: bool,
}
