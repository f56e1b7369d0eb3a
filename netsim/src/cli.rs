//! The program `twinmesh-netsim`.
//!
//! It starts itself again as the coordinator and the nodes of its federations, so that it is the only file needed.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::process::end_with_parent;
use crate::{bench, demo};

/// Whole Twinmesh federations on one machine.
#[derive(Debug, Parser)]
#[command(name = "twinmesh-netsim", version, after_help = "Example:\n  twinmesh-netsim demo --nodes 5")]
struct Cli {
    /// End when this process ends.
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<u32>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a federation of hospitals on real data and compares every answer with the pooled one.
    ///
    /// Starts a coordinator and the hospitals' nodes as separate processes, each with its own key, journal and part of
    /// the GBSG2 breast cancer data; needs no root, no container engine and no network besides loopback. Exits with 0
    /// when every value agrees, 1 when something does not or cannot be done.
    #[command(after_help = "Example:\n  twinmesh-netsim demo --nodes 5 --seed 7 --json > report.json")]
    Demo(Demo),
    /// Measures what things cost, and prints the figures of docs/benchmarks.md.
    Bench(bench::Bench),
    /// The program `twinmesh-coordinator`.
    #[command(disable_help_flag = true)]
    Coordinator(Passed),
    /// The program `twinmesh-node`.
    #[command(disable_help_flag = true)]
    Node(Passed),
    /// The program `twinmesh`.
    #[command(disable_help_flag = true)]
    Twinmesh(Passed),
}

#[derive(Debug, Args)]
struct Demo {
    /// How many hospitals, 3 to 16.
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: usize,
    /// Deals the rows to the hospitals in another order (row i to hospital i modulo N without).
    #[arg(long)]
    seed: Option<u64>,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
    /// Leaves the federation running until Ctrl-C and tells how to talk to it.
    #[arg(long)]
    keep: bool,
}

#[derive(Debug, Args)]
struct Passed {
    /// Passed on as they are.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The whole program: must be the first thing in `main`, as a sandbox begins before any thread exists.
pub fn main() -> ExitCode {
    twinmesh_node::sandbox::intercept(twinmesh_algorithms::run_as_container);
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    if let Some(parent) = cli.parent
        && let Err(error) = end_with_parent(parent)
    {
        return fail(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the asynchronous runtime")),
    };
    runtime.block_on(run(cli.command))
}

async fn run(command: Command) -> ExitCode {
    let called = |name: &str, passed: Passed| std::iter::once(OsString::from(name)).chain(passed.arguments);
    let outcome = match command {
        Command::Demo(Demo { nodes, seed, json, keep }) => demo::run(&demo::Options { nodes, seed, json, keep }).await,
        Command::Bench(options) => bench::run(options).await.map(|()| true),
        Command::Coordinator(passed) => {
            return twinmesh_coordinator::cli::run(called("twinmesh-coordinator", passed)).await;
        }
        Command::Node(passed) => return twinmesh_node::cli::run(called("twinmesh-node", passed)).await,
        Command::Twinmesh(passed) => return twinmesh_client::cli::run(called("twinmesh", passed)).await,
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the program's last words")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
