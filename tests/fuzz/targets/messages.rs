//! Messages between our own processes: `controller/src/fuzzing/messages.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| jetway_controller::fuzzing::messages(bytes));
