//! Messages of the attach stream: `proxy/fuzzing/attach.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::attach(bytes));
