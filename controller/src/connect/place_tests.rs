//! Tables of placements.

use jetway_protocol::warm::KindLoad;
use proptest::prelude::*;
use rand::SeedableRng;

use super::*;
use crate::db::drones::LeaseState;
use crate::testing::{CLUSTER, drone_row};

fn drone(name: &str, change: impl FnOnce(&mut Drone)) -> Arc<Drone> {
    let mut drone = drone_row(name);
    change(&mut drone);
    Arc::new(drone)
}

fn pick(
    drones: &[Arc<Drone>],
    spec: &Executable,
    reservations: &Reservations,
    seed: u64,
) -> Result<String, Nothing> {
    choose_among(drones, spec, reservations, seed).map(|(drone, _)| drone.name.to_string())
}

fn choose_among(
    drones: &[Arc<Drone>],
    spec: &Executable,
    reservations: &Reservations,
    seed: u64,
) -> Result<Chosen, Nothing> {
    let (cluster, pool) = (CLUSTER.parse().unwrap(), String::new().parse().unwrap());
    let kinds = kinds_of(spec);
    let need = Need { cluster: &cluster, pool: &pool, executable: spec, kinds: &kinds, exclude: &[] };
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let now = Instant::now();
    let table = Table::new(drones.to_vec(), now);
    choose(&Known { table: &table, reservations, now }, &need, &mut random)
}

fn none() -> Reservations {
    Reservations::default()
}

#[test]
fn each_reason_to_pass_a_drone_over() {
    type Change = fn(&mut Drone);
    let app = Executable::of_image("app");
    let table: [(Change, &str); 9] = [
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
        (
            |d| d.load.memory_reserved_bytes = i64::MAX,
            "has 0 of 17179869184 bytes of memory free, and 134217728 are needed",
        ),
        (|d| d.capacity.backends_max = 0, "is full: 0 of 0 backends"),
    ];
    for (change, reason) in table {
        let Err(Nothing::Fits(passed)) = pick(&[drone("d", change)], &app, &none(), 0) else {
            panic!("{reason}")
        };
        assert_eq!(passed, [PassedOver { drone: "d".into(), reason: reason.into() }]);
    }
    assert_eq!(pick(&[drone("d", |_| {})], &app, &none(), 0), Ok("d".into()));
}

#[test]
fn a_disk_limit_needs_storage_that_holds_it() {
    let mut app = Executable::of_image("app");
    let drones = [drone("ext4", |d| d.capacity.no_disk_limit = true), drone("xfs", |_| {})];
    let picked = |app: &Executable, drones: &[Arc<Drone>]| pick(drones, app, &none(), 0);
    assert_eq!(picked(&app, &drones[..1]), Ok("ext4".into()));
    app.resource_limits.disk_limit_bytes = Some(1 << 30);
    assert_eq!(picked(&app, &drones), Ok("xfs".into()));
    assert!(matches!(picked(&app, &drones[..1]), Err(Nothing::Offered(_))), "a final refusal");
}

#[test]
fn what_no_drone_could_ever_hold_is_not_worth_a_wait() {
    let memory = Executable { memory_reserve_bytes: 1 << 40, ..Executable::of_image("app") };
    let cpus = Executable { cpu_reserve: 4.5, ..Executable::of_image("app") };
    for (spec, reason) in [
        (
            &memory,
            "has 17179869184 bytes of memory for sessions in all, and 1099511627776 are to be reserved (memory_reserve_bytes)",
        ),
        (&cpus, "has 4 CPUs for sessions in all, and 4.5 are to be reserved (cpu_reserve)"),
    ] {
        // Also where it is busy at the moment, or away: that will pass, and its size will not.
        for change in [|_: &mut Drone| {}, |d: &mut Drone| d.draining = true] {
            let passed = vec![PassedOver { drone: "d".into(), reason: reason.into() }];
            assert_eq!(pick(&[drone("d", change)], spec, &none(), 0), Err(Nothing::Offered(passed)));
        }
        let large = drone("large", |d| {
            (d.capacity.memory_bytes, d.capacity.cpus, d.draining) = (1 << 41, 64.0, true);
        });
        assert!(matches!(pick(&[drone("d", |_| {}), large], spec, &none(), 0), Err(Nothing::Fits(_))));
    }
}

#[test]
fn only_a_drone_that_has_just_registered_is_about_to_fit() {
    let (cluster, pool) = (CLUSTER.parse().unwrap(), String::new().parse().unwrap());
    let app = Executable::of_image("app");
    let need = Need { cluster: &cluster, pool: &pool, executable: &app, kinds: &[], exclude: &[] };
    let about = |seconds: u64, change: fn(&mut Drone)| {
        let drone = drone("d", |d| {
            (d.registered_age, d.load.engine_ok) = (Duration::from_secs(seconds), false);
            change(d);
        });
        let read_at = Instant::now();
        is_about_to_fit(&Table::new(vec![drone], read_at), read_at + Duration::from_secs(1), &need)
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
    let mut taken = none();
    taken.add(one.id, 2.0, 0, None, Instant::now());
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
        (0..100).filter(|seed| pick(drones, &small, &none(), *seed).unwrap() != "full").count()
    };
    assert_eq!(picked(&[full.clone(), two.clone()]), 100, "where the image is, nothing is pulled");
    assert!(picked(&[full, drone("empty", |_| {})]) > 60);
}

#[test]
fn a_drone_has_an_image_by_each_of_its_names() {
    let one = drone("one", |d| d.load.images = vec!["app:latest".into(), "reg.example/b:1".into()]);
    let table = Table::new(vec![one.clone()], Instant::now());
    for name in
        ["app", "library/app:latest", "docker.io/app", "index.docker.io/library/app", "reg.example/b:1"]
    {
        assert!(one.has_image(name) && table.with_image(name) == [0], "{name}");
    }
    for name in ["app:1", "reg.example/b", "docker.io/reg.example/b:1", "not an image"] {
        assert!(!one.has_image(name) && table.with_image(name).is_empty(), "{name}");
    }
}

/// A drone that reports slots of what serves the executable.
fn with_slots(name: &str, tier: SlotTier, spec: &Executable, ready: u32, target: u32) -> Arc<Drone> {
    let kind = Kind::of(tier, spec).unwrap();
    drone(name, |d| {
        d.load.images = vec!["app".into()];
        d.load.warm.kinds = vec![KindLoad {
            kind,
            target,
            ready,
            making: 0,
            asked: 0,
            claimed: 0,
            make_ms: 0,
            unused_ms: 0,
            replenish_ms: 0,
            error: String::new(),
        }];
    })
}

#[test]
fn hot_then_parked_then_where_slots_are_made_then_the_image_then_any() {
    use jetway_protocol::spec::Hot;
    let hot = Hot { claim_path: Some("/claim".into()), claim_timeout_seconds: 5 };
    let app = Executable { hot: Some(hot), ..Executable::of_image("app") };
    // From the best to the worst; each wins over all that follow, however full it is.
    let order = [
        with_slots("hot", SlotTier::Hot, &app, 1, 1),
        with_slots("parked", SlotTier::Parked, &app, 1, 1),
        with_slots("drained", SlotTier::Parked, &app, 0, 4),
        drone("image", |d| d.load.images = vec!["app:latest".into()]),
        drone("any", |d| d.load.cpus_reserved = 0.0),
    ];
    for best in 0..order.len() {
        let mut drones = order[best..].to_vec();
        let mut fullest = Drone::clone(&drones[0]);
        fullest.load.cpus_reserved = 3.9;
        drones[0] = Arc::new(fullest);
        drones.reverse();
        for seed in 0..20 {
            assert_eq!(pick(&drones, &app, &none(), seed), Ok(order[best].name.to_string()));
        }
    }
    let other = Executable { env: [("A".to_owned(), "b".to_owned())].into(), port: 1, ..app.clone() };
    assert_eq!(
        pick(&order, &other, &none(), 1),
        Ok("parked".into()),
        "another port is no slot of the hot kind"
    );
    let mounted = Executable { mount: Some("m".into()), ..app };
    assert!(kinds_of(&mounted).is_empty());
}

#[test]
fn a_burst_takes_each_drone_s_slots_and_no_more_before_it_goes_elsewhere() {
    let app = Executable::of_image("app");
    let drones: Vec<_> = (0..4_u32)
        .map(|n| with_slots(&format!("d{n}"), SlotTier::Parked, &app, 10 * n, 10 * n))
        .chain([drone("cold", |d| d.load.images = vec!["app".into()])])
        .collect();
    let mut taken = none();
    let mut count = std::collections::BTreeMap::<String, u32>::new();
    for seed in 0..60 {
        let (drone, kind) = choose_among(&drones, &app, &taken, seed).unwrap();
        taken.add(drone.id, 0.0, 0, kind, Instant::now());
        *count.entry(drone.name.to_string()).or_default() += 1;
    }
    let expect = [("d1", 10), ("d2", 20), ("d3", 30)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(count, expect.into(), "all 60 slots, wherever they are");
    let (next, _) = choose_among(&drones, &app, &taken, 60).unwrap();
    assert_ne!(next.name.as_str(), "cold", "slots are being made elsewhere");
}

#[test]
fn a_slot_that_must_have_been_replaced_by_now_is_better_than_one_that_is_being_made() {
    let app = Executable::of_image("app");
    let made_in = |name: &str, ms: u32| {
        let mut drone = Drone::clone(&with_slots(name, SlotTier::Parked, &app, 1, 1));
        drone.load.warm.kinds[0].replenish_ms = ms;
        Arc::new(drone)
    };
    let (fast, slow) = (made_in("fast", 100), made_in("slow", 60_000));
    let (mut taken, kind) = (none(), Kind::of(SlotTier::Parked, &app).unwrap());
    let before = Instant::now();
    for drone in [&fast, &slow] {
        taken.add(drone.id, 0.0, 0, Some(kind.clone()), before);
    }
    let (cluster, pool) = (CLUSTER.parse().unwrap(), String::new().parse().unwrap());
    let need = Need { cluster: &cluster, pool: &pool, executable: &app, kinds: &[kind], exclude: &[] };
    let table = Table::new(vec![fast, slow], before);
    let known = Known { table: &table, reservations: &taken, now: before + Duration::from_secs(1) };
    for seed in 0..20 {
        let mut random = rand::rngs::StdRng::seed_from_u64(seed);
        assert_eq!(choose(&known, &need, &mut random).unwrap().0.name.as_str(), "fast");
    }
}

#[test]
fn of_a_thousand_drones_only_those_that_can_are_chosen() {
    let app = Executable::of_image("app");
    let drones: Vec<_> = (0..1000).map(|n| drone(&format!("d{n}"), |d| d.draining = n != 777)).collect();
    for seed in 0..20 {
        assert_eq!(pick(&drones, &app, &none(), seed), Ok("d777".into()));
    }
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
        match pick(&drones, &spec, &none(), seed) {
            Ok(name) => {
                let chosen = drones.iter().find(|drone| drone.name.as_str() == name).unwrap();
                prop_assert!(!chosen.draining && chosen.load.backends < 1000);
                prop_assert!(chosen.load.cpus_reserved + cpus <= 4.001);
                prop_assert!(chosen.load.memory_reserved_bytes + memory <= 16 << 30);
            }
            Err(Nothing::Fits(passed)) => prop_assert_eq!(passed.len(), drones.len()),
            Err(Nothing::Offered(_)) => prop_assert!(cpus > 4.0 || memory > 16 << 30, "nothing special was asked for"),
        }
    }
}
