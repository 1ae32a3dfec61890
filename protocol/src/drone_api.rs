//! Controller → drone: idempotent HTTP with JSON bodies, `Authorization: Bearer <controller-to-drone>`.
//!
//! | method, path | body | 2xx |
//! |---|---|---|
//! | `GET /health` | – (no credential) | `{"status":"ok"}` |
//! | `PUT /b/{id}` | [`PutBackend`] | 200 [`BackendView`] once it is in the journal |
//! | `GET /b` | – | 200 [`Inventory`] |
//! | `GET /b/{id}` | – | 200 [`BackendView`], with its newest grants; `?grant=ID`: with that one alone, if it is there |
//! | `GET /b/{id}/status` | – | 200 [`StatusView`], also of what has ended; never waits for the backend |
//! | `DELETE /b/{id}` | [`DeleteBackend`] | 200 [`DeleteReply`]: a tombstone is set; a live backend is stopped hard |
//! | `POST /b/{id}/grants` | [`AddGrant`] | 200 [`GrantReply`] |
//! | `POST /grants` | [`AddGrants`] | 200 [`GrantsReply`]: each answered as if it had come alone |
//! | `POST /b/{id}/revoke` | [`Revoke`] | 200 [`RevokeReply`] |
//! | `POST /b/{id}/stop` | [`Stop`] | 200 [`BackendView`] |
//! | `GET /b/{id}/follow` | – | 200, one [`Followed`] a line (NDJSON): history first, then live, a hint with the entry that it belongs to; the stream ends after `terminated` |
//! | `GET /b/{id}/logs?follow=bool&tail=N&timestamps=bool` | – | 200, the container's output as plain bytes; of a backend that has ended, what is kept of it |
//! | `PUT /draining` | [`Draining`] | 200 `null` |
//! | `PUT /warm` | [`SetWarm`] | 200 `null`: these are the slots to keep ready, and no others |
//!
//! and for proxies, `Authorization: Bearer <proxy-to-drone>`:
//!
//! | `GET /attach` | WebSocket | see [`crate::attach`] |
//! | `GET /b/{id}/dial` | `Upgrade: jetway-dial`, headers [`FENCING_HEADER`] and [`PORT_HEADER`] | 101, then the bytes of a connection to that port of the backend; 422 `not_offered` where its spec has no such port |
//!
//! A command whose term is not the drone's is refused: an older one with `wrong_term`, a later one with `unavailable`
//! ([`crate::lease::heed`]). Refusals are 4xx with [`Refusal`]. 404 means: not here, and no tombstone. 410: ended, with a tombstone.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::grant::Grant;
use crate::hint::Hint;
use crate::ids::{BackendId, FencingToken, GrantId, Subdomain, Term};
use crate::key::Key;
use crate::spec::{BackendSpec, OnIsolation};
use crate::status::{EndReason, Status, StatusEntry, TerminationKind};
use crate::time::UnixMicros;
use crate::timeline::Stage;
use crate::warm::WarmTargets;

/// The `Upgrade` token of the dial route.
pub const DIAL_PROTOCOL: &str = "jetway-dial";
/// For a connection to a ready backend, which its drone makes, or a proxy on the same network.
pub const DIAL_MAX: Duration = Duration::from_secs(5);
/// Names the fencing token of the backend on the dial route.
pub const FENCING_HEADER: &str = "jetway-fencing-token";
/// Names the port on the dial route; the main one without it.
pub const PORT_HEADER: &str = "jetway-port";

/// Repeating it for the same id and fencing token answers with the backend as it is by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutBackend {
    pub term: Term,
    pub fencing_token: FencingToken,
    /// The caller's key; `None` where the caller named none.
    pub key: Option<Key>,
    pub spec: BackendSpec,
    /// The first caller's grant. The drone adds the static grant by itself where the spec asks for it.
    pub grant: Option<Grant>,
    /// `SESSION_BACKEND_STATIC_TOKEN`.
    #[serde(default)]
    pub static_token: Option<String>,
    /// The stages that the controller measured; the drone goes on from there.
    #[serde(default)]
    pub timeline: Vec<Stage>,
    /// What cannot be taken now is refused for good: `declined` instead of `unavailable`, so that another drone may be tried.
    #[serde(default)]
    pub or_never: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddGrant {
    pub term: Term,
    pub fencing_token: FencingToken,
    pub grant: Grant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantReply {
    /// `terminating` or later: the grant was not added, wait for the end.
    pub status: Status,
    /// The backend has a caller's key and lives under the drone's lease, which the drone holds as it says this: nobody else can
    /// have the key meanwhile, whatever is written anywhere.
    #[serde(default)]
    pub holds_key: bool,
    /// What holds its start up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}

/// Grants of many backends at once, 64 at most.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AddGrants {
    pub term: Term,
    pub grants: Vec<GrantTo>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrantTo {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    pub grant: Grant,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsReply {
    /// One for each grant, in their order.
    pub answers: Vec<GrantAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum GrantAnswer {
    Added(GrantReply),
    Refused(Refusal),
}

/// Ends what a user may do with a backend: grants are deleted, open connections closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoke {
    /// `None`: from a controller before the lease.
    #[serde(default)]
    pub term: Option<Term>,
    pub user: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReply {
    pub revoked: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// `None`: from a controller before the lease.
    #[serde(default)]
    pub term: Option<Term>,
    pub kind: TerminationKind,
    pub reason: EndReason,
    /// Its clients are told first, and asked to come back: where they come back to is another drone's.
    #[serde(default)]
    pub leave: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteBackend {
    pub term: Term,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteReply {
    /// True: it never ran or has ended, and never will run; the row may be ended. False: a stop is under way.
    pub gone: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// `None`: from a controller before the lease.
    #[serde(default)]
    pub term: Option<Term>,
    pub draining: bool,
}

/// All that this drone is to keep ready from now on. Sent when it differs from what the drone's heartbeats show.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetWarm {
    pub term: Term,
    pub targets: WarmTargets,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendView {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub key: Option<Key>,
    pub status: Status,
    /// Since `scheduled`, oldest first; at most one entry a status.
    pub history: Vec<StatusEntry>,
    pub timeline: Vec<Stage>,
    /// The newest thousand, in the order they came.
    pub grants: Vec<GrantView>,
    /// Open WebSockets and requests, over all proxies.
    pub connections: u32,
    /// Places where it was seen listening although nobody can reach them.
    #[serde(default)]
    pub listening_elsewhere: Vec<String>,
    /// What holds its start up.
    #[serde(default)]
    pub hint: Option<Hint>,
    /// Milliseconds until it is stopped because nobody uses it. `None`: it is in use, not ready, or
    /// has no idle end.
    #[serde(default)]
    pub idle_in_ms: Option<u64>,
    /// Milliseconds until its lifetime is over.
    #[serde(default)]
    pub lifetime_in_ms: Option<u64>,
    /// The container's address, once it has one.
    #[serde(default)]
    pub address: Option<String>,
    /// What a controller needs of the spec to put a lost row back. `None`: not known, or from an agent before the lease.
    #[serde(default)]
    pub on_isolation: Option<OnIsolation>,
    #[serde(default)]
    pub subdomain: Option<Subdomain>,
    #[serde(default)]
    pub use_static_token: bool,
}

/// A line of the follow route. A hint that comes later repeats the last entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    #[serde(flatten)]
    pub entry: StatusEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<Hint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantView {
    pub id: GrantId,
    pub user: Option<String>,
    pub added: UnixMicros,
    /// Whether a connection was ever opened with it.
    pub used: bool,
}

/// How far a backend is: everything that its followers have been told so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// Oldest first; of one that has ended, perhaps only the end.
    pub history: Vec<StatusEntry>,
    /// What holds its start up.
    #[serde(default)]
    pub hint: Option<Hint>,
}

/// What the drone has, at one moment of one term. Absence from it proves nothing about a newer row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub term: Term,
    pub backends: Vec<InventoryEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryEntry {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub key: Option<Key>,
    pub status: Status,
}

/// Why a drone says no. All but `unavailable` are final: the controller may try another drone under a new id. A final "no" to a
/// `PUT` is never said of a backend that lives there, and leaves a tombstone: whatever copy of it comes later starts nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The command carries another term; the controller's view of this drone is old.
    WrongTerm,
    /// The id is known under another fencing token.
    WrongFencingToken,
    /// The id has a tombstone.
    Ended,
    /// Not here.
    Unknown,
    Draining,
    /// No room, or no engine to put it on.
    NoCapacity,
    /// The spec asks for what this drone does not offer: a mount without a base, a network that is not allowed.
    NotOffered,
    /// The message could not be read.
    Invalid,
    /// Not now: starting, or stopping. Nothing was refused: a second copy of the message may be taken.
    Unavailable,
    /// To a proxy that dials: too many tunnels are open.
    Busy,
    /// Not now, and so never under this id: said only to a `PUT` that asked for it ([`PutBackend::or_never`]).
    Declined,
}
