//! How commands end.

use std::io;
use std::process::ExitCode;

use crate::api::ApiError;
use crate::key::KeyFileError;
use crate::researcher::{ClientError, RunError};

/// What became of a command; the numbers are documented in `twinmesh --help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Unreachable = 3,
    NotAllowed = 4,
    NotFound = 5,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What a command itself finds wrong.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error("{what}")]
    Usage { what: String, hint: &'static str },
    #[error("there is no {noun} `{name}`{}", known_text(.known))]
    NotFound { noun: &'static str, name: String, known: Vec<String> },
    #[error("not logged in")]
    NotLoggedIn,
    #[error("nothing was changed")]
    Declined,
}

fn known_text(known: &[String]) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<&str> = known.iter().map(String::as_str).take(SHOWN).collect();
    if known.len() > SHOWN {
        names.push("…");
    }
    if names.is_empty() { String::new() } else { format!("; there are: {}", names.join(", ")) }
}

/// The code of an error, and what to try.
pub(super) fn judge(error: &anyhow::Error) -> (Exit, Option<String>) {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<CliError>() {
            return match error {
                CliError::Usage { hint, .. } => (Exit::Usage, Some((*hint).into())),
                CliError::NotFound { .. } => (Exit::NotFound, None),
                CliError::NotLoggedIn => (Exit::NotAllowed, Some("log in with `twinmesh login ADDRESS`".into())),
                CliError::Declined => (Exit::Failed, None),
            };
        }
        if let Some(error) = cause.downcast_ref::<ApiError>() {
            return (api_exit(error), error.hint());
        }
        if let Some(error) = cause.downcast_ref::<ClientError>() {
            let exit = if let ClientError::Api(error) = error { api_exit(error) } else { Exit::Failed };
            return (exit, error.hint());
        }
        if let Some(KeyFileError::Missing { .. }) = cause.downcast_ref() {
            return (Exit::Failed, Some("make one with `twinmesh key create`, or name the file with --key".into()));
        }
        if let Some(RunError::Tampered { .. } | RunError::Envelope { .. }) = cause.downcast_ref() {
            return (Exit::Failed, Some("do not use it; tell the organization and the coordinator's operator".into()));
        }
    }
    (Exit::Failed, None)
}

fn api_exit(error: &ApiError) -> Exit {
    match error {
        ApiError::Unreachable { .. } | ApiError::Interrupted { .. } => Exit::Unreachable,
        ApiError::NotLoggedIn { .. } | ApiError::SecondFactor { .. } | ApiError::SecondFactorSetUp(_) => {
            Exit::NotAllowed
        }
        ApiError::Address { .. } => Exit::Usage,
        ApiError::Refused(refusal) => match refusal.status {
            401 | 403 => Exit::NotAllowed,
            404 => Exit::NotFound,
            502..=504 => Exit::Unreachable,
            _ => Exit::Failed,
        },
        ApiError::Setup(_)
        | ApiError::NotJson { .. }
        | ApiError::Unexpected { .. }
        | ApiError::PayloadTooLarge { .. } => Exit::Failed,
    }
}

/// Whether nobody reads stdout any more, as after `| head`.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
