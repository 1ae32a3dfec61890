//! Requests of the host form, their cookies and the pages behind them: `proxy/fuzzing/on_host.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_proxy::fuzzing::on_host(bytes));
