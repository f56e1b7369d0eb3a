//! The built-in algorithms as the entry point of an image.

fn main() {
    std::process::exit(twinmesh_algorithms::run_as_container());
}
