//! The coordinator's program.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    twinmesh_coordinator::cli::run(std::env::args_os()).await
}
