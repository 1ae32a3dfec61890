//! The proxy over real sockets: a drone and a controller that are played, backends that are real small servers.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

mod admission;
mod attach;
mod backends;
mod bad_input;
mod balancers;
mod controller;
mod drain;
mod ends;
mod expect;
mod forwarding;
mod grpc;
mod hostile_http2;
mod http;
mod http2;
mod http2_client;
mod http2_frames;
mod http2_sockets;
mod https;
mod issuers;
mod kept;
mod long;
mod origins;
mod plain;
mod play;
mod ports;
mod raw;
mod real_clients;
mod shares;
mod stop;
mod upgrades;
mod waiting;
