//! The proxy: client connections, from the URL's token to the session's own process. It talks to
//! drones; it never talks to Postgres, and needs no controller to serve a URL that was handed out.
//!
//! # The life of a request
//!
//! 1. `accept::listener` accepts the connection, if there is room (`limits`), and gives it to the
//!    worker thread that has the fewest (`io::workers`).
//! 2. `accept::first_bytes` reads a balancer's PROXY header (`peer`), takes the client's permit, does
//!    the TLS handshake (`tls`), and sees which HTTP is spoken.
//! 3. `plain` reads an HTTP/1.1 head. One that no header rule speaks of stays in this lane. Any other
//!    goes to hyper (`accept::http1`), with its connection; HTTP/2 is hyper's from the start
//!    (`accept::http2`).
//! 4. `route` looks at the Host first. On the cluster's own and on addresses it takes the token, the
//!    port and the path from the target. Every other host is a session's, and nothing of it is ours
//!    but `/.jetway/` (`request::on_host`): a token of the client's own or a cookie lets in
//!    (`request::credentials`, `request::entering`), and what a browser says of the page behind the
//!    cookie is judged (`request::ambient`). Where neither is there, the path may carry a token, or
//!    a person is sent back to where the session was started (`request::return_url`, `owners`).
//! 5. `request::admitted` counts the request against its client and its token (`limits::shares`), and
//!    opens the token (`client::connection` remembers the last one).
//! 6. `attach` asks the token's drone on its stream, or knows its answer. The answer is an admission:
//!    the backend's address, what its application may know of the user, a use that counts until it is
//!    dropped, and a gate that closes when the session ends or the grant is revoked.
//! 7. `upstream` dials the backend, directly or through its drone, or takes the connection of an
//!    earlier request of the same client.
//! 8. `forward::exchange` (in the plain lane: `plain::exchange`) sends the request with its `headers`
//!    made the backend's, and waits for the head of the answer.
//! 9. The answer goes back as it comes, its headers made the client's; a service worker's script of a
//!    session's host behind a listener of ours (`forward::worker`). The use ends with the last byte
//!    and lingers as long as the spec says.
//! 10. After a 101, `forward::upgrade` takes both sockets, and `tunnel` carries bytes until one side
//!     ends, the gate closes, or the `drain` of the process tells WebSockets to come back.
//!
//! A request that does not get so far has a `problem`. `pages` answers it: JSON, or HTML for a
//! person; while a session starts, the waiting page, which `request::stage` tells how far the start
//! is. A WebSocket's handshake is accepted and closed with the reason (`request::handshake`).
//!
//! `config` and `start` make all this; `installation` registers the proxy with a controller.
//!
//! # Tasks
//!
//! | task | woken by | does |
//! |---|---|---|
//! | listener | a connection; the stop | accepts; ends everything in order |
//! | client connection | its socket | serves its requests: HTTP/1.1 one after another, HTTP/2 side by side |
//! | request of HTTP/2 | its stream; its connection's end | one of them, to the last byte of its answer |
//! | answer of HTTP/2 | its end; the grant's end | lets go of the backend, though the client may not read |
//! | backend connection | its socket; its client's end; the grant's end | carries one client connection's requests |
//! | tunnel | its two sockets; the grant's end; the stop | carries bytes, and says the last word |
//! | a WebSocket without a session | its socket | tells its client why, 2 s at most |
//! | attach stream | its socket; changed counts; timers | one a drone: asks, reports, hears of ends |
//! | certificates | a slow clock | reads files that have changed |
//! | a certificate's host | a client's handshake | asks a controller whether there is a newer one |
//! | challenges | a clock, twice a second | fetches the answers of orders under way |
//! | DNS | a question | answers it, if it is about a challenge |
//! | a DNS client | its TCP connection | a few questions |
//! | owners of hosts | a slow clock | forgets hosts without questions |
//! | registration | a timer | tells a controller that this proxy lives, learns the installation |

mod accept;
mod attach;
mod client;
mod config;
mod drain;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[path = "../fuzzing/mod.rs"]
pub mod fuzzing;
mod headers;
mod installation;
mod io;
mod limits;
mod owners;
mod pages;
mod peer;
mod plain;
mod problem;
mod request;
mod route;
mod start;
mod tls;
mod tunnel;
mod upstream;

pub use crate::config::{Config, HOLD, StartError, Tls};
pub use crate::limits::shares::Share;
pub use crate::peer::forwarders::{InvalidNetwork, Network};
pub use crate::start::{Proxy, start};
pub use crate::tls::{Files, Unusable};
