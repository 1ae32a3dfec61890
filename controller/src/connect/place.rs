//! Which drone a new backend goes to. Pure: the table of drones, what was reserved since, and chance come from outside.
//!
//! A drone must be able to: cluster, pool, heartbeat, engine, not draining, mounts, networks, image policy, and room.
//! Of those that are, the best class counts: a hot slot is ready; a parked slot is ready; one must have been replaced by now; slots
//! of the kind are made there; the image is there; any. Of the best class two are drawn at random and the less full one is taken,
//! which spreads a burst without anybody keeping count.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::error::PassedOver;
use jetway_protocol::ids::{ClusterName, DroneId, PoolName};
use jetway_protocol::spec::{Executable, PullPolicy};
use jetway_protocol::warm::{Kind, SlotTier};
use rand::Rng;
use tokio::time::Instant;

use crate::db::drones::Drone;
use crate::fleet::{Table, unable};
use crate::reservations::{LIFE, Reservations};

/// A drone that has registered longer ago and does not serve is not starting: its engine is in trouble.
const STARTING_MAX: Duration = Duration::from_secs(30);
/// Entries of the list of why each drone was passed over.
const PASSED_OVER_MAX: usize = 50;
/// Times that a drone usually needs to replace a slot until it is taken to have done so.
const REPLACED: f64 = 1.5;
/// Of many drones a few draws usually find two that can; then nobody looks at all of them.
const DRAWS: usize = 8;
/// What was summed up in floating point may miss by a hair.
const CPUS_MISSED: f64 = 1e-6;

pub struct Need<'a> {
    pub cluster: &'a ClusterName,
    pub pool: &'a PoolName,
    pub executable: &'a Executable,
    /// The kinds of slots that serve it, the better one first.
    pub kinds: &'a [Kind],
    /// Drones that have just refused.
    pub exclude: &'a [DroneId],
}

/// The kinds of slots that serve an executable, the better one first. None: a slot cannot be made ahead.
pub fn kinds_of(executable: &Executable) -> Vec<Kind> {
    [SlotTier::Hot, SlotTier::Parked].iter().filter_map(|tier| Kind::of(*tier, executable).ok()).collect()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nothing {
    /// None has room, or none is there, at the moment.
    Fits(Vec<PassedOver>),
    /// No drone of the cluster and pool offers what the spec asks for: waiting does not help.
    Offered(Vec<PassedOver>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// Not asked for: another cluster or pool.
    Elsewhere(String),
    /// It never does this.
    NotOffered(String),
    /// Not now.
    NotNow(String),
}

/// What is known at the moment of a choice.
pub struct Known<'a> {
    pub table: &'a Table,
    pub reservations: &'a Reservations,
    pub now: Instant,
}

/// A drone, and the kind of slot that is ready there, if one is.
pub type Chosen = (Arc<Drone>, Option<Kind>);

pub fn choose(known: &Known<'_>, need: &Need<'_>, random: &mut impl Rng) -> Result<Chosen, Nothing> {
    let table = known.table;
    let fullness = |n: usize| fits(known, &table.drones[n], need).ok();
    for ready in [Known::ready, Known::ready_by_now] {
        for kind in need.kinds {
            let having = |n: usize| if ready(known, &table.drones[n], kind) > 0 { fullness(n) } else { None };
            if let Some(n) = better_of_two(table.with_slots(kind), random, having) {
                return Ok((table.drones[n].clone(), Some(kind.clone())));
            }
        }
    }
    for kind in need.kinds {
        if let Some(n) = better_of_two(table.with_slots(kind), random, fullness) {
            return Ok((table.drones[n].clone(), Some(kind.clone())));
        }
    }
    for class in [table.with_image(&need.executable.image), table.everyone()] {
        if let Some(n) = better_of_two(class, random, fullness) {
            return Ok((table.drones[n].clone(), None));
        }
    }
    Err(nothing(known, need))
}

/// Of two drawn from those that can, the one that costs less.
fn better_of_two(
    class: &[usize],
    random: &mut impl Rng,
    cost: impl Fn(usize) -> Option<f64>,
) -> Option<usize> {
    if class.is_empty() {
        return None;
    }
    let better = |one: (usize, f64), two: (usize, f64)| if two.1 < one.1 { two } else { one };
    let mut first: Option<(usize, f64)> = None;
    for _ in 0..DRAWS {
        let n = class[random.random_range(0..class.len())];
        if let Some(cost) = cost(n) {
            match first {
                Some(first) => return Some(better(first, (n, cost)).0),
                None => first = Some((n, cost)),
            }
        }
    }
    let able: Vec<(usize, f64)> = class.iter().filter_map(|n| Some((*n, cost(*n)?))).collect();
    if able.is_empty() {
        return None;
    }
    let draw = |random: &mut _| able[Rng::random_range(random, 0..able.len())];
    let first = draw(random);
    Some(better(first, draw(random)).0)
}

fn nothing(known: &Known<'_>, need: &Need<'_>) -> Nothing {
    let mut passed_over = Vec::new();
    let (mut here, mut not_offered) = (0, 0);
    for drone in &known.table.drones {
        let Err(why) = fits(known, drone, need) else { continue };
        here += usize::from(!matches!(why, Why::Elsewhere(_)));
        not_offered += usize::from(matches!(why, Why::NotOffered(_)));
        let (Why::Elsewhere(reason) | Why::NotOffered(reason) | Why::NotNow(reason)) = why;
        if passed_over.len() < PASSED_OVER_MAX {
            passed_over.push(PassedOver { drone: drone.name.to_string(), reason });
        }
    }
    if here > 0 && here == not_offered { Nothing::Offered(passed_over) } else { Nothing::Fits(passed_over) }
}

impl Known<'_> {
    /// Slots that were ready there, less those that were given away since the drone last spoke.
    fn ready(&self, drone: &Drone, kind: &Kind) -> u32 {
        let ready = drone.kind(kind).map_or(0, |load| load.ready);
        ready.saturating_sub(self.given(drone, kind, LIFE))
    }

    /// The same, where each that was given away, or was being made, has been replaced in the time that this takes there.
    fn ready_by_now(&self, drone: &Drone, kind: &Kind) -> u32 {
        let Some(load) = drone.kind(kind) else { return 0 };
        let make = Duration::from_millis(load.replenish_ms.max(load.make_ms).into());
        if make.is_zero() {
            return 0;
        }
        let made = make.mul_f64(REPLACED) <= self.now.duration_since(self.table.heartbeat_of(drone));
        let ready = if made { load.ready + load.making } else { load.ready };
        ready.min(load.target).saturating_sub(self.given(drone, kind, make.mul_f64(REPLACED)))
    }

    fn given(&self, drone: &Drone, kind: &Kind, age: Duration) -> u32 {
        self.reservations.slots(drone.id, kind, self.table.heartbeat_of(drone), self.now, age)
    }
}

/// Whether a drone that registered a moment ago would do, once it says that it serves.
pub fn is_about_to_fit(table: &Table, now: Instant, need: &Need<'_>) -> bool {
    let age = now.duration_since(table.read_at);
    let known = Known { table, reservations: &Reservations::default(), now };
    table.drones.iter().any(|drone| {
        let starting = !drone.load.engine_ok && drone.registered_age + age <= STARTING_MAX;
        starting && {
            let mut serving = Drone::clone(drone);
            serving.load.engine_ok = true;
            // Which images it has, it says with its first heartbeat.
            serving.load.images = vec![need.executable.image.clone()];
            fits(&known, &serving, need).is_ok()
        }
    })
}

/// How full the drone would be, 0 to 1, or why it cannot.
fn fits(known: &Known<'_>, drone: &Drone, need: &Need<'_>) -> Result<f64, Why> {
    let spec = need.executable;
    if drone.cluster != *need.cluster {
        return Err(Why::Elsewhere(format!("is in the cluster {}", drone.cluster)));
    }
    if drone.pool != *need.pool {
        return Err(Why::Elsewhere(format!("is in the pool \"{}\"", drone.pool)));
    }
    if spec.mount.is_some() && !drone.capacity.mounts {
        return Err(Why::NotOffered("has no base directory for mounts".into()));
    }
    if let Some(network) = &spec.network_name
        && !drone.capacity.networks.contains(network)
    {
        return Err(Why::NotOffered(format!("does not offer the network {network}")));
    }
    if spec.resource_limits.disk_limit_bytes.is_some() && drone.capacity.no_disk_limit {
        return Err(Why::NotOffered("cannot limit a session's disk: its engine's storage does not".into()));
    }
    if spec.pull_policy == PullPolicy::Never && !drone.has_image(&spec.image) {
        return Err(Why::NotOffered(format!(
            "does not have the image {}, and pull_policy is Never",
            spec.image
        )));
    }
    if let Some(reason) = too_small(drone, spec) {
        return Err(Why::NotOffered(reason));
    }
    if let Some(reason) = unable(drone, known.now.duration_since(known.table.read_at)) {
        return Err(Why::NotNow(reason));
    }
    if need.exclude.contains(&drone.id) {
        return Err(Why::NotNow("refused this backend".into()));
    }
    room(known, drone, spec)
}

/// Why the drone could not take it even if it were empty: waiting does not help.
fn too_small(drone: &Drone, spec: &Executable) -> Option<String> {
    let capacity = &drone.capacity;
    if spec.memory_reserve_bytes > capacity.memory_bytes {
        return Some(format!(
            "has {} bytes of memory for sessions in all, and {} are to be reserved (memory_reserve_bytes)",
            capacity.memory_bytes, spec.memory_reserve_bytes
        ));
    }
    if spec.cpu_reserve > capacity.cpus + CPUS_MISSED {
        return Some(format!(
            "has {} CPUs for sessions in all, and {} are to be reserved (cpu_reserve)",
            capacity.cpus, spec.cpu_reserve
        ));
    }
    None
}

fn room(known: &Known<'_>, drone: &Drone, spec: &Executable) -> Result<f64, Why> {
    let taken = known.reservations.taken(drone.id, known.table.heartbeat_of(drone), known.now);
    let count = u64::from(drone.load.backends) + u64::from(taken.backends);
    let cpus = drone.load.cpus_reserved + taken.cpus;
    let memory = drone.load.memory_reserved_bytes.saturating_add(taken.memory_bytes);
    let capacity = &drone.capacity;
    if count >= u64::from(capacity.backends_max) {
        return Err(Why::NotNow(format!("is full: {count} of {} backends", capacity.backends_max)));
    }
    let memory = memory.saturating_add(spec.memory_reserve_bytes);
    if memory > capacity.memory_bytes {
        let free = capacity.memory_bytes.saturating_sub(memory - spec.memory_reserve_bytes).max(0);
        return Err(Why::NotNow(format!(
            "has {free} of {} bytes of memory free, and {} are needed",
            capacity.memory_bytes, spec.memory_reserve_bytes
        )));
    }
    let cpus = cpus + spec.cpu_reserve;
    if cpus > capacity.cpus + CPUS_MISSED {
        let free = (capacity.cpus - (cpus - spec.cpu_reserve)).max(0.0);
        return Err(Why::NotNow(format!(
            "has {free:.2} of {} CPUs free, and {} are needed",
            capacity.cpus, spec.cpu_reserve
        )));
    }
    let share = |part: f64, whole: f64| if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 };
    #[expect(clippy::cast_precision_loss, reason = "a share of memory needs no exact bytes")]
    let memory_share = share(memory as f64, capacity.memory_bytes as f64);
    #[expect(clippy::cast_precision_loss, reason = "nobody counts 2^52 backends on a drone")]
    let count_share = share((count + 1) as f64, f64::from(capacity.backends_max));
    Ok(memory_share.max(share(cpus, capacity.cpus)).max(count_share))
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
