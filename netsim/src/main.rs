//! `twinmesh-netsim`: whole federations on one machine.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinmesh_netsim::cli::main()
}
