//! Background tasks. None takes input: each reads Postgres or a drone, compares, acts, and may run at any time, twice, or
//! after a crash. The next run is the retry.

mod certificates;
mod dispatch;
mod events;
mod inventory;
mod prune;
mod refresh;
pub mod release;
mod renewals;
mod stops;
pub mod warm;
pub mod watch;

#[cfg(test)]
mod failover_tests;
#[cfg(test)]
mod lease_tests;
#[cfg(test)]
mod registration_tests;
#[cfg(test)]
mod warm_tests;

use std::future::Future;
use std::time::Duration;

use jetway_service::backoff::jittered;
use tokio::sync::Notify;

use crate::app::App;
use crate::db::DbError;

pub fn start(app: &App) {
    every(app, "refresh", Duration::from_secs(1), refresh::run);
    every(app, "dispatch", Duration::from_secs(1), dispatch::run);
    every(app, "stops", Duration::from_secs(1), stops::run);
    every(app, "warm", Duration::from_secs(1), warm::run);
    every(app, "prune", Duration::from_secs(60), prune::run);
    inventory::start(app);
    release::start(app);
    watch::start(app);
    certificates::start(app);
    start_writers(app);
}

/// Apart from the others: heartbeats and reports wait for them.
pub fn start_writers(app: &App) {
    renewals::start(app);
    events::start(app);
}

/// What a controller does by itself, each once: but for heartbeats, all that an idle installation asks of Postgres.
#[cfg(test)]
pub async fn each_once(app: &App, now: Duration) {
    refresh::run(app.clone()).await.unwrap();
    dispatch::run(app.clone()).await.unwrap();
    stops::run(app.clone()).await.unwrap();
    warm::run(app.clone()).await.unwrap();
    prune::run(app.clone()).await.unwrap();
    release::run(app).await.unwrap();
    watch::tick(app, || now).await.unwrap();
    inventory::run(app, true).await.unwrap();
}

#[cfg(test)]
pub async fn dispatch_now(app: &App) {
    dispatch::run(app.clone()).await.unwrap();
}

#[cfg(test)]
pub async fn stops_now(app: &App) {
    stops::run(app.clone()).await.unwrap();
}

/// Runs the task again and again, with a jittered pause, until the controller stops.
fn every<F>(app: &App, name: &'static str, period: Duration, run: fn(App) -> F)
where
    F: Future<Output = Result<(), DbError>> + Send + 'static,
{
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let app = app_;
        let mut failures = 0_u32;
        while pause(&app, jittered(period)).await {
            failures = report(name, run(app.clone()).await, failures);
        }
    });
}

/// False: the controller stops.
async fn pause(app: &App, length: Duration) -> bool {
    tokio::select! {
        () = app.lifecycle.stopping() => false,
        () = tokio::time::sleep(length) => true,
    }
}

/// The same, cut short by a nudge: whether there was one. `None`: the controller stops.
async fn nudge_or_pause(app: &App, nudge: &Notify, length: Duration) -> Option<bool> {
    tokio::select! {
        () = nudge.notified() => Some(true),
        goes_on = pause(app, length) => goes_on.then_some(false),
    }
}

/// Says once that a task fails and once that it works again, not every second.
fn report(name: &'static str, result: Result<(), DbError>, failures: u32) -> u32 {
    use std::error::Error;
    match result {
        Ok(()) => {
            if failures > 0 {
                tracing::info!(task = name, failures, "works again");
            }
            0
        }
        Err(error) => {
            if failures == 0 {
                let source = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::warn!(task = name, %error, source, "failed; goes on trying");
            }
            failures + 1
        }
    }
}
