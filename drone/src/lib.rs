//! The drone: the agent of one container engine. It owns the life of its backends, how they start, who may enter them
//! and which addresses they have. Which key means which backend is the controller's business; client connections are
//! the proxy's.
//!
//! Tasks, what wakes them, what they write:
//!
//! | task | woken by | writes |
//! |---|---|---|
//! | [`backend`], one each | requests, init's line, hints, its clocks | its journal, [`outbox`], address book, tombstones |
//! | the engine's part of a start, one a start | the backend | its progress |
//! | [`warm`]: the keeper | claims, what was made, images, its clock | what is kept ready |
//! | one for each thing that is made ahead, or removed | the keeper, ends | what is kept ready, the address book |
//! | [`registration`], with its [`beats`] | its clock, a stale term | [`membership`], [`lease`] and its file |
//! | [`lease::follow_suspends`] | its clock | nothing but a nudge |
//! | [`outbox::deliver`] | a new status | acknowledgements in journals |
//! | [`reconcile`], four | engine events, clocks | nothing but hints; removes what belongs to nobody |
//! | [`last_output::forget_old`] | its clock | removes old outputs |
//! | [`http`]: the listener, one a connection, one an attach stream, one a dialled tunnel | the network | – |

mod config;
mod start;

mod backend;
mod grants;
mod idle;

mod addresses;
mod admission;
mod agent;
mod data_dir;
mod identity_lock;
mod journal;
mod lease;
mod run_dir;
mod streams;

mod adoption;
mod last_output;
mod reconcile;
mod teardown;
mod usual;
mod warm;

mod beats;
mod membership;
mod outbox;
mod registration;

mod http;
pub mod runtime;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod registration_tests;

pub use config::Config;
pub use data_dir::DataDirError;
pub use start::{Drone, StartError, start, start_to_leave, start_with_runtime};
pub use warm::Calm;
