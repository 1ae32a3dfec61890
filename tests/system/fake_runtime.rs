//! The drone's own fake engine, for tests of the whole system in which containers would only be in the way.

pub use jetway_drone::runtime::*;

#[path = "../../drone/src/runtime/fake.rs"]
#[expect(dead_code, reason = "it serves the drone's own tests; here its containers are only there")]
#[expect(clippy::unwrap_used, reason = "it is a test's")]
pub mod fake;
#[path = "../../drone/src/runtime/fake_script.rs"]
#[expect(dead_code, reason = "it serves the drone's own tests; here its containers are only there")]
#[expect(clippy::unwrap_used, reason = "it is a test's")]
mod fake_script;
