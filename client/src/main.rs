//! The command line of the researcher: see [`twinmesh_client::cli`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    twinmesh_client::cli::run(std::env::args_os()).await
}
