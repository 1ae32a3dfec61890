//! The proxy over real sockets: a drone and a controller that are played, backends that are real small servers.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

mod admission;
mod attach;
mod backends;
mod bad_input;
mod controller;
mod ends;
mod http;
mod play;
mod raw;
mod stop;
mod upgrades;
