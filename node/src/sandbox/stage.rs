//! Errors of preparing a run, told by what was being done.

use std::io;

/// What was being done, and why it failed.
#[derive(Debug, thiserror::Error)]
#[error("{stage}")]
pub(super) struct StageError {
    pub(super) stage: String,
    pub(super) source: io::Error,
}

/// Says what was being done when something fails.
pub(super) trait Stage<T> {
    fn stage(self, stage: impl Into<String>) -> Result<T, StageError>;
}

impl<T, E: Into<io::Error>> Stage<T> for Result<T, E> {
    fn stage(self, stage: impl Into<String>) -> Result<T, StageError> {
        self.map_err(|source| StageError { stage: stage.into(), source: source.into() })
    }
}
