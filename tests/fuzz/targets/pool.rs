//! Bodies of warm pools: `controller/src/fuzzing/bodies.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_controller::fuzzing::pool(bytes));
