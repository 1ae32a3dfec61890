//! The `jetway` executable as a library: the operator's verbs, the roles, and `jetway dev`.
//!
//! What a controller, a drone or a proxy does is not decided here; this crate fills their settings and starts them.

pub mod cli;
pub mod demo;
pub mod dev;
pub mod postgres;
