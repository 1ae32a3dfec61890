//! The Docker side of the drone on a real engine. Each test has an installation, a drone, a network and directories
//! of its own, removes them, and asserts that nothing is left. Not its business: what backends do with it.

#![expect(clippy::unwrap_used, reason = "a test's failure is a panic, in its helpers too")]

mod containers;
mod images;
mod lease;
mod line;
mod network;
mod registry;
mod sandbox;
mod support;
