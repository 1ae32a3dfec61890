//! One request from its head to its answer: where it came (`server`, on a connection that is
//! served, `serving`), whose it is and leave for it (`admitted`). `stage` answers the waiting page,
//! `handshake` a WebSocket that leads to no session.
//!
//! At a session's host (`on_host`) a token or the cookie lets in (`credentials`). `ambient` says
//! which page a cookie comes from, `entering` has the way in, `return_url` the way back.

pub mod admitted;
pub mod ambient;
pub mod credentials;
mod entering;
pub mod handshake;
pub mod on_host;
pub mod return_url;
pub mod server;
pub mod serving;
pub mod stage;
