//! The proxy over real sockets: a drone and a controller that are played, backends that are real
//! small servers.

#![expect(clippy::unwrap_used, reason = "tests and their helpers")]

mod admission;
mod attach;
mod backends;
mod bad_input;
mod balancers;
mod controller;
mod drain;
mod ends;
mod entering;
mod expect;
mod forged;
mod forwarding;
mod grpc;
mod handshakes;
mod host_form;
mod host_lanes;
mod hostile_http2;
mod hosts;
mod http;
mod http2;
mod http2_client;
mod http2_frames;
mod http2_sockets;
mod https;
mod interim;
mod issuers;
mod kept;
mod lanes;
mod last_words;
mod long;
mod origins;
mod other_pages;
mod plain;
mod play;
mod ports;
mod raw;
mod real_clients;
mod return_url;
mod shares;
mod stop;
mod upgrades;
mod vanished;
mod vouched;
mod waiting;
mod workers;
