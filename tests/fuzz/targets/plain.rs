//! Plain requests and answers, as they come from a socket: `proxy/fuzzing/plain.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::plain(bytes));
