//! Where a request wants to go: its path (`target`), its Host (`hosts`, `session_host`), the path
//! that a person is brought back to (`wanted`), and the problem of a path without a token
//! (`untokened`). Pure.

pub mod hosts;
pub mod session_host;
mod target;
pub mod untokened;
pub mod wanted;

pub use target::{
    BackendTarget, InvalidTarget, PathParts, Target, by_https, host, host_name, lone_host, port_named,
    target, whole,
};
