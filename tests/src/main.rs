//! The program that the end-to-end stories start: `twinmesh-netsim` under another name, built with the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinmesh_netsim::cli::main()
}
