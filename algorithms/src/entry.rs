//! How a run starts and ends.
//!
//! The result is written before the run parts from its twins: a twin that says goodbye needs nothing more from
//! anybody, whatever happens to its process.

use std::{
    io::Write,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crate::{
    describe::describe,
    functions::{self, FunctionError},
    sdk::{Host, HostError, to_output},
};

/// A reason for a run to fail.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The node does not provide what is needed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The function failed.
    #[error("function `{method}` failed")]
    Function {
        /// The function.
        method: String,
        /// Why.
        source: FunctionError,
    },
    /// The function has a defect. What it said is withheld, because it may hold data.
    #[error("function `{method}` has a defect and stopped; please report it with the function's arguments")]
    Defect {
        /// The function.
        method: String,
    },
}

/// Runs as the main program of an image, in this process's environment; returns the exit code.
#[must_use]
pub fn run_as_container() -> i32 {
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    entry(variables)
}

/// Runs as the main program of an image, in the given environment; returns the exit code: 0 when the result is
/// written, else 1 with the reason on stderr.
#[must_use]
pub fn entry(variables: impl IntoIterator<Item = (String, String)>) -> i32 {
    // A panic's text could hold cells, and logs leave the node.
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        say(&format!("stopped at {place}"));
    }));
    let outcome = Host::from_environment(variables).map_err(RunError::from).and_then(|host| {
        let output = call(&host)?;
        if let Err(error) = host.write_output(&output) {
            host.abort();
            return Err(error.into());
        }
        host.finish().iter().for_each(|complaint| say(&format!("warning: {complaint}")));
        Ok(())
    });
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("error: {}", describe(&error)));
            1
        }
    }
}

/// Runs within a process that does other things as well; returns what the output file would hold.
///
/// It blocks, and must not be called from within an async runtime's worker thread.
///
/// # Errors
///
/// See [`RunError`].
pub fn run_in_thread(host: Host) -> Result<Vec<u8>, RunError> {
    let output = call(&host)?;
    // Complaints about twins that are gone do not matter to a result that is there.
    host.finish();
    Ok(output)
}

fn call(host: &Host) -> Result<Vec<u8>, RunError> {
    let method = || host.input().method.clone();
    let outcome = match catch_unwind(AssertUnwindSafe(|| functions::run(host))) {
        Ok(Ok(value)) => to_output(&value).map_err(RunError::from),
        Ok(Err(source)) => Err(RunError::Function { method: method(), source }),
        Err(_) => Err(RunError::Defect { method: method() }),
    };
    if outcome.is_err() {
        host.abort();
    }
    outcome
}

/// Writes a line to the run's log.
fn say(line: &str) {
    // Without a log there is nobody to tell.
    let _written = writeln!(std::io::stderr(), "{line}");
}
