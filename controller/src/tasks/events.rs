//! Stores what drones report: one statement for all reports that have come since the last one, whoever sent them. Nothing is
//! waited for: a batch is what gathered while the last one was under way. What is answered with "stored" is committed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::time::sleep;

use crate::app::{App, Counters};
use crate::db::events::{self, Outcome};
use crate::events::{Answer, Report, Waiting};
use crate::silence::within;

/// While one waits for its commit, the other works.
const WRITERS: usize = 2;
/// Events in one batch, after which no further report is added.
const BATCH_EVENTS: usize = 1024;
/// Batches that a report is in, where a row of its is locked each time, and the pause before each where there is no other.
const TRIES_MAX: u32 = 5;
const LOCKED_PAUSE: Duration = Duration::from_millis(10);
/// Postgres ends a statement by itself at 5 s.
const PATIENCE: Duration = Duration::from_secs(6);

type Queue = Arc<Mutex<mpsc::Receiver<Waiting>>>;

pub fn start(app: &App) {
    let Some(receiver) = app.events.take_receiver() else { return };
    let queue = Arc::new(Mutex::new(receiver));
    for _ in 0..WRITERS {
        let (app_, queue) = (app.clone(), queue.clone());
        app.lifecycle.spawn(async move {
            let app = app_;
            tokio::select! {
                // Who waits then is told to come back, or to go to another controller.
                () = app.lifecycle.stopping() => {}
                () = write_all(&app, &queue) => {}
            }
        });
    }
}

async fn write_all(app: &App, queue: &Queue) {
    let (mut again, mut failures) = (Vec::new(), 0);
    while let Some(batch) = gather(queue, std::mem::take(&mut again)).await {
        let reports: Vec<Arc<Report>> = batch.iter().map(|waiting| waiting.report.clone()).collect();
        let pool = app.internal.clone();
        let stored = within(&app.lifecycle, PATIENCE, async move {
            events::store_all(&mut *pool.acquire().await?, &reports).await
        });
        let stored = stored.await;
        again = answer(app, batch, stored.as_deref().ok());
        failures = super::report("events", stored.map(drop), failures);
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
fn answer(app: &App, batch: Vec<Waiting>, stored: Option<&[Outcome]>) -> Vec<Waiting> {
    let mut again = Vec::new();
    for (n, mut waiting) in batch.into_iter().enumerate() {
        let answer = match stored.and_then(|stored| stored.get(n)) {
            Some(Outcome::Stored) => {
                Counters::add(&app.counters.events, waiting.report.events.len());
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
