//! Which drone keeps how many slots of each kind. Pure: the same wishes and drones always give the same targets, so two
//! controllers agree, and a wish that grows by one moves one slot.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::ids::{ClusterName, DroneId, PoolName};
use jetway_protocol::spec::{Executable, PullPolicy};
use jetway_protocol::warm::{KINDS_MAX, Kind, WarmTarget, WarmTargets};

use crate::db::drones::Drone;
use crate::fleet::{unable, unheard};

/// Slots of one kind, wherever they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub kind: Kind,
    pub executable: Executable,
    pub start_timeout_seconds: u32,
    pub slots: u32,
    pub declared: bool,
    /// It cannot be pulled: its login is not known.
    pub needs_image: bool,
}

/// Whether slots can be asked of a drone at all, now. `age` is how old the table is.
pub fn can_keep(drone: &Drone, age: Duration) -> bool {
    drone.load.warm.agent.is_some() && unable(drone, age).is_none()
}

/// What each drone that can be told anything is to keep; one that drains, nothing.
pub fn plan(wishes: &[Wish], drones: &[Arc<Drone>], age: Duration) -> BTreeMap<DroneId, WarmTargets> {
    let speaks = |drone: &&Arc<Drone>| drone.load.warm.agent.is_some() && unheard(drone, age).is_none();
    let mut plan: BTreeMap<DroneId, WarmTargets> =
        drones.iter().filter(speaks).map(|drone| (drone.id, WarmTargets::default())).collect();
    let mut wishes: Vec<&Wish> = wishes.iter().filter(|wish| wish.slots > 0).collect();
    // Where a drone has too many kinds, what was declared comes first, then what is many.
    wishes.sort_by(|a, b| {
        let rank = |wish: &Wish| (!wish.declared, std::cmp::Reverse(wish.slots));
        rank(a).cmp(&rank(b)).then_with(|| a.kind.cmp(&b.kind))
    });
    for wish in wishes {
        let open = |drone: &&Arc<Drone>| {
            plan.get(&drone.id).is_some_and(|told| told.targets.len() < KINDS_MAX)
                && can_keep(drone, age)
                && fits(wish, drone)
        };
        let mut able: Vec<&Arc<Drone>> = drones.iter().filter(open).collect();
        // What nobody has declared is no reason to pull an image.
        if (!wish.declared || wish.needs_image) && able.iter().any(|d| d.has_image(&wish.executable.image)) {
            able.retain(|drone| drone.has_image(&wish.executable.image));
        }
        for (drone, slots) in shares(wish, &able) {
            if let Some(told) = plan.get_mut(&drone) {
                told.targets.push(target(wish, slots));
            }
        }
    }
    plan
}

fn target(wish: &Wish, slots: u32) -> WarmTarget {
    WarmTarget {
        tier: wish.kind.tier,
        executable: wish.executable.clone(),
        slots,
        declared: wish.declared,
        start_timeout_seconds: wish.start_timeout_seconds,
    }
}

fn fits(wish: &Wish, drone: &Drone) -> bool {
    let needs_image = wish.needs_image || wish.executable.pull_policy == PullPolicy::Never;
    drone.cluster == wish.cluster
        && drone.pool == wish.pool
        && room(drone) > 0
        && (!needs_image || drone.has_image(&wish.executable.image))
}

/// A slot that is given away becomes a backend. What else a drone can afford is its own to say.
fn room(drone: &Drone) -> u32 {
    drone.capacity.backends_max.saturating_sub(drone.load.backends)
}

/// As even as their room allows. Who gets one more is decided by rendezvous hashing.
fn shares(wish: &Wish, able: &[&Arc<Drone>]) -> Vec<(DroneId, u32)> {
    let mut open: Vec<(u64, DroneId, u32)> =
        able.iter().map(|drone| (rank(&wish.kind, drone.id), drone.id, room(drone))).collect();
    open.sort_unstable();
    let (mut left, mut shares) = (wish.slots, Vec::new());
    while left > 0 && !open.is_empty() {
        let count = u32::try_from(open.len()).unwrap_or(u32::MAX);
        let (even, more) = (left / count, left % count);
        let (full, roomy): (Vec<_>, Vec<_>) = open.iter().partition(|(_, _, room)| *room <= even);
        if full.is_empty() {
            let share = |(n, (_, drone, _)): (u32, (u64, DroneId, u32))| (drone, even + u32::from(n < more));
            shares.extend((0..).zip(roomy).map(share).filter(|(_, slots)| *slots > 0));
            return shares;
        }
        left -= full.iter().map(|(_, _, room)| room).sum::<u32>();
        shares.extend(full.iter().map(|(_, drone, room)| (*drone, *room)));
        open = roomy;
    }
    shares
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998) over FNV-1a, whose bits are mixed at the end: the same in every version.
fn rank(kind: &Kind, drone: DroneId) -> u64 {
    let bytes = kind.hash.as_str().bytes().chain([kind.tier as u8]).chain(*drone.0.as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

#[cfg(test)]
mod tests {
    use jetway_protocol::warm::SlotTier;

    use super::*;
    use crate::testing::{CLUSTER, warm_drone_row};

    fn drone(name: &str, n: u128, change: impl FnOnce(&mut Drone)) -> Arc<Drone> {
        let mut drone = warm_drone_row(name, n);
        change(&mut drone);
        Arc::new(drone)
    }

    fn wish(image: &str, slots: u32) -> Wish {
        let executable = Executable::of_image(image);
        Wish {
            cluster: CLUSTER.parse().unwrap(),
            pool: String::new().parse().unwrap(),
            kind: Kind::of(SlotTier::Parked, &executable).unwrap(),
            executable,
            start_timeout_seconds: 60,
            slots,
            declared: true,
            needs_image: false,
        }
    }

    /// Slots a drone, in the drones' order; a dash for one that is not told anything.
    fn given(wish: &Wish, drones: &[Arc<Drone>]) -> String {
        let plan = plan(std::slice::from_ref(wish), drones, Duration::ZERO);
        let slots = |targets: &WarmTargets| targets.targets.iter().map(|t| t.slots).sum::<u32>().to_string();
        let words = drones.iter().map(|d| plan.get(&d.id).map_or("-".into(), slots));
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_drones_that_can_get_slots() {
        type Change = fn(&mut Drone);
        let table: [(Change, &str); 8] = [
            (|_| {}, "2 2"),
            (|d| d.draining = true, "4 0"),
            (|d| d.load.engine_ok = false, "4 -"),
            (|d| d.heartbeat_age = Duration::from_secs(11), "4 -"),
            (|d| d.load.warm.agent = None, "4 -"),
            (|d| d.pool = "big".parse().unwrap(), "4 0"),
            (|d| d.cluster = "other:1".parse().unwrap(), "4 0"),
            (|d| d.load.backends = d.capacity.backends_max - 1, "3 1"),
        ];
        for (change, expect) in table {
            assert_eq!(given(&wish("app", 4), &[drone("a", 1, |_| {}), drone("b", 2, change)]), expect);
        }
    }

    #[test]
    fn what_cannot_be_pulled_or_need_not_be_goes_where_the_image_is() {
        let drones = [drone("a", 1, |_| {}), drone("b", 2, |d| d.load.images.clear())];
        assert_eq!(given(&wish("app", 4), &drones), "2 2");
        assert_eq!(given(&Wish { needs_image: true, ..wish("app", 4) }, &drones), "4 0");
        assert_eq!(given(&Wish { declared: false, ..wish("app", 4) }, &drones), "4 0");
        assert_eq!(given(&Wish { declared: false, ..wish("other", 4) }, &drones), "2 2");
        assert_eq!(given(&Wish { needs_image: true, ..wish("other", 4) }, &drones), "0 0");
        let mut never = wish("other", 4);
        never.executable.pull_policy = PullPolicy::Never;
        assert_eq!(given(&never, &drones), "0 0");
    }

    #[test]
    fn small_changes_move_few_slots() {
        let drones: Vec<_> = (1..8).map(|n| drone(&format!("d{n}"), n, |_| {})).collect();
        let numbers = |slots, drones: &[Arc<Drone>]| -> Vec<i64> {
            given(&wish("app", slots), drones).split(' ').map(|n| n.parse().unwrap()).collect()
        };
        let moved = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<i64>();
        for slots in 0..100 {
            let (now, then) = (numbers(slots, &drones), numbers(slots + 1, &drones));
            assert_eq!(now.iter().sum::<i64>(), i64::from(slots));
            assert!(now.iter().max().unwrap() - now.iter().min().unwrap() <= 1, "{now:?}");
            assert_eq!(moved(&now, &then), 1);
            let mut other_way: Vec<_> = drones.clone();
            other_way.reverse();
            let mut again = numbers(slots, &other_way);
            again.reverse();
            assert_eq!(again, now, "the order in which they are read decides nothing");
        }
        let firsts: std::collections::BTreeSet<_> =
            (0..50).map(|n| given(&wish(&format!("app{n}"), 1), &drones)).collect();
        assert_eq!(firsts.len(), 7, "kinds with one slot are on different drones");
    }

    #[test]
    fn a_drone_is_told_of_no_more_kinds_than_it_can_report() {
        let drones = [drone("a", 1, |d| d.capacity.backends_max = 10_000)];
        let mut wishes: Vec<_> =
            (0..100).map(|n| Wish { declared: n >= 90, ..wish(&format!("app{n}"), 1 + n) }).collect();
        let told = plan(&wishes, &drones, Duration::ZERO);
        let targets = &told[&drones[0].id].targets;
        assert_eq!((targets.len(), targets.iter().filter(|t| t.declared).count()), (KINDS_MAX, 10));
        wishes.reverse();
        let again = plan(&wishes, &drones, Duration::ZERO);
        assert_eq!(again[&drones[0].id].fingerprint(), told[&drones[0].id].fingerprint());
    }
}
