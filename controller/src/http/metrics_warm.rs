//! What `GET /metrics` tells of warm slots: by kind over all drones, and by drone over all kinds, so that the number of lines is
//! bounded. Counters are sums of drones' own, which begin anew with each agent.

use std::collections::BTreeMap;

use jetway_protocol::warm::{Kind, SlotTier};

use super::metrics_page::{Labels, Page};
use crate::app::App;
use crate::fleet::Table;
use crate::warm::stats::{LookedAt, Stats};

/// Kinds and drones that have lines of their own: those with the most starts. All others are one: `other`.
const KINDS_MAX: usize = 50;
const DRONES_MAX: usize = 200;

pub fn add(app: &App, table: &Table, page: &mut Page) {
    let looked = app.warm.looked.load();
    let mut kinds: BTreeMap<&Kind, Stats> = BTreeMap::new();
    let mut drones: BTreeMap<String, Stats> = BTreeMap::new();
    for drone in &table.drones {
        for load in &drone.load.warm.kinds {
            kinds.entry(&load.kind).or_default().add(load);
            drones.entry(drone.name.to_string()).or_default().add(load);
        }
    }
    let label = |kind: &Kind| kind_labels(kind, &looked.kinds);
    let kinds = kinds.into_iter().map(|(kind, stats)| (label(kind), stats)).collect();
    let drones = drones.into_iter().map(|(name, stats)| (vec![("drone", name)], stats)).collect();
    let other = || "other".to_owned();
    let other_kind = vec![("tier", other()), ("kind", other()), ("pool", String::new())];
    of("warm", "by kind", &bounded(kinds, KINDS_MAX, other_kind), page);
    of("warm_drone", "by drone", &bounded(drones, DRONES_MAX, vec![("drone", other())]), page);
    let looked_at = || looked.kinds.iter().take(KINDS_MAX);
    let labels = |seen: &LookedAt| {
        let mut labels = label(&seen.kind);
        labels.extend([("cluster", seen.cluster.to_string()), ("drones", seen.pool.to_string())]);
        labels
    };
    let rates = looked_at().map(|seen| (labels(seen), seen.rate));
    page.gauge("warm_demand_per_second", "Arrivals that slots are prepared for, by kind.", rates);
    let wanted = looked_at().map(|seen| (labels(seen), u64::from(seen.slots)));
    page.gauge("warm_wanted", "Slots that are wanted, by kind.", wanted);
}

fn kind_labels(kind: &Kind, seen: &[LookedAt]) -> Labels {
    let tier = match kind.tier {
        SlotTier::Hot => "hot",
        SlotTier::Parked => "parked",
    };
    let declared = seen.iter().find(|seen| seen.kind == *kind).map(|seen| seen.declared.join(","));
    let (hash, pool) = (kind.hash.to_string(), declared.unwrap_or_default());
    vec![("tier", tier.to_owned()), ("kind", hash), ("pool", pool)]
}

/// The many are put together, the ones with the fewest starts first.
fn bounded(mut all: Vec<(Labels, Stats)>, max: usize, other: Labels) -> Vec<(Labels, Stats)> {
    all.sort_by(|a, b| b.1.asked.cmp(&a.1.asked).then_with(|| a.0.cmp(&b.0)));
    if all.len() > max {
        let rest = all.split_off(max).into_iter().fold(Stats::default(), |mut sum, (_, stats)| {
            sum.merge(&stats);
            sum
        });
        all.push((other, rest));
    }
    all
}

fn of(prefix: &str, by: &str, all: &[(Labels, Stats)], page: &mut Page) {
    let name = |name: &str| format!("{prefix}_{name}");
    let help = |help: &str| format!("{help}, {by}.");
    let each =
        |value: fn(&Stats) -> u64| all.iter().map(move |(labels, stats)| (labels.clone(), value(stats)));
    page.gauge(
        &name("target"),
        &help("Slots that drones were told to keep ready"),
        each(|stats| stats.target),
    );
    page.gauge(&name("ready"), &help("Slots that are ready"), each(|stats| stats.ready));
    page.gauge(&name("making"), &help("Slots in the making"), each(|stats| stats.making));
    page.counter(&name("claimed"), &help("Starts that a slot has served"), each(|stats| stats.claimed));
    page.counter(&name("missed"), &help("Starts that a slot could have served"), each(Stats::missed));
    #[expect(clippy::cast_precision_loss, reason = "milliseconds, for people and their graphs")]
    let unused = all.iter().map(|(labels, stats)| (labels.clone(), stats.unused_ms as f64 / 1000.0));
    page.counter(&name("unused_slot_seconds"), &help("Seconds in which slots were ready and unused"), unused);
    let lately = all.iter().map(|(labels, stats)| (labels.clone(), f64::from(stats.replenish_ms) / 1000.0));
    let said = help("From a claim until its slot is replaced, lately, at the slowest drone");
    page.gauge(&name("replenish_seconds"), &said, lately);
}

#[cfg(test)]
mod tests {
    use jetway_protocol::controller_api::Load;
    use jetway_protocol::spec::Executable;
    use jetway_protocol::warm::{KindLoad, WarmLoad};

    use super::*;
    use crate::testing::Harness;

    #[test]
    fn however_many_there_are_the_lines_are_bounded() {
        let drone = |name: String| vec![("drone", name)];
        let one = |n: u64| (drone(format!("d{n}")), Stats { asked: n, claimed: n, ..Stats::default() });
        let all = bounded((0..1000).map(one).collect(), 10, drone("other".to_owned()));
        assert_eq!(all.len(), 11);
        assert_eq!((all[0].1.asked, all[10].1.asked), (999, (0..990).sum()));
    }

    #[tokio::test]
    async fn fifty_kinds_and_two_hundred_drones_have_their_own_lines() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let kind = |n: u64| KindLoad {
            kind: Kind::of(SlotTier::Parked, &Executable::of_image(&format!("app{n}"))).unwrap(),
            target: 0,
            ready: 0,
            making: 0,
            asked: n,
            claimed: 0,
            make_ms: 0,
            unused_ms: 0,
            replenish_ms: 0,
            error: String::new(),
        };
        let warm = WarmLoad { kinds: (0..60).map(kind).collect(), ..WarmLoad::default() };
        harness.heartbeat(&drone, Load { engine_ok: true, warm, ..Load::default() }).await;
        let text = harness.get("/metrics").await.text();
        assert!(text.contains("\njetway_warm_drone_missed_total{drone=\"one\"} 1770\n"), "{text}");
        let lines = text.lines().filter(|line| line.starts_with("jetway_warm_missed_total{")).count();
        assert_eq!(lines, 50 + 1, "{text}");
        assert_eq!(DRONES_MAX, 200);
    }
}
