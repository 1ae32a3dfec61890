//! Runs the background tasks, each in a loop of its own: it waits until a run is due, runs the task
//! and records what came of it. [`record`] holds the records, which `GET /ctrl/status` shows.
//!
//! The next run is the retry. A failure changes neither the period nor what a nudge does, so that a
//! task works again as soon as Postgres does. A panic counts as a failure and does not end the loop.

mod record;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
pub use jetway_api::tasks::{Task as Record, WokenBy};
use jetway_service::backoff::jittered;
use jetway_service::lifecycle::Lifecycle;
use tokio::time::sleep;

use self::record::{Records, Slot};
use crate::db::DbError;

/// What a run has done, in a few words for operators.
pub type Summary = String;

pub trait Task: Send + 'static {
    /// The first run does not wait.
    const RUNS_AT_START: bool = false;
    /// The wait for the next run begins this long after a run.
    const REST: Duration = Duration::ZERO;
    /// A stop of the controller drops a run where it stands. Without this it waits for the run's
    /// end.
    const IS_CUT_OFF: bool = false;

    fn name(&self) -> &'static str;

    /// The longest wait for the next run; jitter is added to it. `None`: only a nudge ends the
    /// wait.
    fn period(&mut self) -> Option<Duration>;

    /// Returns when a run is due before the period is over. It is dropped where the period ends
    /// first or the controller stops.
    fn nudged(&mut self) -> impl Future<Output = WokenBy> + Send {
        pending()
    }

    fn run(&mut self, woken_by: WokenBy) -> impl Future<Output = Result<Summary, DbError>> + Send;
}

/// Starts tasks, and knows what each did last. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Driver {
    lifecycle: Lifecycle,
    records: Records,
}

impl Driver {
    pub fn new(lifecycle: Lifecycle) -> Self {
        Self { lifecycle, records: Records::default() }
    }

    /// Runs the task until the lifecycle stops.
    pub fn start(&self, task: impl Task) {
        let slot = self.records.add(task.name());
        let lifecycle = self.lifecycle.clone();
        self.lifecycle.spawn(async move {
            let Some(_never) = drive(task, &slot, &lifecycle).await else { return };
        });
    }

    /// In the order in which the tasks were started.
    pub fn records(&self) -> Vec<Record> {
        self.records.all()
    }
}

/// `None`: the lifecycle stops.
async fn drive<T: Task>(mut task: T, slot: &Slot, lifecycle: &Lifecycle) -> Option<Infallible> {
    let mut at_start = T::RUNS_AT_START;
    let mut failures = 0;
    loop {
        let woken_by = if std::mem::take(&mut at_start) {
            WokenBy::Start
        } else {
            unless_stopped(lifecycle, due(&mut task)).await?
        };
        slot.started(woken_by);
        let run = AssertUnwindSafe(task.run(woken_by)).catch_unwind();
        let done = if T::IS_CUT_OFF { unless_stopped(lifecycle, run).await? } else { run.await };
        let done = match done {
            Ok(done) => done.map_err(|error| Failure::of(&error)),
            Err(_panic) => Err(Failure::of_panic()),
        };
        failures = report(task.name(), done.as_ref().err(), failures);
        slot.finished(done.map_err(|failure| failure.to_string()));
        if !T::REST.is_zero() {
            unless_stopped(lifecycle, sleep(T::REST)).await?;
        }
    }
}

async fn unless_stopped<F: Future>(lifecycle: &Lifecycle, future: F) -> Option<F::Output> {
    lifecycle.token().run_until_cancelled(future).await
}

/// Waits for the next run.
async fn due<T: Task>(task: &mut T) -> WokenBy {
    let period = task.period().map(jittered);
    let over = async {
        match period {
            Some(period) => sleep(period).await,
            None => pending().await,
        }
    };
    tokio::select! {
        () = over => WokenBy::Interval,
        woken_by = task.nudged() => woken_by,
    }
}

/// Why a run failed, for people.
struct Failure {
    error: String,
    /// Empty where there is none.
    source: String,
}

impl Failure {
    fn of(error: &DbError) -> Self {
        use std::error::Error;
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        Self { error: error.to_string(), source }
    }

    /// The process's panic hook has logged the message.
    fn of_panic() -> Self {
        Self { error: "the task panicked; the log has the details".to_owned(), source: String::new() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        if self.source.is_empty() { Ok(()) } else { write!(f, ": {}", self.source) }
    }
}

/// Logs the first failure after a success, and the next success. Returns the failures since the
/// last success.
fn report(task: &'static str, failure: Option<&Failure>, failures: u32) -> u32 {
    let Some(Failure { error, source }) = failure else {
        if failures > 0 {
            tracing::info!(task, failures, "works again");
        }
        return 0;
    };
    if failures == 0 {
        tracing::warn!(task, %error, source, "failed; goes on trying");
    }
    failures.saturating_add(1)
}
