//! Writes the renewals of leases: one statement for all heartbeats that have come since the last one. Whatever is written
//! here is acknowledged to its drone, and nothing else is.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::ids::DroneId;
use jetway_service::backoff::jittered;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::db::leases::{self, Present, Renewal, Renewed};
use crate::db::pool::Pool;
use crate::db::{DbError, leases::seats};
use crate::driver::{Summary, Task, WokenBy};
use crate::lease::{Answer, Leases, Waiting};

/// A heartbeat waits this long for others, so that a thousand drones are a few statements a second.
const GATHER: Duration = Duration::from_millis(50);
/// Drones in one statement.
const BATCH_MAX: usize = 1000;
/// Batches that a heartbeat is in, where its row is locked each time.
const TRIES_MAX: u32 = 3;

pub struct Renewals {
    db: Arc<Pool>,
    leases: Arc<Leases>,
    queue: mpsc::Receiver<Waiting>,
    /// What the next run writes.
    batch: Vec<Waiting>,
    /// Rows that the last run found locked.
    again: Vec<Waiting>,
}

impl Renewals {
    pub fn new(db: Arc<Pool>, leases: Arc<Leases>, queue: mpsc::Receiver<Waiting>) -> Self {
        Self { db, leases, queue, batch: Vec::new(), again: Vec::new() }
    }
}

impl Task for Renewals {
    /// Drones hold back by themselves.
    const IS_CUT_OFF: bool = true;

    fn name(&self) -> &'static str {
        "renewals"
    }

    fn period(&mut self) -> Option<Duration> {
        None
    }

    async fn nudged(&mut self) -> WokenBy {
        self.batch = std::mem::take(&mut self.again);
        if self.batch.is_empty() {
            match self.queue.recv().await {
                Some(first) => self.batch.push(first),
                None => return pending().await,
            }
        }
        sleep(jittered(GATHER)).await;
        while self.batch.len() < BATCH_MAX
            && let Ok(waiting) = self.queue.try_recv()
        {
            self.batch.push(waiting);
        }
        WokenBy::Queue
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        let batch = newest_of_each(std::mem::take(&mut self.batch));
        let count = batch.len();
        let written = write(&self.db, &batch).await;
        if written.is_err() {
            self.leases.interrupted();
        }
        self.again = answer(batch, written.as_ref().ok());
        written.map(|written| format!("renewed {} of {count} leases", written.renewed.len()))
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

async fn write(db: &Pool, batch: &[Waiting]) -> Result<Written, DbError> {
    let renewals: Vec<Renewal> = batch.iter().map(|waiting| waiting.renewal.clone()).collect();
    let mut connection = db.acquire().await?;
    let renewed = leases::renew(&mut connection, &renewals).await?;
    let renewed: HashMap<DroneId, bool> =
        renewed.into_iter().map(|Renewed { drone, draining }| (drone, draining)).collect();
    let missing = renewals.iter().map(|renewal| renewal.drone).filter(|drone| !renewed.contains_key(drone));
    let missing: Vec<DroneId> = missing.collect();
    let seats = if missing.is_empty() {
        HashMap::new()
    } else {
        seats(&mut connection, &missing).await?.into_iter().collect()
    };
    Ok(Written { renewed, seats })
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
