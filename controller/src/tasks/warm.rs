//! Looks once a second at what is declared, what was asked for and what drones have, decides how many slots of each kind are to be
//! ready and where, and tells the drones whose heartbeats show something else.
//!
//! One controller at a time looks: an advisory lock lasts as long as the transaction that reads and writes. What was asked for is
//! counted from drones' counters as they stood at the last look, which is in Postgres too, so it does not matter which
//! controller looks next. With nothing declared and nothing learned it is one read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::at_rest::AtRest;
use jetway_protocol::ids::{DroneId, WarmPoolName};
use jetway_protocol::warm::WarmTargets;
use jetway_service::lifecycle::Lifecycle;
use tokio::time::Instant;

use crate::db::drones::Drone;
use crate::db::pool::Pool as Connections;
use crate::db::{Connection, DbError, drones, warm_demand, warm_pools};
use crate::driver::{Summary, Task, WokenBy};
use crate::drone::DroneCalls;
use crate::fleet::Fleet;
use crate::warm::demand::{Demand, DemandRow};
use crate::warm::look::{Sized, Sizing};
use crate::warm::plan::plan;
use crate::warm::pool::{self, Pool};
use crate::warm::{Told, Warm};

const PERIOD: Duration = Duration::from_secs(1);
/// A drone that was told is not told the same again before its heartbeat can show it.
const TOLD_FOR: Duration = Duration::from_secs(5);

pub struct Look {
    pub db: Arc<Connections>,
    pub at_rest: Arc<AtRest>,
    pub fleet: Arc<Fleet>,
    pub drones: Arc<DroneCalls>,
    pub warm: Arc<Warm>,
    pub lifecycle: Lifecycle,
}

impl Look {
    pub async fn once(&self) -> Result<Summary, DbError> {
        let mut connection = self.db.acquire().await?;
        let notes = self.warm.take_notes();
        if !notes.is_empty() {
            warm_demand::note(&mut connection, &notes, Demand::noted).await?;
        }
        let Some(decided) = self.decide(&mut connection).await? else {
            return Ok("another controller looks".to_owned());
        };
        drop(connection);
        let count = decided.len();
        for (drone, targets) in decided {
            self.tell(drone, targets);
        }
        Ok(format!("told {count} drones"))
    }

    /// What each drone is to keep that does not show it. `None`: another controller looks just now.
    async fn decide(
        &self,
        connection: &mut Connection,
    ) -> Result<Option<Vec<(Arc<Drone>, WarmTargets)>>, DbError> {
        let found_nothing = self.warm.looked.load().kinds.is_empty();
        if found_nothing && !warm_demand::is_any(connection).await? {
            self.warm.looked.store(Arc::default());
            let table = self.fleet.table();
            return Ok(Some(self.untold(&table.drones, plan(&[], &table.drones, table.read_at.elapsed()))));
        }
        let mut transaction = connection.begin().await?;
        let begun = warm_demand::begin(&mut transaction).await?;
        if !begun.is_mine {
            transaction.rollback().await?;
            return Ok(None);
        }
        let pools = self.read_pools(&mut transaction).await?;
        let mut rows = warm_demand::all(&mut transaction).await?;
        let drones: Vec<Arc<Drone>> =
            drones::all(&mut transaction).await?.into_iter().map(Arc::new).collect();
        let sizing = Sizing { now: begun.now, learn: self.warm.learn, pools: &pools, drones: &drones };
        let Sized { wishes, changed, cold, seen } = sizing.size(&mut rows);
        if !changed.is_empty() {
            let changed: Vec<&DemandRow> = rows.iter().filter(|row| changed.contains(&row.place)).collect();
            warm_demand::write(&mut transaction, &changed).await?;
        }
        if !cold.is_empty() {
            warm_demand::forget(&mut transaction, &cold).await?;
        }
        transaction.commit().await?;
        self.warm.looked.store(Arc::new(seen));
        Ok(Some(self.untold(&drones, plan(&wishes, &drones, Duration::ZERO))))
    }

    /// Opens only those whose row has changed.
    async fn read_pools(&self, connection: &mut Connection) -> Result<Vec<Arc<Pool>>, DbError> {
        let versions = warm_pools::versions(connection).await?;
        let mut known = self.warm.pools.lock().await;
        known.retain(|name, (version, _)| versions.iter().any(|(n, v)| n == name && v == version));
        let is_new = |(name, _): &&(WarmPoolName, i64)| !known.contains_key(name);
        let new: Vec<String> = versions.iter().filter(is_new).map(|(name, _)| name.to_string()).collect();
        if !new.is_empty() {
            for (version, pool) in pool::read(connection, &self.at_rest, &new).await? {
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

    /// Those of the plan whose drones show something else, and were not told just now.
    fn untold(
        &self,
        drones: &[Arc<Drone>],
        mut plan: BTreeMap<DroneId, WarmTargets>,
    ) -> Vec<(Arc<Drone>, WarmTargets)> {
        let mut told = self.warm.told.lock();
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

    /// On a task of its own: one slow drone keeps no other from being told. What fails is repeated
    /// when it is looked at again.
    fn tell(&self, drone: Arc<Drone>, targets: WarmTargets) {
        let (warm, drones) = (self.warm.clone(), self.drones.clone());
        self.lifecycle.spawn(async move {
            let Ok(_one_of_few) = warm.telling.acquire().await else { return };
            if let Err(error) = drones.warm(&drone.reach(), &targets).await {
                tracing::warn!(drone = %drone.name, %error, "a drone could not be told which slots to keep ready");
                warm.told.lock().remove(&drone.id);
            }
        });
    }
}

impl Task for Look {
    fn name(&self) -> &'static str {
        "warm"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
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
