//! `twinmesh-node`: see [`twinmesh_node::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    twinmesh_node::sandbox::intercept(twinmesh_algorithms::run_as_container);
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(twinmesh_node::cli::run(std::env::args_os())),
        Err(_) => ExitCode::FAILURE,
    }
}
