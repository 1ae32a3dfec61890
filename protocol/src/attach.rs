//! The attach stream: one WebSocket per (proxy, drone), one JSON message a text frame.
//!
//! The proxy dials `GET /attach` on the drone. It says [`ToDrone::Hello`] with everything it has open, the drone
//! answers [`ToProxy::Welcome`], and from then on:
//!
//! * **Ask.** Before the *first* use of a backend (its count here is 0), or with a grant that this proxy has not seen
//!   on this stream, the proxy asks and waits. The drone answers when the backend is ready, or with how it ended.
//!   A `ready` answer also counts as a use by this proxy, until the proxy's next [`ToDrone::Uses`] says otherwise.
//!   A waiting ask keeps the backend from idling.
//! * **Uses.** Absolute counts, so that repeating or merging them is harmless. A use is a WebSocket or other upgraded
//!   connection, a request in flight, or the linger after a plain request, which the proxy keeps (the idle clock is
//!   the drone's, what is in use is the proxy's to say). `uses: 0` starts the drone's idle clock at once.
//! * **Follow.** For people: while an ask waits, its backend's stages are pushed, too.
//! * **Ended, Revoked.** Pushed. After `Ended` the proxy closes what is open, never dials the address again on that
//!   token and says [`ToDrone::EndedSeen`]; only then may the drone use the address again.
//! * **Ending.** Pushed as soon as it is known that a backend will end. An application closes its sockets when it exits, and the
//!   engine may take a second to confirm it; until then, proxies hold the end of a WebSocket's bytes back.
//! * **Leave.** Pushed before a stop after which clients should come back: WebSockets get a close frame with the status 1012.
//!
//! Both sides send something at least every [`PING_SECONDS`]. A drone that hears nothing for [`DEADLINE_SECONDS`] takes the stream
//! for broken. The proxy's are WebSocket pings; its stream stands for [`DEADLINE_SECONDS`] from the *sending* of the last one
//! whose pong came, or of the `Hello` that was welcomed: what arrives may have been on its way for long. With a broken stream the proxy keeps its tunnels, dials nothing new, and reconnects with a
//! backoff of at most 1 s; the drone counts its uses as closed only after [`GRACE_SECONDS`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hint::Hint;
use crate::ids::{BackendId, BootId, DroneId, FencingToken, GrantId, PortName, ProxyId};
use crate::spec::{Port, Protocol};
use crate::status::{End, EndReason, Status};
use crate::time::UnixMicros;

pub const PING_SECONDS: u64 = 2;
pub const DEADLINE_SECONDS: u64 = 6;
/// By the drone's clock, from when it lost a proxy's stream: then that proxy surely dials nothing on it any more.
///
/// What the proxy's stream stands on was answered before the drone lost it, and was sent before that. So with clocks that run
/// within one part in [`CLOCK_RATE_PARTS`](crate::lease::CLOCK_RATE_PARTS) of true time it is enough that
/// `DEADLINE_SECONDS / (1 - 1/12) < SILENT_SECONDS / (1 + 1/12)`: 6.5 s and 7.4 s. What is left is for a dial that had begun.
pub const SILENT_SECONDS: u64 = 8;
/// After a broken stream, this long until a proxy's uses count as closed.
pub const GRACE_SECONDS: u64 = 10;
/// The same after an agent's start, for proxies that have not yet come back.
pub const GRACE_AFTER_START_SECONDS: u64 = 30;
/// Bytes of one message, at most.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// A person who opens the URL of a session that starts sees the waiting page after this. A shorter
/// start shows no page.
pub const PAGE_AFTER: Duration = Duration::from_millis(400);
/// A person who was told that the session is ready has this long to come in, however soon it would
/// be idle.
pub const ENTRY: Duration = Duration::from_secs(5);

/// Whether the proxy may dial on the word of its stream. `since`: by its own clock, from the sending
/// of what the drone has answered last.
pub fn stands(since: Duration) -> bool {
    since < Duration::from_secs(DEADLINE_SECONDS)
}

/// Whether a proxy without a stream certainly dials nothing any more. `since`: by the drone's clock,
/// from the loss of its stream.
pub fn is_silent(since: Duration) -> bool {
    since >= Duration::from_secs(SILENT_SECONDS)
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToDrone {
    Hello {
        protocol: u32,
        proxy: ProxyId,
        name: String,
        boot_id: BootId,
        /// The network namespace (`/proc/self/ns/net`); with an equal boot id it lets the proxy dial containers itself.
        netns: String,
        /// Everything this proxy has open on this drone, so that nothing is counted as closed.
        uses: Vec<Uses>,
        /// `uses` is not everything: the rest follows as [`ToDrone::Uses`], and what is not named counts as closed only
        /// after the grace of a broken stream.
        #[serde(default)]
        more: bool,
    },
    Ask {
        /// Chosen by the proxy; the answer carries it.
        ask: u64,
        backend: BackendId,
        fencing_token: FencingToken,
        grant: GrantId,
    },
    /// The client of a waiting ask went away.
    Forget {
        ask: u64,
        /// The one that was asked for, so that nobody else has to be told.
        #[serde(default)]
        backend: Option<BackendId>,
    },
    /// Somebody looks at a waiting ask: [`ToProxy::Stage`] says how far it is, now and whenever that changes.
    Follow {
        ask: u64,
        backend: BackendId,
    },
    Uses(Uses),
    EndedSeen {
        backend: BackendId,
        fencing_token: FencingToken,
    },
    /// The first byte that this backend ever sent a client, for the timeline.
    FirstByte {
        backend: BackendId,
        fencing_token: FencingToken,
        start: UnixMicros,
        length_us: u64,
    },
    Ping,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uses {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    /// Uses by this proxy now, the linger included (as one).
    pub uses: u32,
    /// Of these, open WebSockets and requests in flight.
    pub connections: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToProxy {
    Welcome {
        protocol: u32,
        drone: DroneId,
        /// True: the proxy shares the drone's host and network, and dials containers itself. False: through
        /// `GET /b/{id}/dial`.
        direct: bool,
    },
    Answer {
        ask: u64,
        #[serde(flatten)]
        outcome: Outcome,
    },
    Stage {
        ask: u64,
        #[serde(flatten)]
        stage: Stage,
    },
    /// It is about to end: a stop has begun, and `reason` stands; or its application has exited, and
    /// why is said by [`ToProxy::Ended`], once the engine has confirmed it.
    Ending {
        backend: BackendId,
        fencing_token: FencingToken,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<EndReason>,
    },
    Ended {
        backend: BackendId,
        fencing_token: FencingToken,
        end: End,
    },
    /// These grants are gone; what is open under them must be closed at once.
    Revoked {
        backend: BackendId,
        fencing_token: FencingToken,
        grants: Vec<GrantId>,
    },
    /// It is about to be stopped, and will be started elsewhere: its WebSockets are told to come back.
    Leave {
        backend: BackendId,
        fencing_token: FencingToken,
    },
    Ping,
}

/// How far a start is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    pub status: Status,
    /// Since the drone has it.
    pub elapsed_ms: u64,
    /// What the last starts of its image took that were long enough to be waited for, on that drone.
    #[serde(default)]
    pub usual_ms: Option<u64>,
    /// What holds it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Ready(Box<Entry>),
    /// It ended, before or while the proxy waited.
    Ended {
        end: End,
    },
    /// Not here and no tombstone: an old token, or a drone that lost its disk.
    Unknown,
    /// The backend lives, but not for this grant: revoked, or never given.
    NoGrant,
    /// A stop is under way; connect again for the next one.
    Stopping {
        status: Status,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<EndReason>,
    },
}

/// All that a proxy needs to carry requests to a backend under a grant.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of the main port.
    pub address: SocketAddr,
    /// What is spoken there.
    #[serde(default)]
    pub protocol: Protocol,
    /// Further ports at the same IP address. Nothing else there may ever be dialled.
    #[serde(default)]
    pub ports: BTreeMap<PortName, Port>,
    pub user: Option<String>,
    /// A JSON object as text, ASCII.
    pub auth: String,
    pub secret: String,
    pub subdomain: Option<String>,
    /// How long a plain request counts as a use after its end.
    pub linger_seconds: u32,
    /// Pages that may open WebSockets under this grant, as browsers write origins. Empty: every one.
    #[serde(default)]
    pub allowed_origins: Vec<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("address", &self.address)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::CLOCK_RATE_PARTS;

    #[test]
    fn a_stream_has_fallen_for_the_proxy_before_the_drone_gives_its_addresses_away() {
        let whole = |seconds: u64| f64::from(u32::try_from(seconds).unwrap());
        let parts = f64::from(CLOCK_RATE_PARTS);
        let slow_proxy = whole(DEADLINE_SECONDS) / (1.0 - 1.0 / parts);
        let fast_drone = whole(SILENT_SECONDS) / (1.0 + 1.0 / parts);
        assert!(slow_proxy + 0.5 < fast_drone, "{slow_proxy} {fast_drone}");
        const { assert!(PING_SECONDS * 3 <= DEADLINE_SECONDS, "one ping may be lost") };
        assert_eq!((DEADLINE_SECONDS, SILENT_SECONDS), (6, 8));
    }
}
