//! `/ctrl/drones`, and an operator's verbs for one: drain, undrain, forget.

use jetway_protocol::controller_api::{Capacity, Load};
use jetway_protocol::ids::{ClusterName, DroneId, DroneName, PoolName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drones {
    pub drones: Vec<Drone>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drone {
    pub name: DroneName,
    pub id: DroneId,
    pub state: DroneState,
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub version: String,
    /// Where controllers and proxies reach it.
    pub advertise: String,
    pub draining: bool,
    /// Until the sessions that are left are stopped; null: no deadline.
    pub drain_seconds_left: Option<f64>,
    pub capacity: Capacity,
    pub load: Load,
    pub lease: DroneLease,
    pub last_heartbeat_age_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DroneState {
    /// It takes new sessions.
    Ready,
    /// It is given nothing new.
    Draining,
    /// No heartbeat for 10 s.
    Silent,
    /// Its engine does not answer.
    NotReady,
    /// It was cut off for longer than its lease.
    LeaseOver,
    /// An operator has said that it is dead.
    Forgotten,
    /// Never sent: a client reads a word that it does not know as this.
    #[serde(other)]
    Unknown,
}

impl DroneState {
    pub fn as_str(self) -> &'static str {
        match self {
            DroneState::Ready => "ready",
            DroneState::Draining => "draining",
            DroneState::Silent => "silent",
            DroneState::NotReady => "not-ready",
            DroneState::LeaseOver => "lease-over",
            DroneState::Forgotten => "forgotten",
            DroneState::Unknown => "unknown",
        }
    }
}

/// How a drone's lease stands, as the controller that answers sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum DroneLease {
    /// Nothing is ever stopped, or given away, for want of one.
    None,
    Held {
        length_ms: u64,
        margin_ms: u64,
        /// For how long this controller has watched the same renewal number; null: not yet.
        unchanged_ms: Option<u64>,
        /// Until it is over, if that goes on.
        ends_in_ms: Option<u64>,
    },
    /// It was watched to its end.
    Over,
    /// An operator has said that the drone is dead.
    Forgotten,
    /// Never sent: a client reads a word that it does not know as this.
    #[serde(other)]
    Unknown,
}

/// The body of drain; none, or `null`, is as good as an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// From now on; absent: the sessions that run are never stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604_800)]
    pub deadline_seconds: Option<i64>,
}

/// The body of forget.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ForgetRequest {
    /// You know that the drone's host is dead, and that none of its containers runs.
    #[serde(default)]
    pub confirmed_dead: bool,
}

/// The answer to drain and undrain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Updated {
    /// False: as before.
    pub updated: bool,
}

/// The answer to forget.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Forgotten {
    pub forgotten: bool,
}
