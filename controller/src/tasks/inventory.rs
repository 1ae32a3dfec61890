//! Compares what each drone has with what Postgres says it should have.
//!
//! The inventory is taken before the rows are read, so a backend in it always had its row by then. What follows is
//! cautious both ways: a row that is missing at the drone is ended only where it was acknowledged under an older term
//! and the drone, asked to delete it, answers that it is gone, or where the drone has said in two runs that it has
//! ended; a backend without a row is looked at once more before it is put back, or, where its key is a newer backend's,
//! deleted.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::drone_api::{BackendView, Inventory, InventoryEntry, RefusalCode};
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, Term};
use jetway_protocol::lease::{Absence, PutBack, absence};
use jetway_protocol::status::{End, EndReason, Status};
use jetway_service::backoff::jittered;

use crate::app::{App, Counters};
use crate::connect::place::HEARTBEAT_AGE_MAX;
use crate::db::dispatch::{RowOfDrone, live_of_drone};
use crate::db::drones::Drone;
use crate::db::{DbError, backends, put_backs, turns};
use crate::drone::{CALL_DEADLINE, Failure};

const PERIOD: Duration = Duration::from_secs(10);
/// A nudge does not make it run more often than this.
const PERIOD_MIN: Duration = Duration::from_secs(1);
const CONCURRENCY: usize = 8;
/// A row younger than this is not compared: its own connect is still busy with it.
const YOUNG_SECONDS: f64 = 30.0;
const PAGE: i64 = 1000;
/// Rows of one drone that are asked after one by one in a run; what is over comes next time.
const UNREPORTED_MAX: usize = 100;

pub fn start(app: &App) {
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let app = app_;
        let mut failures = 0;
        while let Some(nudged) = super::nudge_or_pause(&app, &app.inventory_nudge, jittered(PERIOD)).await {
            failures = super::report("inventory", run(&app, nudged).await, failures);
            if !super::pause(&app, PERIOD_MIN).await {
                return;
            }
        }
    });
}

pub(super) async fn run(app: &App, nudged: bool) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    if !nudged && !turns::take(&mut connection, "inventory", PERIOD.mul_f64(0.8)).await? {
        return Ok(());
    }
    drop(connection);
    let table = app.fleet.table();
    let heard = table
        .drones
        .iter()
        .filter(|drone| drone.heartbeat_age + table.read_at.elapsed() <= HEARTBEAT_AGE_MAX)
        .filter(|drone| !drone.lease.is_over());
    futures_util::stream::iter(heard.cloned())
        .for_each_concurrent(CONCURRENCY, |drone| async move {
            if let Err(error) = compare_drone(app, &drone).await {
                tracing::warn!(drone = %drone.name, %error, "an inventory could not be compared");
            }
        })
        .await;
    Ok(())
}

pub(crate) async fn compare_drone(app: &App, drone: &Arc<Drone>) -> Result<(), DbError> {
    // First the inventory, then the rows.
    let Ok(inventory) = app.drones.inventory(&drone.reach()).await else { return Ok(()) };
    if inventory.term != drone.term {
        return Ok(());
    }
    let rows = all_rows(app, drone).await?;
    let Differences { missing, unreported, unknown } = compare(&inventory, &rows);
    // What fails for one backend must not keep the others from being compared.
    let logged = |id: &BackendId, result: Result<(), DbError>| {
        if let Err(error) = result {
            tracing::warn!(backend = %id, drone = %drone.name, %error, "a backend could not be compared");
        }
    };
    for row in missing {
        logged(&row.id, end_missing(app, drone, row).await);
    }
    settle_unreported(app, drone, &unreported).await;
    for entry in unknown {
        logged(&entry.id, settle_unknown(app, drone, entry).await);
    }
    Ok(())
}

async fn all_rows(app: &App, drone: &Drone) -> Result<Vec<RowOfDrone>, DbError> {
    let mut rows = Vec::new();
    let mut connection = app.housekeeping.acquire().await?;
    let mut after = Some(FencingToken(0));
    while let Some(token) = after {
        let (page, next) = live_of_drone(&mut connection, drone.id, YOUNG_SECONDS, token, PAGE).await?;
        rows.extend(page);
        after = next;
    }
    Ok(rows)
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

async fn end_missing(app: &App, drone: &Drone, row: &RowOfDrone) -> Result<(), DbError> {
    if !is_gone(app, drone, &row.id, drone.term).await {
        return Ok(());
    }
    end_row(app, drone, row, lost("its drone came back without it")).await
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

async fn end_row(app: &App, drone: &Drone, row: &RowOfDrone, end: End) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    if backends::end_gone(&mut connection, &row.id, row.fencing_token, &end).await? {
        Counters::add(&app.counters.rows_lost, 1);
        tracing::warn!(backend = %row.id, drone = %drone.name, "a backend was lost");
    }
    Ok(())
}

/// An end is usually reported a moment after it shows in an inventory, with more to say of it. Where the drone says
/// "ended" in two runs, its report has been lost, and the row is ended without.
async fn settle_unreported(app: &App, drone: &Drone, rows: &[&RowOfDrone]) {
    let before = ended_unreported(app).remove(&drone.id).unwrap_or_default();
    let mut now = HashSet::new();
    for row in rows.iter().take(UNREPORTED_MAX) {
        let Look::Ended(end) = look(app, drone, &row.id, row.fencing_token).await else { continue };
        if !before.contains(&row.id) {
            now.insert(row.id.clone());
            continue;
        }
        let end = end.unwrap_or_else(|| lost("it has ended, and the report of its end was lost"));
        if let Err(error) = end_row(app, drone, row, end).await {
            tracing::warn!(backend = %row.id, drone = %drone.name, %error, "a row could not be ended");
        }
    }
    if !now.is_empty() {
        ended_unreported(app).insert(drone.id, now);
    }
}

fn ended_unreported(app: &App) -> MutexGuard<'_, HashMap<DroneId, HashSet<BackendId>>> {
    app.ended_unreported.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the drone says of one backend, now.
enum Look {
    Lives(Box<BackendView>),
    /// With its end, where the drone still knows it.
    Ended(Option<End>),
    Unclear,
}

async fn look(app: &App, drone: &Drone, id: &BackendId, fencing_token: FencingToken) -> Look {
    match app.drones.view(&drone.reach(), id, CALL_DEADLINE).await {
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
async fn is_gone(app: &App, drone: &Drone, id: &BackendId, term: Term) -> bool {
    match app.drones.delete(&drone.reach(), id, term).await {
        Ok(reply) => reply.gone,
        Err(error) => matches!(Failure::from(error), Failure::Refused(RefusalCode::Ended, _)),
    }
}

async fn settle_unknown(app: &App, drone: &Drone, entry: &InventoryEntry) -> Result<(), DbError> {
    // It may have ended, with its event, between the two looks.
    let (id, token) = (&entry.id, entry.fencing_token);
    let Look::Lives(view) = look(app, drone, id, token).await else { return Ok(()) };
    let mut connection = app.housekeeping.acquire().await?;
    match put_backs::put_back_row(&mut connection, &view, drone).await? {
        Some(PutBack::Insert | PutBack::Supersede) => {
            tracing::warn!(backend = %id, drone = %drone.name, "a backend without a row was put back");
            // An end that was reported before the row was there changed nothing; what is reported later, does.
            if let Look::Ended(end) = look(app, drone, id, token).await {
                let end = end.unwrap_or_else(|| lost("it ended while its row was put back"));
                backends::end_gone(&mut connection, id, token, &end).await?;
            }
        }
        Some(PutBack::Delete) => {
            drop(connection);
            let _stopped_now_or_next_time = is_gone(app, drone, &entry.id, drone.term).await;
            tracing::warn!(backend = %id, drone = %drone.name, "a backend whose key is a newer one's was deleted at its drone");
        }
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use jetway_protocol::controller_api::Load;
    use jetway_protocol::ids::BackendId;
    use serde_json::json;

    use super::*;
    use crate::testing::{Harness, Mode, keyed, made_up, registration};

    fn id(text: &str) -> BackendId {
        text.parse().unwrap()
    }

    #[test]
    fn absence_proves_nothing_about_a_row_of_the_inventory_s_term() {
        let row = |name: &str, placed, acknowledged, young| RowOfDrone {
            id: id(name),
            fencing_token: FencingToken(1),
            placed_term: Term(placed),
            acknowledged,
            young,
        };
        let rows = [
            row("old", 1, true, false),
            row("present", 2, true, false),
            row("young", 1, true, true),
            row("unacknowledged", 1, false, false),
            row("there", 1, true, false),
            row("dead", 1, true, false),
        ];
        let entry = |name: &str, status| InventoryEntry {
            id: id(name),
            fencing_token: FencingToken(1),
            key: None,
            status,
        };
        let inventory = Inventory {
            term: Term(2),
            backends: vec![
                entry("there", Status::Ready),
                entry("stranger", Status::Ready),
                entry("dead", Status::Terminated),
            ],
        };
        let found = compare(&inventory, &rows);
        assert_eq!(found.missing, [&rows[0]]);
        assert_eq!(found.unreported, [&rows[1], &rows[5]], "these are asked after, and no more");
        assert_eq!(found.unknown, [&inventory.backends[1]]);
    }

    #[tokio::test]
    async fn an_end_that_nobody_reported_is_believed_the_second_time() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        harness.connect(&keyed("k")).await;
        harness.report(&drone).await;
        harness.execute("update backends set created_at = now() - interval '1 hour'").await;
        drone.bury(&drone.ids()[0]);
        let row = harness.app.fleet.by_id(drone.identity().0).unwrap();
        compare_drone(&harness.app, &row).await.unwrap();
        let ended = async || harness.get("/ctrl/backends?state=ended").await.json()["backends"].clone();
        assert_eq!(ended().await, json!([]), "its report may be on its way");
        compare_drone(&harness.app, &row).await.unwrap();
        assert_eq!(ended().await[0]["end_reason"], "lost");
        assert_eq!(drone.calls("DELETE"), 0);
    }

    #[tokio::test]
    async fn a_backend_that_ends_while_it_is_put_back_holds_no_key() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let (drone_id, term) = drone.identity();
        drone.keep(&id("racer"), made_up(term, 7001, Some("k")));
        drone.set_mode(Mode::EndsAfterALook);
        let row = harness.app.fleet.by_id(drone_id).unwrap();
        compare_drone(&harness.app, &row).await.unwrap();
        let list = harness.get("/ctrl/backends?key=k").await.json();
        assert_eq!(list["backends"][0]["end_reason"], "lost", "{list}");
        drone.set_mode(Mode::Usual);
        assert_eq!(harness.connect(&keyed("k")).await.json()["spawned"], true);
    }

    #[tokio::test]
    async fn a_lost_row_is_ended_by_its_drone_s_word_and_strangers_are_put_back_or_deleted() {
        let harness = Harness::new().await;
        let mut register = registration("one", "127.0.0.1:1");
        let drone = harness.drone_with("one", |given| register = given.clone()).await;
        harness.connect(&keyed("k")).await;
        harness.report(&drone).await;
        harness.execute("update backends set created_at = now() - interval '1 hour'").await;
        // The drone comes back, under a new term, without what it had.
        drone.set_mode(Mode::Forgetful);
        register.advertise = drone.address.clone();
        let term =
            harness.internal("/internal/drones/register", &json!(register)).await.json()["term"].as_i64();
        let term = Term(term.unwrap());
        drone.set_identity(register.drone, term);
        harness.app.fleet.refresh(&harness.app.housekeeping).await.unwrap();
        let row = harness.app.fleet.by_id(register.drone).unwrap();
        compare_drone(&harness.app, &row).await.unwrap();
        let list = harness.get("/ctrl/backends?state=ended").await.json();
        assert_eq!(list["backends"][0]["end_reason"], "lost", "{list}");

        drone.set_mode(Mode::Usual);
        for id in drone.ids() {
            drone.forget(&id);
        }
        drone.keep(&id("keyed"), made_up(term, 7001, Some("k")));
        drone.keep(&id("rival"), made_up(term, 7002, Some("other")));
        drone.keep(&id("nokey"), made_up(term, 7003, None));
        let load = Load { engine_ok: true, ..Load::default() };
        harness.heartbeat(&drone, load).await;
        assert_eq!(harness.connect(&keyed("other")).await.status, 200);
        compare_drone(&harness.app, &row).await.unwrap();
        let live = harness.get("/ctrl/backends?state=live&key=k").await.json();
        assert_eq!(live["backends"][0]["backend_id"], "keyed", "{live}");
        assert_eq!(
            (drone.calls("DELETE rival"), drone.calls("DELETE nokey"), drone.calls("DELETE keyed")),
            (1, 0, 0),
            "only one whose key is another's is ownerless"
        );
        let live = harness.get("/ctrl/backends?state=live").await.text();
        assert!(live.contains("nokey"), "{live}");
    }
}
