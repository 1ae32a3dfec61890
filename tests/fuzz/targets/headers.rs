//! Headers of requests, answers and trailers: `proxy/src/fuzzing/headers.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::headers(bytes));
