//! The drone: the agent of one container engine. It owns the life of its backends, how they start,
//! who may enter them and which addresses they have. Which key means which backend is the
//! controller's business; client connections are the proxy's.
//!
//! # The tree, from the bottom up
//!
//! | path | holds |
//! |---|---|
//! | `config` | what an agent is told at its start |
//! | `lease` | the drone's right to keys, and its file |
//! | [`runtime`] | what an engine can do; Docker, and the fake engine of tests; the lines to inits |
//! | `engine` | that engine as this agent asks it: deadlines, and how much at once |
//! | `grants`, `idle` | who may enter a backend, and when it is unused: pure |
//! | `books` | what the parts share, a lock each: addresses, room, streams to proxies, start times |
//! | `store` | what is on disk for the next agent: identity, journals, tombstones, last outputs |
//! | `warm` | what is kept ready |
//! | `backend::core` | one backend as pure decisions: events in, actions out ([`model`]) |
//! | `backend::handle`, `controllers::membership` | a backend, and the controllers' word, as others see them |
//! | `agent` | all of these in one value, without a task and without a decision |
//! | `teardown` | takes away what nothing needs any more |
//! | `warm::take`, `warm::make`, `warm::keeper` | give, make, keep ready |
//! | `backend` | one task a backend: begins, asks its core, carries out |
//! | `reconcile` | compares what is with what should be; `reconcile::leave` is the end of an agent |
//! | `lease::keeper` | what keeps the lease honest |
//! | `controllers` | registration, heartbeats, statuses on their way |
//! | `http` | the drone's server, an endpoint a file |
//! | `adoption`, `start` | bring an agent up |
//!
//! A row uses only what stands above it, or in it.
//!
//! # Tasks
//!
//! | task | woken by | writes |
//! |---|---|---|
//! | `backend`, one each | requests, init's line, hints, its clocks | its journal, the outbox, address book, tombstones |
//! | the engine's part of a start, one a start | the backend | its progress |
//! | `warm::keeper` | claims, what was made, images, its clock | what is kept ready |
//! | one for each thing that is made ahead, or removed | the keeper, ends | what is kept ready, the address book |
//! | `controllers::registration`, with its beats | its clock, a stale term | membership, the lease and its file |
//! | `lease::keeper::follow_suspends` | its clock | nothing but a nudge |
//! | `controllers::outbox::deliver` | a new status | acknowledgements in journals |
//! | `reconcile`, four | engine events, clocks | nothing but hints; removes what belongs to no backend |
//! | `store::last_output::forget_old` | its clock | removes old outputs |
//! | `http`: the listener, one a connection, one an attach stream, one a dialled tunnel | the network | – |

mod config;
mod start;

mod agent;
mod engine;

mod backend;
mod grants;
mod idle;

mod books;
mod lease;
mod store;

mod adoption;
mod reconcile;
mod teardown;
mod warm;

mod controllers;

mod http;
pub mod model;
pub mod runtime;

#[cfg(test)]
mod harness;

pub use config::Config;
pub use start::{Drone, StartError, start, start_to_leave, start_with_runtime};
pub use store::data_dir::DataDirError;
pub use warm::Calm;
