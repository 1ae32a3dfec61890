//! The requests and answers of the public API, `/ctrl` and `/pub`, in one place: the controller
//! serves them, and the command line, the tests and the benchmarks read them. Their doc comments
//! are the descriptions in `/openapi.json`.
//!
//! No I/O and no routes live here. Requests refuse unknown fields by name. Answers ignore fields
//! that a reader does not know, so that a client reads a newer controller. A field that an answer
//! gets later has `#[serde(default)]`, so that a client reads an older controller, too.

pub mod backends;
pub mod certificates;
pub mod cluster;
pub mod connect;
pub mod controller;
pub mod drones;
mod null;
pub mod object;
pub mod pools;
pub mod refusal;
pub mod revoke;
pub mod spawn;
pub mod status;
pub mod tasks;

pub use null::Null;

pub use jetway_protocol::error::{Code, ErrorBody, Kind, PassedOver};
pub use jetway_protocol::hint::Hint;
pub use jetway_protocol::key::Key;
pub use jetway_protocol::status::{EndReason, Status, TerminationKind, TerminationReason};
