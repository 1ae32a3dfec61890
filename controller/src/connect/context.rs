//! What every connect works with, and what this process remembers from one connect to the next.

use std::sync::Arc;

use jetway_protocol::at_rest::AtRest;
use jetway_protocol::ids::ClusterName;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::{Notify, Semaphore};

use super::deliver::Grants;
use super::hosts::Hosts;
use super::keys::Keys;
use super::wait::Waits;
use crate::db::pool::Pool;
use crate::drone::DroneCalls;
use crate::fleet::Fleet;
use crate::lease::Leases;
use crate::silence::Silence;
use crate::urls::Urls;
use crate::warm::Warm;

pub struct Connects {
    /// Connects under way at once, the waiting ones included.
    pub permits: Arc<Semaphore>,
    pub keys: Keys,
    pub grants: Arc<Grants>,
    pub waits: Waits,
    pub hosts: Hosts,
    /// The default.
    pub cluster: ClusterName,
    /// For statements on the way of a connect.
    pub hot: Arc<Pool>,
    /// For the others.
    pub db: Arc<Pool>,
    pub at_rest: Arc<AtRest>,
    pub urls: Arc<Urls>,
    pub fleet: Arc<Fleet>,
    pub drones: Arc<DroneCalls>,
    pub warm: Arc<Warm>,
    pub leases: Arc<Leases>,
    pub silence: Arc<Silence>,
    pub inventory_nudge: Arc<Notify>,
    pub lifecycle: Lifecycle,
}
