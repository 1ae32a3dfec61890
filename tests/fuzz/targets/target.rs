//! A request's target and Host: `proxy/fuzzing/target.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::target(bytes));
