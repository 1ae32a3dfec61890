//! `/ctrl/pools`: declared pools of warm slots, and the kinds that were learned.

use jetway_protocol::ids::{ClusterName, DroneName, PoolName, WarmHash, WarmPoolName};
use jetway_protocol::warm::SlotTier;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::backends::ShownSpec;
use crate::object;
use crate::spawn::SpawnConfig;

/// A pool as it is declared. Putting the same again changes nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// Without the fields that belong to one backend: `id`, `subdomain`, `use_static_token`.
    #[serde(deserialize_with = "object::required")]
    pub spawn_config: SpawnConfig,
    /// Slots that are always ready or in the making; 1 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10_000)]
    pub min: Option<i64>,
    /// 64 by default, or `min` where that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 10_000)]
    pub max: Option<i64>,
    /// The share of starts that are to find a slot: 0.99 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0.5, exclusive_maximum = 1)]
    pub target_hit_rate: Option<f64>,
    /// `parked` by default; `hot` needs `executable.hot`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<SlotTier>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pools {
    pub pools: Vec<Pool>,
    pub learned: Vec<LearnedKind>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    pub name: WarmPoolName,
    pub min: u32,
    pub max: u32,
    pub target_hit_rate: f64,
    pub tier: SlotTier,
    pub cluster: Option<ClusterName>,
    /// The drones'.
    pub pool: Option<PoolName>,
    pub spawn_config: Option<ShownSpec>,
    /// Why it cannot be read.
    pub error: Option<String>,
    /// Of its kind.
    pub hash: Option<WarmHash>,
    #[serde(flatten)]
    pub slots: Slots,
    pub drones: Vec<DroneSlots>,
}

/// A kind that is kept ready because it is asked for again and again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LearnedKind {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub tier: SlotTier,
    pub hash: WarmHash,
    pub image: Option<String>,
    pub rate_per_second: f64,
    pub peakedness: f64,
    /// Milliseconds since the epoch.
    pub last_arrival: i64,
    /// Wanted in all.
    #[serde(rename = "slots")]
    pub wanted: u32,
    #[serde(flatten)]
    pub slots: Slots,
    pub drones: Vec<DroneSlots>,
}

/// A kind's slots by the drones' last heartbeats. Counters are since each agent's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Slots {
    /// As drones were told.
    pub target: u64,
    pub ready: u64,
    pub making: u64,
    /// Starts that a slot has served.
    pub claimed: u64,
    /// Starts that none has.
    pub missed: u64,
    /// Null before the first.
    pub hit_rate: Option<f64>,
    /// Seconds in which slots were ready and unused, added up.
    pub waste_slot_seconds: f64,
    /// To make a slot, lately, at the slowest drone; 0: not known yet.
    pub make_ms: u32,
    /// From a claim until its slot is replaced, alike.
    pub replenish_ms: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DroneSlots {
    pub drone: DroneName,
    /// Why its last slot could not be made.
    pub error: Option<String>,
    #[serde(flatten)]
    pub slots: Slots,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    pub deleted: bool,
}
