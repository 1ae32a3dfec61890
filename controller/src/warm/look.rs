//! One look: how many slots of each kind are to be ready, from what is declared, what was asked for
//! and what drones have. Pure; reading and telling are `tasks/warm`'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::warm::{Kind, SlotTier};

use super::SLOTS_MAX;
use super::demand::{Demand, DemandRow, Report};
use super::plan::{Wish, can_keep};
use super::pool::Pool;
use super::stats::{Looked, LookedAt};
use crate::db::drones::Drone;
use crate::db::warm_demand::Place;
use crate::fleet::unheard;

/// Of kinds that nobody has declared.
const LEARNED_TARGET: f64 = 0.99;

/// All that one look knows.
pub struct Sizing<'a> {
    pub now: i64,
    pub learn: bool,
    pub pools: &'a [Arc<Pool>],
    pub drones: &'a [Arc<Drone>],
}

/// What a look came to.
pub struct Sized {
    pub wishes: Vec<Wish>,
    pub changed: Vec<Place>,
    pub cold: Vec<Place>,
    pub seen: Looked,
}

impl Sizing<'_> {
    pub fn size(&self, rows: &mut Vec<DemandRow>) -> Sized {
        let declared = self.declared();
        let mut changed = Vec::new();
        for (place, pools) in &declared {
            if !rows.iter().any(|row| row.place == *place) {
                let start_timeout_seconds = pools.first().map_or(0, |pool| start_timeout(pool));
                let demand = Demand::declared(self.now);
                let place = place.clone();
                changed.push(place.clone());
                rows.push(DemandRow {
                    place,
                    executable: None,
                    needs_image: false,
                    start_timeout_seconds,
                    demand,
                });
            }
        }
        let hot = hot_kinds(rows, &declared);
        let (mut wishes, mut cold, mut seen) = (Vec::new(), Vec::new(), Looked::default());
        for row in rows {
            let pools = declared.get(&row.place).map(Vec::as_slice).unwrap_or_default();
            let is_news = row.demand.observe(self.now, &self.reports(&row.place, &hot));
            row.demand.make_ms = self.make_ms(&row.place).unwrap_or(row.demand.make_ms);
            let resized = self.resize(row, pools);
            let is_learned = pools.is_empty() && row.executable.is_some();
            if pools.is_empty() && (!self.learn || !is_learned || row.demand.is_cold(self.now)) {
                cold.push(row.place.clone());
                continue;
            }
            if (is_news || resized) && !changed.contains(&row.place) {
                changed.push(row.place.clone());
            }
            wishes.extend(wish(row, pools));
            seen.kinds.push(LookedAt {
                cluster: row.place.cluster.clone(),
                pool: row.place.pool.clone(),
                kind: row.place.kind.clone(),
                declared: pools.iter().map(|pool| pool.name.to_string()).collect(),
                slots: row.demand.slots,
                rate: row.demand.rate(),
            });
        }
        Sized { wishes, changed, cold, seen }
    }

    /// Pools by what they are about. One that cannot be opened, or made ahead, is about nothing.
    fn declared(&self) -> BTreeMap<Place, Vec<&Pool>> {
        let mut declared: BTreeMap<Place, Vec<&Pool>> = BTreeMap::new();
        for pool in self.pools {
            if let (Ok(template), Some(kind)) = (&pool.template, pool.kind()) {
                let place = Place { cluster: template.cluster.clone(), pool: template.pool.clone(), kind };
                declared.entry(place).or_default().push(pool);
            }
        }
        declared
    }

    /// Of several pools of one kind, each has its least; the strictest target counts.
    fn resize(&self, row: &mut DemandRow, pools: &[&Pool]) -> bool {
        let sum = |of: fn(&Pool) -> u32| pools.iter().map(|pool| of(pool)).fold(0, u32::saturating_add);
        let (range, target) = if pools.is_empty() {
            let max = if self.learn { SLOTS_MAX } else { 0 };
            ((0, max), LEARNED_TARGET)
        } else {
            let target = pools.iter().map(|pool| pool.sizes.target_hit_rate).fold(0.0, f64::max);
            ((sum(|pool| pool.sizes.min), sum(|pool| pool.sizes.max)), target)
        };
        let able =
            self.drones.iter().filter(|drone| is_of(drone, &row.place) && can_keep(drone, Duration::ZERO));
        row.demand.size(self.now, target, range, able.count())
    }

    /// What every agent of the place says of the kind. A start that a hot kind could serve is not
    /// the parked kind's as well.
    fn reports(&self, place: &Place, hot: &HashMap<Place, Vec<Kind>>) -> Vec<Report> {
        let better = hot.get(place).map(Vec::as_slice).unwrap_or_default();
        // A draining drone still counts what it is asked for; a silent one says nothing new.
        let heard = self.drones.iter().filter(|d| is_of(d, place) && unheard(d, Duration::ZERO).is_none());
        heard
            .filter_map(|drone| {
                let asked = |kind: &Kind| drone.kind(kind).map_or(0, |load| load.asked);
                let hot: u64 = better.iter().map(asked).sum();
                let at = self.now - i64::try_from(drone.heartbeat_age.as_millis()).unwrap_or(i64::MAX);
                Some(Report {
                    agent: drone.load.warm.agent?,
                    asked: asked(&place.kind).saturating_sub(hot),
                    at,
                })
            })
            .collect()
    }

    /// From a claim until the slot is replaced, on average over the drones that have made one.
    fn make_ms(&self, place: &Place) -> Option<u32> {
        let of = |drone: &Arc<Drone>| {
            let load = drone.kind(&place.kind)?;
            Some(load.replenish_ms.max(load.make_ms)).filter(|ms| *ms > 0).map(u64::from)
        };
        let known: Vec<u64> = self.drones.iter().filter(|drone| is_of(drone, place)).filter_map(of).collect();
        let sum: u64 = known.iter().sum();
        u32::try_from(sum.checked_div(known.len() as u64)?).ok()
    }
}

fn is_of(drone: &Drone, place: &Place) -> bool {
    drone.cluster == place.cluster && drone.pool == place.pool
}

fn start_timeout(pool: &Pool) -> u32 {
    pool.template.as_ref().map_or(0, |template| template.spec.start_timeout_seconds)
}

/// For each parked kind, the hot kinds that serve the same starts better.
fn hot_kinds(rows: &[DemandRow], declared: &BTreeMap<Place, Vec<&Pool>>) -> HashMap<Place, Vec<Kind>> {
    let mut hot: HashMap<Place, Vec<Kind>> = HashMap::new();
    for row in rows.iter().filter(|row| row.place.kind.tier == SlotTier::Hot) {
        let of_pool = declared.get(&row.place).and_then(|pools| pools.first()?.template.as_ref().ok());
        let executable = of_pool.map(|template| &template.spec.executable).or(row.executable.as_ref());
        if let Some(Ok(parked)) = executable.map(|executable| Kind::of(SlotTier::Parked, executable)) {
            let place = Place { kind: parked, ..row.place.clone() };
            hot.entry(place).or_default().push(row.place.kind.clone());
        }
    }
    hot
}

fn wish(row: &DemandRow, pools: &[&Pool]) -> Option<Wish> {
    let of_pool = pools.first().and_then(|pool| pool.template.as_ref().ok());
    let executable = of_pool.map(|template| &template.spec.executable).or(row.executable.as_ref())?;
    Some(Wish {
        cluster: row.place.cluster.clone(),
        pool: row.place.pool.clone(),
        kind: row.place.kind.clone(),
        executable: executable.clone(),
        start_timeout_seconds: of_pool
            .map_or(row.start_timeout_seconds, |template| template.spec.start_timeout_seconds),
        slots: row.demand.slots,
        declared: of_pool.is_some(),
        needs_image: of_pool.is_none() && row.needs_image,
    })
}
