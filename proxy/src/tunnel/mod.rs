//! An upgraded connection: its bytes both ways (`pump`), the ends of WebSocket frames (`frames`),
//! the time for a last frame (`close`) and its content (`close_code`). `forward::upgrade` begins a
//! tunnel.

pub mod close;
pub mod close_code;
pub mod frames;
mod pump;
#[cfg(test)]
mod pump_tests;

pub use pump::{HALF_CLOSED_MAX, Side, run, run_stream};
