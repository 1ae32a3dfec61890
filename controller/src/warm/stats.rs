//! What drones' heartbeats say of a kind, added up. Counters are since each agent's start.

use jetway_api::pools::{DroneSlots, Slots};
use jetway_protocol::ids::{ClusterName, PoolName};
use jetway_protocol::warm::{Kind, KindLoad};

use crate::fleet::Table;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub target: u64,
    pub ready: u64,
    pub making: u64,
    pub asked: u64,
    pub claimed: u64,
    pub unused_ms: u64,
    /// The slowest drone's.
    pub replenish_ms: u32,
    pub make_ms: u32,
}

impl Stats {
    pub fn add(&mut self, load: &KindLoad) {
        self.merge(&Stats {
            target: load.target.into(),
            ready: load.ready.into(),
            making: load.making.into(),
            asked: load.asked,
            claimed: load.claimed,
            unused_ms: load.unused_ms,
            replenish_ms: load.replenish_ms,
            make_ms: load.make_ms,
        });
    }

    pub fn merge(&mut self, other: &Stats) {
        self.target += other.target;
        self.ready += other.ready;
        self.making += other.making;
        self.asked = self.asked.saturating_add(other.asked);
        self.claimed = self.claimed.saturating_add(other.claimed);
        self.unused_ms = self.unused_ms.saturating_add(other.unused_ms);
        self.replenish_ms = self.replenish_ms.max(other.replenish_ms);
        self.make_ms = self.make_ms.max(other.make_ms);
    }

    pub fn missed(&self) -> u64 {
        self.asked.saturating_sub(self.claimed)
    }

    pub fn shown(&self) -> Slots {
        #[expect(clippy::cast_precision_loss, reason = "a rate, and seconds, for people")]
        let (asked, claimed, unused) = (self.asked as f64, self.claimed as f64, self.unused_ms as f64);
        Slots {
            target: self.target,
            ready: self.ready,
            making: self.making,
            claimed: self.claimed,
            missed: self.missed(),
            hit_rate: (self.asked > 0).then(|| claimed / asked),
            waste_slot_seconds: unused / 1000.0,
            make_ms: self.make_ms,
            replenish_ms: self.replenish_ms,
        }
    }
}

/// Of one kind, in all and for each drone that knows of it.
pub fn of_kind(
    table: &Table,
    cluster: &ClusterName,
    pool: &PoolName,
    kind: &Kind,
) -> (Stats, Vec<DroneSlots>) {
    let (mut all, mut drones) = (Stats::default(), Vec::new());
    for drone in table.drones.iter().filter(|drone| drone.cluster == *cluster && drone.pool == *pool) {
        let Some(load) = drone.kind(kind) else { continue };
        let mut one = Stats::default();
        one.add(load);
        all.add(load);
        let error = Some(load.error.clone()).filter(|error| !error.is_empty());
        drones.push(DroneSlots { drone: drone.name.clone(), error, slots: one.shown() });
    }
    drones.sort_by(|a, b| a.drone.cmp(&b.drone));
    (all, drones)
}

/// What the controller that looked last has seen.
#[derive(Debug, Default)]
pub struct Looked {
    pub kinds: Vec<LookedAt>,
}

#[derive(Debug)]
pub struct LookedAt {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub kind: Kind,
    /// The declared pools of this kind; none: it is learned.
    pub declared: Vec<String>,
    pub slots: u32,
    pub rate: f64,
}
