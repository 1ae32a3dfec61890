//! `GET /ctrl/status` and `GET /pub/health`: whether a controller answers, and how leases stand.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::tasks::Task;

/// As Plane's, three strings; beside them how leases stand, and what the controller's background
/// tasks did last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ControllerStatus {
    /// Always `ok`: anything else is an error.
    pub status: String,
    pub version: String,
    pub hash: String,
    pub lease: LeaseStatus,
    #[serde(default)]
    pub tasks: Vec<Task>,
}

/// As the controller that answers sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LeaseStatus {
    /// Null: no lease is kept.
    pub length_seconds: Option<u64>,
    pub margin_seconds: Option<f64>,
    pub drones: LeaseCounts,
    /// Since Postgres last answered the watch.
    pub watch_age_ms: Option<u64>,
    /// Times that the watch began anew.
    pub watch_interruptions: u64,
    /// Postgres'; it rises with each failover.
    pub timeline: Option<u32>,
    /// 0, but after a failover to a standby that may have lost commits.
    pub new_keys_wait_ms: u64,
    pub synchronous_standby: bool,
}

/// How many drones' leases stand how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeaseCounts {
    pub held: usize,
    pub none: usize,
    pub over: usize,
    pub forgotten: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`: anything else is an error.
    pub status: String,
}
