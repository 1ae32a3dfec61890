//! Compares what each drone has with what Postgres says it should have.
//!
//! The inventory is taken before the rows are read, so a backend in it always had its row by then. What follows is
//! cautious both ways: a row that is missing at the drone is ended only where it was acknowledged under an older term
//! and the drone, asked to delete it, answers that it is gone, or where the drone has said in two runs that it has
//! ended; a backend without a row is looked at once more before it is put back, or, where its key is a newer backend's,
//! deleted. Before a delete, the drone and the row are read again.
//!
//! One controller compares at a time, and keeps its turn until it is through. Nothing depends on
//! that: a backend that two comparisons find without a row has its own row when the second one
//! comes to it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::drone_api::{BackendView, Inventory, InventoryEntry, RefusalCode};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, Term};
use jetway_protocol::lease::{Absence, PutBack, absence};
use jetway_protocol::status::{End, EndReason, Status};
use parking_lot::{Mutex, MutexGuard};
use rand::seq::SliceRandom;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::counters::Counters;
use crate::db::dispatch::{self, RowOfDrone, live_of_drone};
use crate::db::drones::Drone;
use crate::db::pool::Pool;
use crate::db::{DbError, ends, leases, put_backs, turns};
use crate::driver::{Summary, Task, WokenBy};
use crate::drone::{CALL_DEADLINE, DroneCalls, Failure};
use crate::fleet::Fleet;
use crate::fleet::HEARTBEAT_AGE_MAX;
use crate::lease::Leases;

const PERIOD: Duration = Duration::from_secs(10);
/// While absent keys wait after a failover: only drones that were compared keep their leases.
const PERIOD_UNSETTLED: Duration = Duration::from_secs(2);
/// The turns of all controllers: when a comparison is due again, and which controller is in one.
const DUE: &str = "inventory";
const COMPARING: &str = "inventory comparison";
/// A comparison is cut off before its turn is over.
const TURN_MAX: Duration = Duration::from_secs(30);
/// A nudge does not make it run more often than this.
const PERIOD_MIN: Duration = Duration::from_secs(1);
const CONCURRENCY: usize = 8;
/// A row younger than this is not compared: its own connect is still busy with it.
const YOUNG_SECONDS: f64 = 30.0;
const PAGE: i64 = 1000;
/// Rows of one drone that are asked after one by one in a run; what is over comes next time.
const UNREPORTED_MAX: usize = 100;

pub struct Compare {
    db: Arc<Pool>,
    fleet: Arc<Fleet>,
    drones: Arc<DroneCalls>,
    leases: Arc<Leases>,
    nudge: Arc<Notify>,
    counters: Arc<Counters>,
    /// Of each drone: the backends with a live row that it said had ended, when it was last asked.
    ended_unreported: Mutex<HashMap<DroneId, HashSet<BackendId>>>,
    /// As it was when the present wait began.
    unsettled: bool,
}

impl Task for Compare {
    const REST: Duration = PERIOD_MIN;

    fn name(&self) -> &'static str {
        "inventory"
    }

    fn period(&mut self) -> Option<Duration> {
        self.unsettled = !self.leases.unsettled_for().is_zero();
        Some(if self.unsettled { PERIOD_UNSETTLED } else { PERIOD })
    }

    async fn nudged(&mut self) -> WokenBy {
        self.nudge.notified().await;
        WokenBy::Nudge
    }

    async fn run(&mut self, woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once(woken_by == WokenBy::Nudge || self.unsettled).await
    }
}

impl Compare {
    pub fn new(
        db: Arc<Pool>,
        fleet: Arc<Fleet>,
        drones: Arc<DroneCalls>,
        leases: Arc<Leases>,
        nudge: Arc<Notify>,
        counters: Arc<Counters>,
    ) -> Self {
        let ended_unreported = Mutex::default();
        Self { db, fleet, drones, leases, nudge, counters, ended_unreported, unsettled: false }
    }

    /// `forced`: also where another comparison is not due yet.
    pub async fn once(&self, forced: bool) -> Result<Summary, DbError> {
        let begun = Instant::now();
        let mut connection = self.db.acquire().await?;
        if !forced && !turns::take(&mut connection, DUE, PERIOD.mul_f64(0.8)).await? {
            return Ok("no comparison is due".to_owned());
        }
        if !turns::take(&mut connection, COMPARING, TURN_MAX).await? {
            // The comparison that is under way may have looked at that drone already.
            if forced {
                self.nudge.notify_one();
            }
            return Ok("another controller compares".to_owned());
        }
        drop(connection);
        let compared = timeout_at(begun + TURN_MAX, self.compare_all()).await;
        if compared.is_err() {
            tracing::warn!(
                "a comparison of inventories took too long; the next one begins with other drones"
            );
        }
        turns::give_back(&mut *self.db.acquire().await?, COMPARING).await?;
        Ok(match compared {
            Ok(count) => format!("compared {count} drones"),
            Err(_) => "did not compare every drone in time".to_owned(),
        })
    }

    async fn compare_all(&self) -> usize {
        let unsettled = !self.leases.unsettled_for().is_zero();
        let table = self.fleet.table();
        let mut heard: Vec<&Arc<Drone>> = table
            .drones
            .iter()
            .filter(|drone| {
                // Its heartbeats do not count before it was compared.
                unsettled || drone.heartbeat_age + table.read_at.elapsed() <= HEARTBEAT_AGE_MAX
            })
            .filter(|drone| !drone.lease.is_over())
            .collect();
        heard.shuffle(&mut rand::rng());
        let count = heard.len();
        futures_util::stream::iter(heard)
            .for_each_concurrent(CONCURRENCY, |drone| async move {
                if let Err(error) = self.compare_drone(drone).await {
                    tracing::warn!(drone = %drone.name, %error, "an inventory could not be compared");
                }
            })
            .await;
        count
    }

    pub async fn compare_drone(&self, drone: &Arc<Drone>) -> Result<(), DbError> {
        // First the inventory, then the rows.
        let Ok(inventory) = self.drones.inventory(&drone.reach()).await else { return Ok(()) };
        if inventory.term != drone.term {
            return Ok(());
        }
        let rows = self.all_rows(drone).await?;
        let Differences { missing, unreported, unknown } = compare(&inventory, &rows);
        // What fails for one backend must not keep the others from being compared.
        let mut is_whole = true;
        let mut logged = |id: &BackendId, result: Result<(), DbError>| {
            if let Err(error) = result {
                is_whole = false;
                tracing::warn!(backend = %id, drone = %drone.name, %error, "a backend could not be compared");
            }
        };
        for row in missing {
            logged(&row.id, self.end_missing(drone, row).await);
        }
        self.settle_unreported(drone, &unreported).await;
        for entry in unknown {
            logged(&entry.id, self.settle_unknown(drone, entry).await);
        }
        if is_whole && !drone.compared {
            leases::compared(&mut *self.db.acquire().await?, drone.id, drone.term).await?;
        }
        Ok(())
    }

    async fn all_rows(&self, drone: &Drone) -> Result<Vec<RowOfDrone>, DbError> {
        let mut rows = Vec::new();
        let mut connection = self.db.acquire().await?;
        let mut after = Some(FencingToken(0));
        while let Some(token) = after {
            let (page, next) = live_of_drone(&mut connection, drone.id, YOUNG_SECONDS, token, PAGE).await?;
            rows.extend(page);
            after = next;
        }
        Ok(rows)
    }

    async fn end_missing(&self, drone: &Drone, row: &RowOfDrone) -> Result<(), DbError> {
        let unchanged = dispatch::is_unchanged(&mut *self.db.acquire().await?, row).await?;
        if !unchanged || !self.is_gone(drone, &row.id, drone.term).await {
            return Ok(());
        }
        self.end_row(drone, row, lost("its drone came back without it")).await
    }

    async fn end_row(&self, drone: &Drone, row: &RowOfDrone, end: End) -> Result<(), DbError> {
        let mut connection = self.db.acquire().await?;
        if ends::end_gone(&mut connection, &row.id, row.fencing_token, &end).await? {
            Counters::add(&self.counters.rows_lost, 1);
            tracing::warn!(backend = %row.id, drone = %drone.name, "a backend was lost");
        }
        Ok(())
    }

    /// An end is usually reported a moment after it shows in an inventory, with more to say of it.
    /// Where the drone says "ended" in two runs, its report has been lost, and the row is ended
    /// without.
    async fn settle_unreported(&self, drone: &Drone, rows: &[&RowOfDrone]) {
        let before = self.ended_unreported().remove(&drone.id).unwrap_or_default();
        let mut now = HashSet::new();
        for row in rows.iter().take(UNREPORTED_MAX) {
            let Look::Ended(end) = self.look(drone, &row.id, row.fencing_token).await else { continue };
            if !before.contains(&row.id) {
                now.insert(row.id.clone());
                continue;
            }
            let end = end.unwrap_or_else(|| lost("it has ended, and the report of its end was lost"));
            if let Err(error) = self.end_row(drone, row, end).await {
                tracing::warn!(backend = %row.id, drone = %drone.name, %error, "a row could not be ended");
            }
        }
        if !now.is_empty() {
            self.ended_unreported().insert(drone.id, now);
        }
    }

    async fn look(&self, drone: &Drone, id: &BackendId, fencing_token: FencingToken) -> Look {
        match self.drones.view(&drone.reach(), id, None, CALL_DEADLINE).await {
            Ok(view) if view.fencing_token != fencing_token => Look::Unclear,
            Ok(view) if view.status == Status::Terminated => {
                Look::Ended(view.history.into_iter().rev().find_map(|entry| entry.end))
            }
            Ok(view) => Look::Lives(Box::new(view)),
            Err(error) => match Failure::from(error) {
                Failure::Refused(RefusalCode::Ended, _) => Look::Ended(None),
                Failure::Refused(_, _) | Failure::NotSent(_) | Failure::Unclear(_) => Look::Unclear,
            },
        }
    }

    /// Sets a tombstone at the drone. True: whatever it was, it does not run there and never will.
    async fn is_gone(&self, drone: &Drone, id: &BackendId, term: Term) -> bool {
        match self.drones.delete(&drone.reach(), id, term).await {
            Ok(reply) => reply.gone,
            Err(error) => matches!(Failure::from(error), Failure::Refused(RefusalCode::Ended, _)),
        }
    }

    async fn settle_unknown(&self, drone: &Drone, entry: &InventoryEntry) -> Result<(), DbError> {
        // It may have ended, with its event, between the two looks.
        let (id, token) = (&entry.id, entry.fencing_token);
        let Look::Lives(view) = self.look(drone, id, token).await else { return Ok(()) };
        let mut connection = self.db.acquire().await?;
        match put_backs::put_back_row(&mut connection, &view, drone).await? {
            Some(PutBack::Insert | PutBack::Supersede) => {
                tracing::warn!(backend = %id, drone = %drone.name, "a backend without a row was put back");
                // An end that was reported before the row was there changed nothing; what is
                // reported later, does.
                if let Look::Ended(end) = self.look(drone, id, token).await {
                    let end = end.unwrap_or_else(|| lost("it ended while its row was put back"));
                    ends::end_gone(&mut connection, id, token, &end).await?;
                }
            }
            Some(PutBack::Delete) => {
                drop(connection);
                if !self.is_another_s(drone, &view).await? {
                    return Ok(());
                }
                let _stopped_now_or_next_time = self.is_gone(drone, &entry.id, drone.term).await;
                tracing::warn!(backend = %id, drone = %drone.name, "a backend whose key is a newer one's was deleted at its drone");
            }
            Some(PutBack::Own) | None => {}
        }
        Ok(())
    }

    /// The drone and the key's row, read again before the delete: the backend still lives, and its
    /// key is a newer one's.
    async fn is_another_s(&self, drone: &Drone, view: &BackendView) -> Result<bool, DbError> {
        if !matches!(self.look(drone, &view.id, view.fencing_token).await, Look::Lives(_)) {
            return Ok(false);
        }
        let mut connection = self.db.acquire().await?;
        Ok(put_backs::verdict(&mut connection, view).await? == PutBack::Delete)
    }

    fn ended_unreported(&self) -> MutexGuard<'_, HashMap<DroneId, HashSet<BackendId>>> {
        self.ended_unreported.lock()
    }
}

#[derive(Debug, Default, PartialEq)]
struct Differences<'a> {
    /// Rows whose backend the drone had under an older term and has no more.
    missing: Vec<&'a RowOfDrone>,
    /// Rows whose backend does not live there, although nobody has reported its end.
    unreported: Vec<&'a RowOfDrone>,
    /// Live backends of the drone that have no live row.
    unknown: Vec<&'a InventoryEntry>,
}

fn compare<'a>(inventory: &'a Inventory, rows: &'a [RowOfDrone]) -> Differences<'a> {
    let has: HashMap<&BackendId, &InventoryEntry> =
        inventory.backends.iter().map(|entry| (&entry.id, entry)).collect();
    let should: HashMap<&BackendId, &RowOfDrone> = rows.iter().map(|row| (&row.id, row)).collect();
    let lives = |id| has.get(id).is_some_and(|entry| entry.status != Status::Terminated);
    let (missing, unreported) =
        rows.iter().filter(|row| row.acknowledged && !row.young && !lives(&row.id)).partition(|row| {
            let asked = absence(row.placed_term, row.acknowledged, inventory.term);
            asked == Absence::AskToDelete && !has.contains_key(&row.id)
        });
    Differences {
        missing,
        unreported,
        unknown: inventory
            .backends
            .iter()
            .filter(|entry| entry.status != Status::Terminated && !should.contains_key(&entry.id))
            .collect(),
    }
}

fn lost(message: &str) -> End {
    End {
        reason: EndReason::Lost,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: message.to_owned(),
        output: String::new(),
    }
}

/// What the drone says of one backend, now.
enum Look {
    Lives(Box<BackendView>),
    /// With its end, where the drone still knows it.
    Ended(Option<End>),
    Unclear,
}

#[cfg(test)]
#[path = "inventory_tests.rs"]
mod tests;
