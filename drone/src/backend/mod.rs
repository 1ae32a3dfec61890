//! One backend on this drone: a task that owns its state, and the cheap handle that the rest of the
//! agent holds (`handle`).
//!
//! The task is in `actor`: it begins (`begin`), asks the `core` what each event comes to,
//! `requests` among them, and does that (`carry_out`). What takes time runs beside it: the engine's
//! part of a start (`start_task`), other calls (`calls`), questions to an application (`ready`).
//! Which key it serves is not its business.

mod actor;
pub mod begin;
mod calls;
mod carry_out;
pub mod core;
pub mod handle;
pub mod ready;
mod requests;
mod start_task;

#[cfg(test)]
mod claim_tests;
#[cfg(test)]
mod engine_down_tests;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod hot_tests;
#[cfg(test)]
mod isolation_tests;
#[cfg(test)]
mod kill_tests;
#[cfg(test)]
mod tests;

pub use core::{Asking, Snapshot};
pub use handle::{Backend, HasEnded, NotAdded};
