//! Tokens: `proxy/fuzzing/token.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::token(bytes));
