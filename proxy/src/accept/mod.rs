//! How clients come in: listening sockets (`bind`, `https`), connections and their end
//! (`listener`), their first bytes (`first_bytes`), and the two HTTPs (`http1`, `http2`).

pub mod bind;
pub mod first_bytes;
mod http1;
mod http2;
pub mod https;
pub mod listener;
