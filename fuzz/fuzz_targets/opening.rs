#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| twinmesh_fuzz::overlay::opening(data));
