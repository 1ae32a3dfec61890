//! Connections to backends. `dial_target` is the address to dial, `dial` dials it, and `connection`
//! speaks HTTP over it, in the client's own task as long as answers come whole (`inline`). A
//! `request_body` goes out within `body_timeout`, and once the backend asks for it (`expect`).
//! `interim` bounds the 1xx answers.

pub mod body_timeout;
mod connection;
mod dial;
pub mod dial_target;
pub mod expect;
pub mod inline;
pub mod interim;
pub mod request_body;

pub use connection::{Dialer, Driver, HEAD_BYTES_MAX, IDLE_MAX, Leads, Upstream};
