//! The parts that the tests of several crates share: waiting for a condition, drones without an
//! engine, processes, a Postgres and the way to it, a Docker engine.
//!
//! It depends on no controller, drone or proxy, so that each of them can use it in its own tests.
//! Not here: helpers of one crate's tests, and the installation that the whole-system tests make
//! (`tests/system/harness/`).
//!
//! | module | owns |
//! |---|---|
//! | [`eventually`](mod@eventually) | the only ways in which a test waits |
//! | [`controller`] | a controller without Postgres, as drones see it |
//! | [`drone`] | drones without an engine, as controllers and as proxies see them |
//! | [`processes`] | child processes, the executables under test, free ports |
//! | [`postgres`] | servers of a test's own: started, followed by a standby, crashed |
//! | [`database`] | databases in the Postgres of the run |
//! | [`relay`] | a TCP address before a Postgres, which can be moved, stalled and cut |
//! | [`fuzz`] | the seeds of `make fuzz`, for the tests that hold its targets to them |
//! | [`engine`] | the engine as tests see it, and engines of a test's own |

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

pub mod controller;
pub mod database;
pub mod drone;
pub mod engine;
pub mod eventually;
pub mod fuzz;
pub mod postgres;
pub mod processes;
pub mod relay;

pub use eventually::{eventually, soon, soon_blocking, soon_fine};
