//! Where WebSocket frames end: `proxy/fuzzing/frames.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::frames(bytes));
