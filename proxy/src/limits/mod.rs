//! The proxy's limits: of one client and one token (`shares`), of all connections (`room`), and the
//! times of a connection.

pub mod room;
pub mod shares;

use std::time::Duration;

/// Of a drain: for balancers to notice, and for WebSockets to leave. Less than a drone waits for
/// clients to come back.
const PART_MAX: Duration = Duration::from_secs(5);

/// The defaults are the numbers that run; tests have their own.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Client connections at a time, tunnels among them.
    pub connections: usize,
    /// From the connection's start, or the last answer, to the end of the next request's head. A
    /// connection's first bytes have as long, of themselves.
    pub head: Duration,
    /// An HTTP/2 connection without requests lives this long, and twice as long at most.
    pub idle: Duration,
    /// From the stop on: so long `/ready` says no while new clients are still served.
    pub notice: Duration,
    /// Requests in flight have this long after that.
    pub drain: Duration,
    /// From the stop on: WebSockets live so long at least.
    pub live: Duration,
    /// Then they are told to come back, one after another within this time.
    pub spread: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: room::CONNECTIONS_MAX,
            head: Duration::from_secs(20),
            idle: Duration::from_secs(60),
            notice: Duration::ZERO,
            drain: Duration::from_secs(5),
            live: Duration::ZERO,
            spread: Duration::ZERO,
        }
    }
}

impl Limits {
    /// The end in about `drain`, or as soon as nothing is open any more.
    pub fn draining_for(drain: Duration) -> Self {
        let defaults = Self::default();
        let part = (drain / 4).min(PART_MAX);
        let live = drain - part;
        let connections = room::connections();
        Self {
            connections,
            notice: part,
            drain: defaults.drain.max(live - part),
            live,
            spread: part,
            ..defaults
        }
    }
}
