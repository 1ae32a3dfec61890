//! Drone and proxy → controller: HTTP with JSON bodies under `/internal`, with the role's bearer credential.
//!
//! | method, path | role | body | 2xx |
//! |---|---|---|---|
//! | `POST /internal/drones/register` | drone | [`Register`] | 200 [`Registered`] |
//! | `POST /internal/drones/{drone id}/heartbeat` | drone | [`Heartbeat`] | 200 [`HeartbeatReply`]; 409 [`Stale`]: register again |
//! | `POST /internal/drones/{drone id}/events` | drone | [`Events`] | 200 `null`: all are stored; 409 [`Stale`] |
//! | `POST /internal/proxies/register` | proxy | [`ProxyHeartbeat`] | 200 [`ProxyRegistered`]; repeated as the heartbeat |
//! | `GET /internal/drones/{drone id}` | proxy | – | 200 [`DroneAddress`]; 404 |
//!
//! 409 on register: it does not replace what is there ([`Stale::present`] is what to replace instead), the name belongs to
//! another drone, or the drone id is in use elsewhere ([`StaleCode`] says which). What a reply grants counts from when its
//! request was *sent*: see [`crate::lease`].

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{
    BackendId, BootId, ClusterName, DroneId, DroneName, FencingToken, InstallationId, PoolName, ProxyId, Term,
};
use crate::lease::{LeaseTerms, Replaces};
use crate::status::StatusEntry;
use crate::time::UnixMicros;
use crate::timeline::Stage;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Register {
    pub protocol: u32,
    pub version: String,
    pub drone: DroneId,
    pub name: DroneName,
    pub boot_id: BootId,
    /// Milliseconds since the host's boot.
    pub uptime_ms: u64,
    /// `None`: the controller's default cluster.
    pub cluster: Option<ClusterName>,
    pub pool: PoolName,
    /// Where controllers and proxies reach the drone's server: `host:port`.
    pub advertise: String,
    pub capacity: Capacity,
    /// The installation it belongs to since its first registration, if there was one.
    pub installation: Option<InstallationId>,
    /// Whether this drone keeps a lease, and so says what it replaces. An agent from before the lease does neither.
    #[serde(default)]
    pub holds_lease: bool,
    /// What the refusal before this one has handed out; `None` at the first try.
    #[serde(default)]
    pub replaces: Option<Replaces>,
    /// Random in each agent process: two that share an identity are told apart by it.
    #[serde(default)]
    pub agent: Option<Uuid>,
}

/// What a drone has and what it allows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Capacity {
    pub cpus: f64,
    pub memory_bytes: i64,
    pub backends_max: u32,
    /// Whether specs may mount below a base directory.
    pub mounts: bool,
    /// Networks that a spec may name.
    pub networks: Vec<String>,
    /// Its engine limits no container's disk. Drones of before say nothing of it, and refuse at the
    /// start.
    #[serde(default)]
    pub no_disk_limit: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registered {
    pub term: Term,
    pub installation: InstallationId,
    pub cluster: ClusterName,
    pub draining: bool,
    pub heartbeat_ms: u64,
    /// For agents from before the lease, who only show it.
    pub lease_ms: u64,
    /// The lease of this term. `None` (as in `jetway dev`): there is none, and nothing is stopped for want of it.
    #[serde(default)]
    pub lease: Option<LeaseTerms>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub term: Term,
    /// New with every heartbeat, from 1 in each term: the lease's renewal number.
    pub renewal: i64,
    /// What this drone counts by in this term: what `Registered` said.
    #[serde(default)]
    pub lease: Option<LeaseTerms>,
    pub load: Load,
}

/// What placement weighs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Load {
    pub backends: u32,
    pub cpus_reserved: f64,
    pub memory_reserved_bytes: i64,
    /// Names (with tags) of images that are present.
    pub images: Vec<String>,
    /// False while the engine does not answer.
    pub engine_ok: bool,
    /// What an operator should know of this drone, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it keeps ready. Empty: an agent from before warm slots, or nothing was ever asked for.
    #[serde(default)]
    pub warm: crate::warm::WarmLoad,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeartbeatReply {
    pub draining: bool,
}

/// Events that a drone sends in one call, at most.
pub const EVENTS_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Events {
    pub term: Term,
    pub events: Vec<BackendEvent>,
}

/// One status that a backend reached. Stored once, whatever is repeated: its status says which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendEvent {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    pub entry: StatusEntry,
    /// The whole timeline by then.
    #[serde(default)]
    pub timeline: Vec<Stage>,
}

/// A 409: the drone's term is over, or its name or id is somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    pub code: StaleCode,
    pub message: String,
    /// With [`StaleCode::Moved`]: what to replace. `None` there: nothing, there is no such drone (any more).
    #[serde(default)]
    pub present: Option<Replaces>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StaleCode {
    /// Register again for a new term.
    Term,
    /// The name is taken by a drone with another id.
    NameTaken,
    /// The drone was registered with another installation.
    Installation,
    /// Register once more, with `present` as what is replaced and a fresh look at the clock.
    Moved,
    /// Another host, or another agent with a copy of the data directory, is this drone.
    IdInUse,
    /// What a newer controller may say.
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProxyHeartbeat {
    pub protocol: u32,
    pub version: String,
    pub proxy: ProxyId,
    pub name: String,
    pub cluster: Option<ClusterName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRegistered {
    pub installation: InstallationId,
    pub cluster: ClusterName,
    pub heartbeat_ms: u64,
}

/// What a proxy is told of a session's host (`GET /internal/hosts/{host}`): 404 for one that is
/// nobody's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostOwner {
    /// Where a navigation goes that has no valid cookie, or whose session has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub return_url: Option<String>,
}

/// Where a drone can be reached now; for a token whose address is old.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroneAddress {
    pub drone: DroneId,
    pub advertise: String,
    pub last_heartbeat: UnixMicros,
}
