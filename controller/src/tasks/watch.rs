//! The watch: whether each drone's renewal number changes, by this controller's own clock. Every controller watches for
//! itself; whoever has watched one number for long enough ends the lease, by a statement that names it.

use std::sync::Arc;
use std::time::Duration;

use jetway_service::clock;
use tokio::sync::Notify;

use crate::db::pool::Pool;
use crate::db::{DbError, leases};
use crate::driver::{Summary, Task, WokenBy};
use crate::lease::Leases;
use crate::silence::Silence;

/// Between two ticks; a shorter lease has more of them.
const PERIOD: Duration = Duration::from_secs(2);
/// So many ticks fit into the longest gap that a watch may have.
const TICKS_IN_GAP: u32 = 4;

pub struct Watch {
    pub db: Arc<Pool>,
    pub leases: Arc<Leases>,
    pub silence: Arc<Silence>,
    pub inventory_nudge: Arc<Notify>,
}

impl Watch {
    /// `now` is read after Postgres has answered: a pause before it only makes the watch longer.
    pub async fn tick(&self, now: impl FnOnce() -> Duration) -> Result<Summary, DbError> {
        let done = self.look(now).await;
        if done.is_err() {
            self.leases.interrupted();
        }
        done
    }

    async fn look(&self, now: impl FnOnce() -> Duration) -> Result<Summary, DbError> {
        let mut connection = self.db.acquire().await?;
        let turn = leases::take_turn(&mut connection, self.leases.controller).await?;
        let was_settled = self.leases.unsettled_for().is_zero();
        let orders = self.leases.observe(now(), &turn);
        if was_settled && !self.leases.unsettled_for().is_zero() {
            // Until its drone was compared, no lease is renewed.
            self.inventory_nudge.notify_one();
        }
        let timeline = turn.reading.timeline;
        let (watched, mut ended) = (turn.reading.drones.len(), 0);
        for (drone, seat) in orders.expired {
            let Some(term) = leases::end(&mut connection, drone, seat, timeline).await? else { continue };
            ended += 1;
            self.leases.has_ended_one();
            tracing::warn!(%drone, renewal = seat.renewal, %term, "a drone's lease is over: it was not heard of");
            self.leases.release_nudge.notify_one();
        }
        if let Some(timeline) = orders.settle {
            leases::settle(&mut connection, timeline).await?;
            tracing::info!(
                timeline,
                "every drone has been outwaited: absent keys are granted on this timeline"
            );
        }
        Ok(format!("watched {watched} leases and ended {ended}"))
    }
}

impl Task for Watch {
    const RUNS_AT_START: bool = true;
    const IS_CUT_OFF: bool = true;

    fn name(&self) -> &'static str {
        "watch"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD.min(self.leases.gap_max() / TICKS_IN_GAP))
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        let done = self.tick(clock::boot_time).await;
        self.silence.heard(&done);
        done
    }
}
