//! Runs as confined processes of their own, without root, daemon or package.
//!
//! The node executes its own program again as a run's *agent* ([`intercept`]). The agent makes the namespaces, starts the run's
//! first process in them, and outlives the node: a restarted node finds it by the socket in the run's directory. The first process
//! locks itself in and then is the algorithm.
//!
//! | module | where it runs | what it does |
//! |---|---|---|
//! | [`runtime`](self::SandboxRuntime) | node | prepares directories, starts agents, probes the machine |
//! | `handle` | node | talks to an agent |
//! | `message` | both | what they say |
//! | `agent` | agent | watches a run: limits, log, exit, network |
//! | `control` | agent | stands in for a network in lite confinement |
//! | `watch`, `log` | agent | what a run uses; what it printed |
//! | `confine` | run | gives up everything, in order |
//! | `root`, `filter` | run | the file system; the system calls |
//! | `sys` | all | the calls that need `unsafe` |
//!
//! In a run's directory: `files/` (what the run reads, and `output`), `agent.sock`, `log`, `run.json` (what a restarted node must
//! know), `begun` (if the algorithm may have begun), `exit.json` (how it ended), `agent.err` (empty, unless an agent fails badly).

pub(crate) mod agent;
mod confine;
pub(crate) mod control;
mod filter;
pub(crate) mod handle;
mod log;
pub(crate) mod message;
mod root;
pub(crate) mod runtime;
mod stage;
mod sys;
mod watch;

pub use runtime::{Minimum, Probe, SandboxRuntime, Settings, probe};

/// The name under which a program is executed as an agent, and its only argument, by which a program that does not know it
/// ends at once instead of doing something else.
const INIT: (&str, &str) = ("twinmesh-sandbox-init", "--twinmesh-sandbox-init");

const SOCKET_FILE: &str = "agent.sock";
const EXIT_FILE: &str = "exit.json";
/// Exists from the moment at which the algorithm may have begun.
pub(crate) const BEGUN_FILE: &str = "begun";
pub(crate) const LOG_FILE: &str = "log";
const RUN_FILE: &str = "run.json";
pub(crate) const OUTPUT_FILE: &str = "files/output";

/// Turns this process into the agent of a run, if that is what it was executed for; else returns at once.
///
/// Must be the first thing that `main` does, before any thread exists. `builtin` runs the algorithms that are part of this program
/// and answers the exit code; it is called inside the confinement, with the run's environment, descriptors and nothing else.
pub fn intercept(builtin: fn() -> i32) {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if name == INIT.0 && arguments.next().is_some_and(|argument| argument == INIT.1) {
        agent::run(builtin);
    }
}
