//! Whom a connection comes from: the socket's peer, or the client that a trusted forwarder names
//! (`forwarders`), by a PROXY header before the first byte (`proxy_protocol`) or by headers.

pub mod forwarders;
pub mod proxy_protocol;
