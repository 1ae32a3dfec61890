//! The state of one client connection (`connection`), and of the requests that it carries side by
//! side in HTTP/2 (`streams`).

pub mod connection;
pub mod streams;
