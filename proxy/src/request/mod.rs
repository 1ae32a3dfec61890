//! One request from its head to its answer: whose it is, and whether it may go to its backend
//! (`server`), on a connection that is served (`serving`). `stage` answers the waiting page,
//! `handshake` a WebSocket that leads to no session.

pub mod handshake;
pub mod server;
pub mod serving;
pub mod stage;
