use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// How long payloads are kept after their run has ended, as `90d`; for ever where nothing is set. What happened stays
/// known: tasks, runs, their statuses and events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Inputs of runs.
    pub inputs: Option<Span>,
    /// Results of runs.
    pub results: Option<Span>,
    /// Logs of runs.
    pub logs: Option<Span>,
}

impl RetentionConfig {
    /// Whether the settings make sense.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, span) in
            [("retention.inputs", self.inputs), ("retention.results", self.results), ("retention.logs", self.logs)]
        {
            if span.is_some_and(|span| span.0 < Duration::from_secs(60)) {
                return Err(ConfigError::Value { key, why: "use at least `1m`: somebody waits for it".into() });
            }
        }
        Ok(())
    }
}
