//! What `GET /metrics` tells of warm slots: by kind over all drones, and by drone over all kinds, so that the number of lines is
//! bounded. Counters are sums of drones' own, which begin anew with each agent.

use std::collections::BTreeMap;

use jetway_protocol::warm::{Kind, SlotTier};

use crate::app::App;
use crate::fleet::Table;
use crate::warm::stats::{LookedAt, Stats};

/// Kinds and drones that have lines of their own: those with the most starts. All others are one: `other`.
const KINDS_MAX: usize = 50;
const DRONES_MAX: usize = 200;

pub fn lines(app: &App, table: &Table, line: &mut impl FnMut(String)) {
    let looked = app.warm.looked.load();
    let mut kinds: BTreeMap<&Kind, Stats> = BTreeMap::new();
    let mut drones: BTreeMap<String, Stats> = BTreeMap::new();
    for drone in &table.drones {
        for load in &drone.load.warm.kinds {
            kinds.entry(&load.kind).or_default().add(load);
            drones.entry(drone.name.to_string()).or_default().add(load);
        }
    }
    let label = |kind: &Kind| kind_label(kind, &looked.kinds);
    let kinds: Vec<(String, Stats)> = kinds.into_iter().map(|(kind, stats)| (label(kind), stats)).collect();
    let drones = drones.into_iter().map(|(name, stats)| (format!("drone=\"{name}\""), stats)).collect();
    let other_kind = "tier=\"other\",kind=\"other\",pool=\"\"";
    of("jetway_warm", "by kind", &bounded(kinds, KINDS_MAX, other_kind), line);
    of("jetway_warm_drone", "by drone", &bounded(drones, DRONES_MAX, "drone=\"other\""), line);
    line("# HELP jetway_warm_demand_per_second Arrivals that slots are prepared for, by kind.".into());
    line("# TYPE jetway_warm_demand_per_second gauge".into());
    for seen in looked.kinds.iter().take(KINDS_MAX) {
        let (labels, rate) = (kind_label(&seen.kind, &looked.kinds), seen.rate);
        line(format!(
            "jetway_warm_demand_per_second{{{labels},cluster=\"{}\",drones=\"{}\"}} {rate}",
            seen.cluster, seen.pool
        ));
    }
    line("# HELP jetway_warm_wanted Slots that are wanted, by kind.".into());
    line("# TYPE jetway_warm_wanted gauge".into());
    for seen in looked.kinds.iter().take(KINDS_MAX) {
        let (labels, slots) = (kind_label(&seen.kind, &looked.kinds), seen.slots);
        line(format!(
            "jetway_warm_wanted{{{labels},cluster=\"{}\",drones=\"{}\"}} {slots}",
            seen.cluster, seen.pool
        ));
    }
}

/// Names of pools hold nothing that a label would have to escape.
fn kind_label(kind: &Kind, seen: &[LookedAt]) -> String {
    let tier = match kind.tier {
        SlotTier::Hot => "hot",
        SlotTier::Parked => "parked",
    };
    let declared = seen.iter().find(|seen| seen.kind == *kind).map(|seen| seen.declared.join(","));
    format!("tier=\"{tier}\",kind=\"{}\",pool=\"{}\"", kind.hash, declared.unwrap_or_default())
}

/// The many are put together, the ones with the fewest starts first.
fn bounded(mut all: Vec<(String, Stats)>, max: usize, other: &str) -> Vec<(String, Stats)> {
    all.sort_by(|a, b| b.1.asked.cmp(&a.1.asked).then_with(|| a.0.cmp(&b.0)));
    if all.len() > max {
        let rest = all.split_off(max).into_iter().fold(Stats::default(), |mut sum, (_, stats)| {
            sum.merge(&stats);
            sum
        });
        all.push((other.to_owned(), rest));
    }
    all
}

fn of(prefix: &str, by: &str, all: &[(String, Stats)], line: &mut impl FnMut(String)) {
    type Value = fn(&Stats) -> f64;
    #[expect(clippy::cast_precision_loss, reason = "counts, for people and their graphs")]
    let values: [(&str, &str, &str, Value); 7] = [
        ("target", "gauge", "Slots that drones were told to keep ready", |stats| stats.target as f64),
        ("ready", "gauge", "Slots that are ready", |stats| stats.ready as f64),
        ("making", "gauge", "Slots in the making", |stats| stats.making as f64),
        ("claimed_total", "counter", "Starts that a slot has served", |stats| stats.claimed as f64),
        ("missed_total", "counter", "Starts that a slot could have served", |stats| stats.missed() as f64),
        ("unused_slot_seconds_total", "counter", "Seconds in which slots were ready and unused", |stats| {
            stats.unused_ms as f64 / 1000.0
        }),
        (
            "replenish_seconds",
            "gauge",
            "From a claim until its slot is replaced, lately, at the slowest drone",
            |stats| f64::from(stats.replenish_ms) / 1000.0,
        ),
    ];
    for (name, kind, help, value) in values {
        line(format!("# HELP {prefix}_{name} {help}, {by}."));
        line(format!("# TYPE {prefix}_{name} {kind}"));
        for (labels, stats) in all {
            line(format!("{prefix}_{name}{{{labels}}} {}", value(stats)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_there_are_the_lines_are_bounded() {
        let one = |n: u64| (format!("drone=\"d{n}\""), Stats { asked: n, claimed: n, ..Stats::default() });
        let all = bounded((0..1000).map(one).collect(), 10, "drone=\"other\"");
        assert_eq!(all.len(), 11);
        assert_eq!((all[0].1.asked, all[10].1.asked), (999, (0..990).sum()));
        let mut text = Vec::new();
        of("jetway_warm_drone", "by drone", &all, &mut |line| text.push(line));
        assert!(text.contains(&"jetway_warm_drone_claimed_total{drone=\"d999\"} 999".to_owned()), "{text:?}");
    }
}
