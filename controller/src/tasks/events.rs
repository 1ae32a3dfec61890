//! Stores what drones report: one statement for all reports that have come since the last one, whoever sent them. Nothing is
//! waited for: a batch is what gathered while the last one was under way. What is answered with "stored" is committed.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::sleep;

use crate::counters::Counters;
use crate::db::DbError;
use crate::db::events::{self, Outcome, Report};
use crate::db::pool::Pool;
use crate::driver::{Summary, Task, WokenBy};
use crate::events::{Answer, Waiting};

/// While one waits for its commit, the other works.
pub const WRITERS: [&str; 2] = ["events-1", "events-2"];
/// Events in one batch, after which no further report is added.
const BATCH_EVENTS: usize = 1024;
/// Batches that a report is in, where a row of its is locked each time, and the pause before each where there is no other.
const TRIES_MAX: u32 = 5;
const LOCKED_PAUSE: Duration = Duration::from_millis(10);

pub type Queue = Arc<Mutex<mpsc::Receiver<Waiting>>>;

pub struct Events {
    name: &'static str,
    db: Arc<Pool>,
    counters: Arc<Counters>,
    queue: Queue,
    /// What the next run stores.
    batch: Vec<Waiting>,
    /// Reports that met a locked row in the last run.
    again: Vec<Waiting>,
}

impl Events {
    pub fn new(name: &'static str, db: Arc<Pool>, counters: Arc<Counters>, queue: Queue) -> Self {
        Self { name, db, counters, queue, batch: Vec::new(), again: Vec::new() }
    }

    async fn store(&self, reports: &[Arc<Report>]) -> Result<Vec<Outcome>, DbError> {
        events::store_all(&mut *self.db.acquire().await?, reports).await
    }
}

impl Task for Events {
    /// Drones hold back by themselves.
    /// Drones that wait at a stop are told to come back, or to go to another controller.
    const IS_CUT_OFF: bool = true;

    fn name(&self) -> &'static str {
        self.name
    }

    fn period(&mut self) -> Option<Duration> {
        None
    }

    async fn nudged(&mut self) -> WokenBy {
        match gather(&self.queue, std::mem::take(&mut self.again)).await {
            Some(batch) => self.batch = batch,
            None => return pending().await,
        }
        WokenBy::Queue
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        let batch = std::mem::take(&mut self.batch);
        let reports: Vec<Arc<Report>> = batch.iter().map(|waiting| waiting.report.clone()).collect();
        let stored = self.store(&reports).await;
        self.again = answer(&self.counters, batch, stored.as_deref().ok());
        let done = reports.len() - self.again.len();
        stored.map(|_| format!("answered {done} of {} reports", reports.len()))
    }
}

/// `None`: nobody will ever send one again.
async fn gather(queue: &Queue, mut batch: Vec<Waiting>) -> Option<Vec<Waiting>> {
    let mut queue = if batch.is_empty() {
        queue.lock().await
    } else {
        sleep(LOCKED_PAUSE).await;
        // The other writer waits for the next report: there is none.
        let Ok(queue) = queue.try_lock() else { return Some(batch) };
        queue
    };
    if batch.is_empty() {
        batch.push(queue.recv().await?);
    }
    let mut count: usize = batch.iter().map(|waiting| waiting.report.events.len()).sum();
    while count < BATCH_EVENTS
        && let Ok(waiting) = queue.try_recv()
    {
        count += waiting.report.events.len();
        batch.push(waiting);
    }
    Some(batch)
}

/// Tells each drone; returns those who met a locked row, for the next batch. `None`: Postgres has failed.
fn answer(counters: &Counters, batch: Vec<Waiting>, stored: Option<&[Outcome]>) -> Vec<Waiting> {
    let mut again = Vec::new();
    for (n, mut waiting) in batch.into_iter().enumerate() {
        let answer = match stored.and_then(|stored| stored.get(n)) {
            Some(Outcome::Stored) => {
                Counters::add(&counters.events, waiting.report.events.len());
                Answer::Stored
            }
            Some(Outcome::TermOver) => Answer::TermOver,
            Some(Outcome::Locked) if waiting.tries + 1 < TRIES_MAX => {
                waiting.tries += 1;
                again.push(waiting);
                continue;
            }
            Some(Outcome::Locked) | None => Answer::NotNow,
        };
        let _hung_up = waiting.reply.send(answer);
    }
    again
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
