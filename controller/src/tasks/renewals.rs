//! Writes the renewals of leases: one statement for all heartbeats that have come since the last one. Whatever is written
//! here is acknowledged to its drone, and nothing else is.

use std::collections::HashMap;
use std::time::Duration;

use jetway_protocol::ids::DroneId;
use jetway_service::backoff::jittered;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::app::App;
use crate::db::leases::{self, Present, Renewal, Renewed};
use crate::db::{DbError, leases::seats};
use crate::lease::{Answer, Waiting};
use crate::silence::within;

/// A heartbeat waits this long for others, so that a thousand drones are a few statements a second.
const GATHER: Duration = Duration::from_millis(50);
/// Drones in one statement.
const BATCH_MAX: usize = 1000;
/// Batches that a heartbeat is in, where its row is locked each time.
const TRIES_MAX: u32 = 3;

pub fn start(app: &App) {
    let Some(receiver) = app.leases.take_receiver() else { return };
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let app = app_;
        tokio::select! {
            () = app.lifecycle.stopping() => {}
            () = write_all(&app, receiver) => {}
        }
    });
}

async fn write_all(app: &App, mut receiver: mpsc::Receiver<Waiting>) {
    let mut again: Vec<Waiting> = Vec::new();
    let mut failures = 0;
    loop {
        let mut batch = std::mem::take(&mut again);
        if batch.is_empty() {
            let Some(first) = receiver.recv().await else { return };
            batch.push(first);
        }
        sleep(jittered(GATHER)).await;
        while batch.len() < BATCH_MAX
            && let Ok(waiting) = receiver.try_recv()
        {
            batch.push(waiting);
        }
        let batch = newest_of_each(batch);
        let written = write(app, &batch).await;
        if written.is_err() {
            app.leases.interrupted();
        }
        again = answer(batch, written.as_ref().ok());
        failures = super::report("renewals", written.map(drop), failures);
    }
}

/// One row is written once in a statement. An older renewal of the same drone does not count any more.
fn newest_of_each(batch: Vec<Waiting>) -> Vec<Waiting> {
    let mut newest: HashMap<DroneId, Waiting> = HashMap::new();
    for waiting in batch {
        let drone = waiting.renewal.drone;
        let older = match newest.get(&drone) {
            Some(there) if there.renewal.seat >= waiting.renewal.seat => Some(waiting),
            Some(_) | None => newest.insert(drone, waiting),
        };
        if let Some(older) = older {
            let _hung_up = older.reply.send(Answer::NotNow);
        }
    }
    newest.into_values().collect()
}

/// What came of a batch: who was renewed, and the present seats of those who were not.
struct Written {
    renewed: HashMap<DroneId, bool>,
    seats: HashMap<DroneId, Present>,
}

async fn write(app: &App, batch: &[Waiting]) -> Result<Written, DbError> {
    let renewals: Vec<Renewal> = batch.iter().map(|waiting| waiting.renewal.clone()).collect();
    let pool = app.lease_db.clone();
    within(&app.lifecycle, app.leases.patience(), async move {
        let mut connection = pool.acquire().await?;
        let renewed = leases::renew(&mut connection, &renewals).await?;
        let renewed: HashMap<DroneId, bool> =
            renewed.into_iter().map(|Renewed { drone, draining }| (drone, draining)).collect();
        let missing =
            renewals.iter().map(|renewal| renewal.drone).filter(|drone| !renewed.contains_key(drone));
        let missing: Vec<DroneId> = missing.collect();
        let seats = if missing.is_empty() {
            HashMap::new()
        } else {
            seats(&mut connection, &missing).await?.into_iter().collect()
        };
        Ok(Written { renewed, seats })
    })
    .await
}

/// Tells each drone; returns those whose row was locked, for the next batch. `None`: Postgres has failed.
fn answer(batch: Vec<Waiting>, written: Option<&Written>) -> Vec<Waiting> {
    let mut again = Vec::new();
    for mut waiting in batch {
        let Some(written) = written else {
            let _hung_up = waiting.reply.send(Answer::NotNow);
            continue;
        };
        let (drone, seat) = (waiting.renewal.drone, waiting.renewal.seat);
        let answer = match (written.renewed.get(&drone), written.seats.get(&drone)) {
            (Some(draining), _) => Answer::Renewed { draining: *draining },
            (None, Some(present)) if present.seat.term != seat.term => Answer::TermOver,
            (None, Some(present)) if present.is_outdated && waiting.renewal.lease.is_some() => {
                Answer::TermOver
            }
            (None, None) => Answer::TermOver,
            (None, Some(present)) if present.seat.renewal < seat.renewal && waiting.tries + 1 < TRIES_MAX => {
                waiting.tries += 1;
                again.push(waiting);
                continue;
            }
            (None, Some(_)) => Answer::NotNow,
        };
        let _hung_up = waiting.reply.send(answer);
    }
    again
}
