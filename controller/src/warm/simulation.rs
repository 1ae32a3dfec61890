//! The real decisions (where to place, what was asked for, how many slots, on which drones) around simulated drones: each makes its
//! slots by itself, a few at a time, and says every 2 s how it stands. Time is a number, chance has a seed.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, KindLoad, SlotTier};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::demand::{Demand, DemandRow};
use super::look::Sizing;
use super::plan::plan;
use super::pool::Pool;
use crate::connect::place::{Known, Need, choose, kinds_of};
use crate::db::drones::Drone;
use crate::db::warm_demand::Place;
use crate::fleet::Table;
use crate::reservations::Reservations;
use crate::testing::{CLUSTER, warm_drone_row};

const STEP_MS: i64 = 10;
const HEARTBEAT_MS: i64 = 2000;
const LOOK_MS: i64 = 1000;
/// Slots that one drone makes at once.
const MAKING_MAX: usize = 6;
const BACKEND_MS: f64 = 450.0;

pub struct Sim {
    pub now: i64,
    pub begun: Instant,
    pub random: StdRng,
    pub app: Executable,
    pub drones: Vec<SimDrone>,
    pub table: Table,
    pub reservations: Reservations,
    /// As they are in Postgres.
    pub rows: Vec<DemandRow>,
    pub pools: Vec<Arc<Pool>>,
    pub writes: u64,
    pub noted: bool,
    pub next_arrival: f64,
    pub count: Count,
}

pub struct SimDrone {
    pub target: u32,
    pub ready: u32,
    pub making: Vec<i64>,
    pub asked: u64,
    pub claimed: u64,
    pub unused_ms: u64,
    /// As of its last heartbeat.
    pub row: Drone,
    pub heard_at: i64,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    pub arrivals: u64,
    pub hits: u64,
    pub unused_ms: u64,
}

impl Count {
    pub fn since(self, before: Count) -> Count {
        Count {
            arrivals: self.arrivals - before.arrivals,
            hits: self.hits - before.hits,
            unused_ms: self.unused_ms - before.unused_ms,
        }
    }

    pub fn misses(self) -> u64 {
        self.arrivals - self.hits
    }

    #[expect(clippy::cast_precision_loss, reason = "a simulation's counts")]
    pub fn hit_rate(self) -> f64 {
        self.hits as f64 / (self.arrivals.max(1)) as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a simulation's counts")]
    pub fn waste_per_claim(self) -> f64 {
        self.unused_ms as f64 / 1000.0 / (self.hits.max(1)) as f64
    }
}

impl Sim {
    pub fn new(drones: u128, seed: u64) -> Self {
        let begun = Instant::now();
        let drones: Vec<SimDrone> = (0..drones).map(SimDrone::new).collect();
        let mut sim = Self {
            now: 0,
            begun,
            random: StdRng::seed_from_u64(seed),
            app: Executable::of_image("app"),
            drones,
            table: Table::new(Vec::new(), begun),
            reservations: Reservations::default(),
            rows: Vec::new(),
            pools: Vec::new(),
            writes: 0,
            noted: false,
            next_arrival: 0.0,
            count: Count::default(),
        };
        sim.table = Table::new(sim.seen(), begun);
        sim
    }

    fn kind(&self) -> Kind {
        Kind::of(SlotTier::Parked, &self.app).unwrap()
    }

    fn at(&self, ms: i64) -> Instant {
        self.begun + Duration::from_millis(ms.unsigned_abs())
    }

    /// So many seconds with Poisson's arrivals of this rate, `bunch` at a time.
    pub fn run(&mut self, seconds: i64, rate: f64, bunch: u32) -> Count {
        let (before, end) = (self.count, self.now + seconds * 1000);
        self.next_arrival = as_ms(self.now) + self.gap(rate / f64::from(bunch));
        while self.now < end {
            self.now += STEP_MS;
            self.step();
            while self.next_arrival < as_ms(self.now) {
                for _ in 0..bunch {
                    self.arrive();
                }
                self.next_arrival += self.gap(rate / f64::from(bunch));
            }
        }
        self.count.since(before)
    }

    fn gap(&mut self, rate: f64) -> f64 {
        if rate > 0.0 { -self.random.random::<f64>().max(1e-12).ln() / rate * 1000.0 } else { f64::INFINITY }
    }

    fn step(&mut self) {
        let (now, kind) = (self.now, self.kind());
        for (n, drone) in self.drones.iter_mut().enumerate() {
            drone.step(now, &mut self.random);
            self.count.unused_ms += u64::from(drone.ready) * STEP_MS.unsigned_abs();
            if (now + 370 * i64::try_from(n).unwrap()) % HEARTBEAT_MS == 0 {
                drone.beat(now, &kind);
            }
        }
        if now % LOOK_MS == 0 {
            self.table = Table::new(self.seen(), self.at(now));
        }
        if now % LOOK_MS == 600 {
            self.look();
        }
    }

    fn seen(&self) -> Vec<Arc<Drone>> {
        let seen = |drone: &SimDrone| {
            let mut row = drone.row.clone();
            row.heartbeat_age = Duration::from_millis((self.now - drone.heard_at).unsigned_abs());
            Arc::new(row)
        };
        self.drones.iter().map(seen).collect()
    }

    /// As the task does it: what did not have to be written is forgotten again.
    fn look(&mut self) {
        let place = Place {
            cluster: CLUSTER.parse().unwrap(),
            pool: String::new().parse().unwrap(),
            kind: self.kind(),
        };
        if std::mem::take(&mut self.noted) && !self.rows.iter().any(|row| row.place == place) {
            let demand = Demand::noted(self.now);
            let executable = Some(self.app.clone());
            self.rows.push(DemandRow {
                place,
                executable,
                needs_image: false,
                start_timeout_seconds: 60,
                demand,
            });
        }
        let (drones, mut rows) = (self.seen(), self.rows.clone());
        let look = Sizing { now: self.now, learn: true, pools: &self.pools, drones: &drones };
        let sized = look.size(&mut rows);
        self.writes += u64::from(!sized.changed.is_empty() || !sized.cold.is_empty());
        for row in rows.into_iter().filter(|row| sized.changed.contains(&row.place)) {
            self.rows.retain(|old| old.place != row.place);
            let demand = serde_json::from_str(&serde_json::to_string(&row.demand).unwrap()).unwrap();
            self.rows.push(DemandRow { demand, ..row });
        }
        self.rows.retain(|row| !sized.cold.contains(&row.place));
        for (id, targets) in plan(&sized.wishes, &drones, Duration::ZERO) {
            let drone = self.drones.iter_mut().find(|drone| drone.row.id == id).unwrap();
            drone.target = targets.targets.iter().map(|target| target.slots).sum();
        }
    }

    fn arrive(&mut self) {
        let (cluster, pool) = (CLUSTER.parse().unwrap(), String::new().parse().unwrap());
        let kinds = kinds_of(&self.app);
        let need =
            Need { cluster: &cluster, pool: &pool, executable: &self.app, kinds: &kinds, exclude: &[] };
        let now = self.at(self.now);
        let known = Known { table: &self.table, reservations: &self.reservations, now };
        let (drone, kind) = choose(&known, &need, &mut self.random).unwrap();
        self.reservations.add(drone.id, 0.0, 0, kind, now);
        let drone = self.drones.iter_mut().find(|one| one.row.id == drone.id).unwrap();
        drone.asked += 1;
        self.count.arrivals += 1;
        if drone.ready > 0 {
            drone.ready -= 1;
            drone.claimed += 1;
            self.count.hits += 1;
        }
        self.noted = true;
    }

    pub fn slots(&self) -> u32 {
        self.drones.iter().map(|drone| drone.target).sum()
    }
}

impl SimDrone {
    fn new(n: u128) -> Self {
        let row = warm_drone_row(&format!("d{n}"), n);
        Self { target: 0, ready: 0, making: Vec::new(), asked: 0, claimed: 0, unused_ms: 0, row, heard_at: 0 }
    }

    fn step(&mut self, now: i64, random: &mut StdRng) {
        let before = self.making.len();
        self.making.retain(|done| *done > now);
        self.ready += u32::try_from(before - self.making.len()).unwrap();
        self.ready = self.ready.min(self.target);
        self.unused_ms += u64::from(self.ready) * STEP_MS.unsigned_abs();
        while self.ready + u32::try_from(self.making.len()).unwrap() < self.target
            && self.making.len() < MAKING_MAX
        {
            #[expect(clippy::cast_possible_truncation, reason = "half a second")]
            let length = (BACKEND_MS * random.random_range(0.7..1.5)) as i64;
            self.making.push(now + length);
        }
    }

    fn beat(&mut self, now: i64, kind: &Kind) {
        self.heard_at = now;
        self.row.load.warm.kinds = vec![KindLoad {
            kind: kind.clone(),
            target: self.target,
            ready: self.ready,
            making: u32::try_from(self.making.len()).unwrap(),
            asked: self.asked,
            claimed: self.claimed,
            make_ms: if self.claimed > 0 { 495 } else { 0 },
            unused_ms: self.unused_ms,
            replenish_ms: 0,
            error: String::new(),
        }];
    }
}

#[expect(clippy::cast_precision_loss, reason = "hours in milliseconds")]
fn as_ms(ms: i64) -> f64 {
    ms as f64
}
