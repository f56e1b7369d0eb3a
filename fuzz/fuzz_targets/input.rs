#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinmesh_fuzz::node::input(data));
