//! The watch: whether each drone's renewal number changes, by this controller's own clock. Every controller watches for
//! itself; whoever has watched one number for long enough ends the lease, by a statement that names it.

use std::time::Duration;

use jetway_service::backoff::jittered;
use jetway_service::clock;

use crate::app::App;
use crate::db::{DbError, leases};
use crate::silence::within;

/// Between two ticks; a shorter lease has more of them.
const PERIOD: Duration = Duration::from_secs(2);
/// So many ticks fit into the longest gap that a watch may have.
const TICKS_IN_GAP: u32 = 4;

pub fn start(app: &App) {
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let app = app_;
        let mut failures = 0;
        loop {
            let done = app.silence.over(tick(&app, clock::boot_time)).await;
            if matches!(done, Err(DbError::Silent)) {
                app.silence.prove();
            }
            failures = super::report("watch", done, failures);
            let period = PERIOD.min(app.leases.gap_max() / TICKS_IN_GAP);
            if !super::pause(&app, jittered(period)).await {
                return;
            }
        }
    });
}

/// `now` is read after Postgres has answered: a pause before it only makes the watch longer.
pub(crate) async fn tick(app: &App, now: impl FnOnce() -> Duration) -> Result<(), DbError> {
    let done = look(app, now).await;
    if done.is_err() {
        app.leases.interrupted();
    }
    done
}

async fn look(app: &App, now: impl FnOnce() -> Duration) -> Result<(), DbError> {
    let (pool, controller) = (app.lease_db.clone(), app.leases.controller);
    let take_turn = async move { leases::take_turn(&mut *pool.acquire().await?, controller).await };
    let turn = within(&app.lifecycle, app.leases.patience(), take_turn).await?;
    let orders = app.leases.observe(now(), &turn);
    let timeline = turn.reading.timeline;
    for (drone, seat) in orders.expired {
        let pool = app.lease_db.clone();
        let end = async move { leases::end(&mut *pool.acquire().await?, drone, seat, timeline).await };
        let Some(term) = within(&app.lifecycle, app.leases.patience(), end).await? else { continue };
        app.leases.has_ended_one();
        tracing::warn!(%drone, renewal = seat.renewal, %term, "a drone's lease is over: it was not heard of");
        app.leases.release_nudge.notify_one();
    }
    if let Some(timeline) = orders.settle {
        let pool = app.lease_db.clone();
        let settle = async move { leases::settle(&mut *pool.acquire().await?, timeline).await };
        within(&app.lifecycle, app.leases.patience(), settle).await?;
        tracing::info!(timeline, "every drone has been outwaited: absent keys are granted on this timeline");
    }
    Ok(())
}
