//! Which drone a new backend goes to. Pure: the table of drones, what was reserved since, and chance come from outside.
//!
//! A drone must be able to: cluster, pool, heartbeat, engine, not draining, mounts, networks, image policy, and room.
//! Of those that are, two are drawn at random and the better one is taken, which spreads a burst without anybody
//! keeping count. Better: it has the image; then, it is less full.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::error::PassedOver;
use jetway_protocol::ids::{ClusterName, DroneId, PoolName};
use jetway_protocol::spec::{Executable, PullPolicy};
use rand::Rng;

use crate::db::drones::Drone;
use crate::fleet::Reservation;

/// A drone that has been silent for longer gets nothing new: five heartbeats.
pub const HEARTBEAT_AGE_MAX: Duration = Duration::from_secs(10);
/// A drone that has registered longer ago and does not serve is not starting: its engine is in trouble.
const STARTING_MAX: Duration = Duration::from_secs(30);
/// Entries of the list of why each drone was passed over.
const PASSED_OVER_MAX: usize = 50;

pub struct Need<'a> {
    pub cluster: &'a ClusterName,
    pub pool: &'a PoolName,
    pub executable: &'a Executable,
    /// Drones that have just refused.
    pub exclude: &'a [DroneId],
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

/// `age` is how old the table is.
pub fn choose(
    drones: &[Arc<Drone>],
    age: Duration,
    need: &Need<'_>,
    reservations: &[Reservation],
    random: &mut impl Rng,
) -> Result<Arc<Drone>, Nothing> {
    let mut passed_over = Vec::new();
    let mut able = Vec::new();
    let (mut here, mut not_offered) = (0, 0);
    for drone in drones {
        match fits(drone, age, need, reservations) {
            Ok(fullness) => able.push((drone, fullness)),
            Err(why) => {
                here += usize::from(!matches!(why, Why::Elsewhere(_)));
                not_offered += usize::from(matches!(why, Why::NotOffered(_)));
                let (Why::Elsewhere(reason) | Why::NotOffered(reason) | Why::NotNow(reason)) = why;
                if passed_over.len() < PASSED_OVER_MAX {
                    passed_over.push(PassedOver { drone: drone.name.to_string(), reason });
                }
            }
        }
    }
    let draw =
        |random: &mut _, able: &[(&Arc<Drone>, f64)]| -> usize { Rng::random_range(random, 0..able.len()) };
    match able.len() {
        0 if here > 0 && here == not_offered => Err(Nothing::Offered(passed_over)),
        0 => Err(Nothing::Fits(passed_over)),
        _ => {
            let first = &able[draw(random, &able)];
            let second = &able[draw(random, &able)];
            let cost = |(drone, fullness): &(&Arc<Drone>, f64)| {
                fullness + if has_image(drone, &need.executable.image) { 0.0 } else { 1.0 }
            };
            let better = if cost(second) < cost(first) { second } else { first };
            Ok(Arc::clone(better.0))
        }
    }
}

/// Whether a drone that registered a moment ago would do, once it says that it serves.
pub fn is_about_to_fit(drones: &[Arc<Drone>], age: Duration, need: &Need<'_>) -> bool {
    drones.iter().any(|drone| {
        let starting = !drone.load.engine_ok && drone.registered_age + age <= STARTING_MAX;
        starting && {
            let mut serving = Drone::clone(drone);
            serving.load.engine_ok = true;
            // Which images it has, it says with its first heartbeat.
            serving.load.images = vec![need.executable.image.clone()];
            fits(&serving, age, need, &[]).is_ok()
        }
    })
}

/// How full the drone would be, 0 to 1, or why it cannot.
fn fits(drone: &Drone, age: Duration, need: &Need<'_>, reservations: &[Reservation]) -> Result<f64, Why> {
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
    if spec.pull_policy == PullPolicy::Never && !has_image(drone, &spec.image) {
        return Err(Why::NotOffered(format!(
            "does not have the image {}, and pull_policy is Never",
            spec.image
        )));
    }
    if drone.draining {
        return Err(Why::NotNow("is draining".into()));
    }
    if drone.lease.is_over() {
        return Err(Why::NotNow("has lost its lease, and has not registered anew".into()));
    }
    let silent = drone.heartbeat_age + age;
    if silent > HEARTBEAT_AGE_MAX {
        return Err(Why::NotNow(format!("was last heard of {} s ago", silent.as_secs())));
    }
    if !drone.load.engine_ok {
        return Err(Why::NotNow(
            "does not serve: it is just starting, or its container engine does not answer".into(),
        ));
    }
    if need.exclude.contains(&drone.id) {
        return Err(Why::NotNow("refused this backend".into()));
    }
    room(drone, spec, reservations)
}

fn room(drone: &Drone, spec: &Executable, reservations: &[Reservation]) -> Result<f64, Why> {
    let (mut count, mut cpus, mut memory) =
        (u64::from(drone.load.backends), drone.load.cpus_reserved, drone.load.memory_reserved_bytes);
    for reservation in reservations.iter().filter(|reservation| reservation.drone == drone.id) {
        count += 1;
        cpus += reservation.cpus;
        memory = memory.saturating_add(reservation.memory_bytes);
    }
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
    // What was summed up in floating point may miss by a hair.
    if cpus > capacity.cpus + 1e-6 {
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

fn has_image(drone: &Drone, image: &str) -> bool {
    let wanted = plain(image);
    drone.load.images.iter().any(|present| plain(present) == wanted)
}

/// One spelling for the names that Docker treats alike: `alpine`, `alpine:latest`, `docker.io/library/alpine`.
fn plain(image: &str) -> String {
    let short = image.strip_prefix("docker.io/").unwrap_or(image);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains([':', '@']) { short.to_owned() } else { format!("{short}:latest") }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::controller_api::Load;
    use proptest::prelude::*;
    use rand::SeedableRng;

    use super::*;
    use crate::db::drones::LeaseState;
    use crate::testing::{CLUSTER, registration};

    fn drone(name: &str, change: impl FnOnce(&mut Drone)) -> Arc<Drone> {
        let register = registration(name, "127.0.0.1:1");
        let mut drone = Drone {
            id: register.drone,
            name: register.name,
            cluster: CLUSTER.parse().unwrap(),
            pool: register.pool,
            version: register.version,
            term: jetway_protocol::ids::Term(1),
            advertise: register.advertise,
            capacity: register.capacity,
            load: Load { engine_ok: true, ..Load::default() },
            draining: false,
            heartbeat_age: Duration::ZERO,
            registered_age: Duration::from_secs(3600),
            lease: LeaseState::None,
        };
        change(&mut drone);
        Arc::new(drone)
    }

    fn pick(
        drones: &[Arc<Drone>],
        spec: &Executable,
        taken: &[Reservation],
        seed: u64,
    ) -> Result<String, Nothing> {
        let (cluster, pool) = (CLUSTER.parse().unwrap(), String::new().parse().unwrap());
        let need = Need { cluster: &cluster, pool: &pool, executable: spec, exclude: &[] };
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        choose(drones, Duration::ZERO, &need, taken, &mut random).map(|drone| drone.name.to_string())
    }

    #[test]
    fn each_reason_to_pass_a_drone_over() {
        type Change = fn(&mut Drone);
        let app = Executable::of_image("app");
        let table: [(Change, &str); 10] = [
            (|d| d.lease = LeaseState::Over, "has lost its lease, and has not registered anew"),
            (|d| d.cluster = "other:1".parse().unwrap(), "is in the cluster other:1"),
            (|d| d.pool = "big".to_owned().try_into().unwrap(), "is in the pool \"big\""),
            (|d| d.draining = true, "is draining"),
            (|d| d.heartbeat_age = Duration::from_secs(11), "was last heard of 11 s ago"),
            (
                |d| d.load.engine_ok = false,
                "does not serve: it is just starting, or its container engine does not answer",
            ),
            (|d| d.load.backends = 1000, "is full: 1000 of 1000 backends"),
            (|d| d.capacity.memory_bytes = 1, "has 1 of 1 bytes of memory free, and 134217728 are needed"),
            (
                |d| d.load.memory_reserved_bytes = i64::MAX,
                "has 0 of 17179869184 bytes of memory free, and 134217728 are needed",
            ),
            (|d| d.capacity.backends_max = 0, "is full: 0 of 0 backends"),
        ];
        for (change, reason) in table {
            let Err(Nothing::Fits(passed)) = pick(&[drone("d", change)], &app, &[], 0) else {
                panic!("{reason}")
            };
            assert_eq!(passed, [PassedOver { drone: "d".into(), reason: reason.into() }]);
        }
        assert_eq!(pick(&[drone("d", |_| {})], &app, &[], 0), Ok("d".into()));
    }

    #[test]
    fn only_a_drone_that_has_just_registered_is_about_to_fit() {
        let (cluster, pool) = (CLUSTER.parse().unwrap(), String::new().parse().unwrap());
        let app = Executable::of_image("app");
        let need = Need { cluster: &cluster, pool: &pool, executable: &app, exclude: &[] };
        let about = |seconds: u64, change: fn(&mut Drone)| {
            let drone = drone("d", |d| {
                (d.registered_age, d.load.engine_ok) = (Duration::from_secs(seconds), false);
                change(d);
            });
            is_about_to_fit(&[drone], Duration::from_secs(1), &need)
        };
        assert!(about(1, |_| {}));
        assert!(!about(30, |_| {}), "its engine is in trouble");
        assert!(!about(1, |d| d.draining = true));
        assert!(!about(1, |d| d.load.engine_ok = true), "it fits, or it does not");
    }

    #[test]
    fn reservations_count_and_the_image_and_emptiness_win() {
        let app = Executable { cpu_reserve: 3.0, ..Executable::of_image("docker.io/library/app") };
        let (one, two) = (drone("one", |_| {}), drone("two", |d| d.load.images = vec!["app:latest".into()]));
        let taken = [Reservation::of(one.id, 2.0, 0)];
        for seed in 0..20 {
            assert_eq!(
                pick(&[one.clone(), two.clone()], &app, &taken, seed),
                Ok("two".into()),
                "only two has room"
            );
        }
        let full = drone("full", |d| d.load.cpus_reserved = 3.0);
        let small = Executable::of_image("app");
        let picked = |drones: &[Arc<Drone>]| {
            (0..100).filter(|seed| pick(drones, &small, &[], *seed).unwrap() != "full").count()
        };
        assert!(picked(&[full.clone(), two.clone()]) > 60);
        assert!(picked(&[full, drone("empty", |_| {})]) > 60);
    }

    proptest! {
        #[test]
        fn what_is_chosen_always_fits(
            loads in proptest::collection::vec((0_u32..1100, 0.0_f64..5.0, 0_i64..20 << 30, any::<bool>()), 0..8),
            cpus in 0.0_f64..5.0, memory in 0_i64..20 << 30, seed in any::<u64>(),
        ) {
            let drones: Vec<_> = loads.iter().enumerate().map(|(n, (count, cpus, memory, draining))| {
                drone(&format!("d{n}"), |d| {
                    (d.load.backends, d.load.cpus_reserved) = (*count, *cpus);
                    (d.load.memory_reserved_bytes, d.draining) = (*memory, *draining);
                })
            }).collect();
            let spec = Executable { cpu_reserve: cpus, memory_reserve_bytes: memory, ..Executable::of_image("app") };
            match pick(&drones, &spec, &[], seed) {
                Ok(name) => {
                    let chosen = drones.iter().find(|drone| drone.name.as_str() == name).unwrap();
                    prop_assert!(!chosen.draining && chosen.load.backends < 1000);
                    prop_assert!(chosen.load.cpus_reserved + cpus <= 4.001);
                    prop_assert!(chosen.load.memory_reserved_bytes + memory <= 16 << 30);
                }
                Err(Nothing::Fits(passed)) => prop_assert_eq!(passed.len(), drones.len()),
                Err(Nothing::Offered(_)) => prop_assert!(false, "nothing special was asked for"),
            }
        }
    }
}
