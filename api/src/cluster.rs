//! `GET /ctrl/c/{cluster}/state`: the drones and proxies of a cluster, in Plane's shape.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterState {
    pub drones: Vec<ClusterDrone>,
    pub proxies: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterDrone {
    pub ready: bool,
    pub draining: bool,
    /// In whole seconds.
    pub last_heartbeat_age: u64,
    pub backend_count: u32,
    pub node: Node,
}

/// Plane's node. Ours hang on no particular controller; the one that answers stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    pub name: NodeName,
    pub plane_version: String,
    pub plane_hash: String,
    /// Always `jetway`.
    pub controller: String,
    pub controller_heartbeat_age: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum NodeName {
    Drone(String),
    Proxy(String),
}
