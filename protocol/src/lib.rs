//! The words that Jetway's processes share: identifiers, specs, states, tokens, and the messages between
//! controller, drone, proxy and init.
//!
//! No I/O and no tasks live here. Public requests are parsed strictly by the controller; the messages in this
//! crate ignore fields they do not know, so that adjacent versions can talk.

pub mod ids;
pub mod image;
pub mod key;
pub mod time;

pub mod at_rest;
pub mod claim;
pub mod grant;
pub mod hint;
pub mod host;
pub mod lease;
pub mod secret;
pub mod slot;
pub mod spec;
pub mod state;
pub mod status;
pub mod timeline;
pub mod token;
pub mod warm;

pub mod attach;
pub mod certificates;
pub mod controller_api;
pub mod drone_api;
pub mod error;
pub mod init;

/// Version of the messages between our own processes. Additive changes keep it.
pub const PROTOCOL_VERSION: u32 = 1;
