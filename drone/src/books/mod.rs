//! What the parts of an agent share, each behind a lock of its own: addresses, room, streams to
//! proxies, how long starts take. They hold no task, and know nothing of each other.

pub mod addresses;
pub mod admission;
pub mod streams;
pub mod usual;
