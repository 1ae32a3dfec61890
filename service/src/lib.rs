//! What any of our processes needs to be one: an orderly life, logs, backoff, secrets, clocks, an HTTP client and server.
//!
//! Nothing here knows what a backend is.

pub mod backoff;
pub mod client;
pub mod clock;
pub mod controllers;
pub mod files;
pub mod lifecycle;
pub mod lines;
pub mod outbox;
pub mod secrets;
pub mod server;
pub mod silence;
pub mod socket;
pub mod tar;
pub mod telemetry;
pub mod tls;
