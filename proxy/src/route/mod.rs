//! Where a request wants to go: its path (`target`), its Host (`hosts`), and the problem of a path
//! without a token (`untokened`). Pure.

pub mod hosts;
mod target;
pub mod untokened;

pub use target::{
    BackendTarget, InvalidTarget, PathParts, Target, by_https, host, host_name, lone_host, port_named, target,
};
