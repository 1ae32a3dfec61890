//! Headers of requests, answers and trailers: `proxy/fuzzing/headers.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::headers(bytes));
