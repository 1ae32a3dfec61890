//! `POST /ctrl/connect`, from a checked request to an answer: which backend a key means, made if
//! need be.
//!
//! [`rounds`] is the loop, [`context`] what it works with. Everything here runs on a tracked task,
//! because axum drops a handler's future when its client hangs up, and what was begun after the
//! commit must be finished; but for the first thing that is tried, which begins nothing (`holder`).

pub mod validate;

pub mod approvals;
pub mod context;
pub mod deliver;
mod form;
mod holder;
pub mod hosts;
mod join;
pub mod keys;
pub mod known_hosts;
pub mod offer;
mod origins;
mod patient;
pub mod place;
mod put;
pub mod recent;
pub mod respond;
mod round;
mod rounds;
mod session_hosts;
mod spawn;
mod template;
pub mod wait;

pub use patient::patiently;
pub use template::{no_pool, unreadable};

#[cfg(test)]
mod burst_tests;
#[cfg(test)]
mod holder_tests;
#[cfg(test)]
mod hosts_live_tests;
#[cfg(test)]
mod hosts_taken_tests;
#[cfg(test)]
mod hosts_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;
#[cfg(test)]
mod trouble_tests;
#[cfg(test)]
mod unclear_tests;
#[cfg(test)]
mod waiting_tests;
