//! What the decisions come to over time, with figures.

use std::collections::BTreeMap;
use std::sync::Arc;

use jetway_protocol::ids::WarmPoolName;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::warm::SlotTier;

use super::demand::COLD_AFTER_MS;
use super::pool::{Pool, Sizes, Template};
use super::simulation::{Count, Sim};
use crate::testing::CLUSTER;

#[tokio::test]
async fn a_learned_pool_serves_a_poisson_trace() {
    // One drone makes six slots in half a second: 20/s are more than that.
    for (rate, seconds, fleets) in [
        (0.05, 40_000, [1, 4]),
        (0.2, 10_000, [1, 4]),
        (0.5, 4000, [1, 4]),
        (1.0, 3000, [1, 4]),
        (5.0, 1000, [1, 4]),
        (20.0, 400, [4, 10]),
    ] {
        for drones in fleets {
            let mut sim = Sim::new(drones, 7);
            sim.run(120, rate, 1);
            let writes = sim.writes;
            let count = sim.run(seconds, rate, 1);
            println!(
                "figure: {rate}/s on {drones} drones, target 99 %: hit rate {:.2} % of {}, {:.1} unused slot-seconds a claim, {} slots at the end, {} writes in {seconds} s",
                count.hit_rate() * 100.0,
                count.arrivals,
                count.waste_per_claim(),
                sim.slots(),
                sim.writes - writes,
            );
            assert!(count.hit_rate() >= 0.98, "{rate}/s on {drones}: {count:?}");
            // No more than twice what Erlang's formula asks for with a rate that is known, and three.
            let known = super::model::slots_for(rate, 1.0, 1.0, 0.99);
            assert!(sim.slots() <= 2 * known + 3, "{rate}/s on {drones}: {} slots, {known}", sim.slots());
        }
    }
}

#[tokio::test]
async fn a_step_from_one_to_ten_a_second_is_followed_within_seconds() {
    for drones in [1, 4] {
        let (mut first, mut after, mut before) = (Count::default(), Count::default(), Count::default());
        let (seeds, mut slots) = (40, Vec::new());
        for seed in 0..seeds {
            let mut sim = Sim::new(drones, seed);
            sim.run(300, 1.0, 1);
            let sum = |all: &mut Count, one: Count| {
                *all = Count {
                    arrivals: all.arrivals + one.arrivals,
                    hits: all.hits + one.hits,
                    unused_ms: all.unused_ms + one.unused_ms,
                };
            };
            sum(&mut before, sim.run(60, 1.0, 1));
            sum(&mut first, sim.run(8, 10.0, 1));
            sum(&mut after, sim.run(60, 10.0, 1));
            slots.push(sim.slots());
        }
        slots.sort_unstable();
        println!(
            "figure: a step from 1/s to 10/s on {drones} drones, mean of {seeds}: {:.1} misses of {:.0} in the first 8 s, then hit rate {:.2} %; unused slot-seconds a claim {:.2} before, {:.2} after; {} slots a minute later (median)",
            misses(first, seeds),
            mean(first.arrivals, seeds),
            after.hit_rate() * 100.0,
            before.waste_per_claim(),
            after.waste_per_claim(),
            slots[slots.len() / 2],
        );
        assert!(misses(first, seeds) <= 20.0, "{first:?}");
        assert!(after.hit_rate() >= 0.98, "{after:?}");
        assert!(after.waste_per_claim() <= 4.0, "{after:?}");
    }
}

fn misses(count: Count, of: u64) -> f64 {
    mean(count.misses(), of)
}

#[expect(clippy::cast_precision_loss, reason = "a simulation's counts")]
fn mean(sum: u64, of: u64) -> f64 {
    sum as f64 / of as f64
}

#[tokio::test]
async fn bunches_of_ten_are_prepared_for() {
    let mut sim = Sim::new(4, 3);
    sim.run(600, 1.0, 10);
    let count = sim.run(3000, 1.0, 10);
    println!(
        "figure: bunches of 10, one in 10 s, on 4 drones: hit rate {:.2} %, {:.1} unused slot-seconds a claim",
        count.hit_rate() * 100.0,
        count.waste_per_claim(),
    );
    assert!(count.hit_rate() >= 0.95, "{count:?}");
}

#[tokio::test]
async fn what_nobody_asks_for_any_more_goes_down_to_nothing() {
    let mut sim = Sim::new(4, 1);
    sim.run(300, 5.0, 1);
    let mut slots = vec![sim.slots()];
    for seconds in [60, 120, 120, 290] {
        sim.run(seconds, 0.0, 1);
        slots.push(sim.slots());
    }
    assert!(slots.is_sorted_by(|a, b| a >= b) && slots[0] >= 8 && slots[4] > 0, "{slots:?}");
    sim.run(20, 0.0, 1);
    println!(
        "figure: slots after 5/s ended, at 0, 60, 180, 300, 590 s: {slots:?}, at {} s: {}",
        610,
        sim.slots()
    );
    assert_eq!((sim.slots(), sim.rows.len()), (0, 0));
    assert_eq!(COLD_AFTER_MS, 600_000);
    let writes = sim.writes;
    sim.run(60, 0.0, 1);
    assert_eq!(sim.writes, writes, "idle is free");
}

#[tokio::test]
async fn a_declared_pool_keeps_its_least_and_grows_to_its_most() {
    let mut sim = Sim::new(4, 5);
    let template = Template {
        cluster: CLUSTER.parse().unwrap(),
        pool: String::new().parse().unwrap(),
        spec: BackendSpec::of(sim.app.clone()),
        on_isolation: None,
    };
    let sizes = Sizes { tier: SlotTier::Parked, min: 8, max: 12, target_hit_rate: 0.99 };
    let name: WarmPoolName = "declared".parse().unwrap();
    sim.pools.push(Arc::new(Pool { name, sizes, shown: template.shown(), template: Ok(template) }));
    sim.run(10, 0.0, 1);
    let each: BTreeMap<u32, usize> = sim.drones.iter().fold(BTreeMap::new(), |mut each, drone| {
        *each.entry(drone.target).or_default() += 1;
        each
    });
    assert_eq!((sim.slots(), each), (8, BTreeMap::from([(2, 4)])));
    let writes = sim.writes;
    sim.run(900, 0.0, 1);
    assert_eq!((sim.slots(), sim.writes), (8, writes), "an idle pool writes nothing");
    sim.run(120, 30.0, 1);
    assert_eq!(sim.slots(), 12);
    sim.pools.clear();
    sim.noted = false;
    sim.run(5, 0.0, 1);
    assert_eq!(sim.slots(), 0, "nobody has noted it for its own sake");
}
