//! What a balancer says of a client: `proxy/fuzzing/proxy_header.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::proxy_header(bytes));
