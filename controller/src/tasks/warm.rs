//! Looks once a second at what is declared, what was asked for and what drones have, decides how many slots of each kind are to be
//! ready and where, and tells the drones whose heartbeats show something else.
//!
//! One controller at a time looks: an advisory lock lasts as long as the transaction that reads and writes. What was asked for is
//! counted from drones' counters as they stood at the last look, which is in Postgres too, so it does not matter which
//! controller looks next. With nothing declared and nothing learned it is one read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jetway_protocol::ids::{DroneId, Term, WarmPoolName};
use jetway_protocol::warm::{Kind, SlotTier, WarmTargets};
use sqlx::{Acquire, PgConnection};
use tokio::time::Instant;

use crate::app::App;
use crate::connect::place::unheard;
use crate::db::drones::Drone;
use crate::db::warm_demand::{self, DemandRow, Place};
use crate::db::{DbError, drones, warm_pools};
use crate::warm::SLOTS_MAX;
use crate::warm::demand::{Demand, Report};
use crate::warm::plan::{Wish, can_keep, plan};
use crate::warm::pool::Pool;
use crate::warm::stats::{Looked, LookedAt};

/// A drone that was told is not told the same again before its heartbeat can show it.
const TOLD_FOR: Duration = Duration::from_secs(5);

/// What a drone was told, whether or not it has answered.
#[derive(Debug, Clone)]
pub struct Told {
    targets: WarmTargets,
    term: Term,
    at: Instant,
}

pub async fn run(app: App) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    let notes = app.warm.take_notes();
    if !notes.is_empty() {
        warm_demand::note(&mut connection, &notes).await?;
    }
    let Some(decided) = decide(&app, &mut connection).await? else { return Ok(()) };
    drop(connection);
    for (drone, targets) in decided {
        tell(&app, drone, targets);
    }
    Ok(())
}

/// What each drone is to keep that does not show it. `None`: another controller looks just now.
async fn decide(
    app: &App,
    connection: &mut PgConnection,
) -> Result<Option<Vec<(Arc<Drone>, WarmTargets)>>, DbError> {
    let mut transaction = connection.begin().await?;
    let begun = warm_demand::begin(&mut transaction).await?;
    if !begun.is_mine {
        return Ok(None);
    }
    if !begun.is_any {
        drop(transaction);
        app.warm.looked.store(Arc::default());
        let table = app.fleet.table();
        return Ok(Some(untold(app, &table.drones, plan(&[], &table.drones, table.read_at.elapsed()))));
    }
    let pools = read_pools(app, &mut transaction).await?;
    let mut rows = warm_demand::all(&mut transaction).await?;
    let drones: Vec<Arc<Drone>> = drones::all(&mut transaction).await?.into_iter().map(Arc::new).collect();
    let look = Look { now: begun.now, learn: app.warm.learn, pools: &pools, drones: &drones };
    let Sized { wishes, changed, cold, seen } = look.size(&mut rows);
    if !changed.is_empty() {
        let changed: Vec<&DemandRow> = rows.iter().filter(|row| changed.contains(&row.place)).collect();
        warm_demand::write(&mut transaction, &changed).await?;
    }
    if !cold.is_empty() {
        warm_demand::forget(&mut transaction, &cold).await?;
    }
    transaction.commit().await?;
    app.warm.looked.store(Arc::new(seen));
    Ok(Some(untold(app, &drones, plan(&wishes, &drones, Duration::ZERO))))
}

/// Opens only those whose row has changed.
async fn read_pools(app: &App, connection: &mut PgConnection) -> Result<Vec<Arc<Pool>>, DbError> {
    let versions = warm_pools::versions(connection).await?;
    let mut known = app.warm.pools.lock().await;
    known.retain(|name, (version, _)| versions.iter().any(|(n, v)| n == name && v == version));
    let is_new = |(name, _): &&(WarmPoolName, i64)| !known.contains_key(name);
    let new: Vec<String> = versions.iter().filter(is_new).map(|(name, _)| name.to_string()).collect();
    if !new.is_empty() {
        for (version, pool) in warm_pools::read(connection, &app.at_rest, &new).await? {
            if pool.template.is_err() {
                tracing::error!(pool = %pool.name, "a warm pool cannot be opened: it was put under another secret; put it again");
            }
            known.insert(pool.name.clone(), (version, Arc::new(pool)));
        }
    }
    let mut pools: Vec<Arc<Pool>> = known.values().map(|(_, pool)| pool.clone()).collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(pools)
}

/// All that one look knows. Pure from here on.
pub struct Look<'a> {
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

impl Look<'_> {
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

    /// What every agent of the place says of the kind. A start that a hot kind could serve is not the parked kind's as well.
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

/// Of kinds that nobody has declared.
const LEARNED_TARGET: f64 = 0.99;

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

/// Those of the plan whose drones show something else, and were not told just now.
fn untold(
    app: &App,
    drones: &[Arc<Drone>],
    mut plan: BTreeMap<DroneId, WarmTargets>,
) -> Vec<(Arc<Drone>, WarmTargets)> {
    let mut told = app.warm.told.lock().unwrap_or_else(PoisonError::into_inner);
    told.retain(|drone, _| plan.contains_key(drone));
    let (now, mut untold) = (Instant::now(), Vec::new());
    for drone in drones {
        let Some(targets) = plan.remove(&drone.id) else { continue };
        let last = told.get(&drone.id).filter(|last| last.term == drone.term);
        if is_to_be_told(drone, &targets, last, now) {
            let last = Told { targets: targets.clone(), term: drone.term, at: now };
            told.insert(drone.id, last);
            untold.push((drone.clone(), targets));
        }
    }
    untold
}

fn is_to_be_told(drone: &Drone, targets: &WarmTargets, last: Option<&Told>, now: Instant) -> bool {
    let (shows, should) = (&drone.load.warm.targets, targets.fingerprint());
    let is_shown = *shows == should || (shows.is_empty() && targets.targets.is_empty());
    match last {
        Some(last) if last.targets == *targets => !is_shown && last.at + TOLD_FOR <= now,
        // What it shows is from before it was told the other; and a changed password is never shown.
        Some(last) if last.at + TOLD_FOR > now || last.targets.fingerprint() == should => true,
        Some(_) | None => !is_shown,
    }
}

/// On a task of its own: one slow drone keeps no other from being told. What fails is repeated when it is looked at again.
fn tell(app: &App, drone: Arc<Drone>, targets: WarmTargets) {
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let app = app_;
        let Ok(_one_of_few) = app.warm.telling.acquire().await else { return };
        if let Err(error) = app.drones.warm(&drone.reach(), &targets).await {
            tracing::warn!(drone = %drone.name, %error, "a drone could not be told which slots to keep ready");
            app.warm.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&drone.id);
        }
    });
}
