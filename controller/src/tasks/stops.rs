//! Repeats wishes to stop that the drone has not acted on: it was away, or the controller that had the wish is gone. And makes
//! such wishes for what is left on a drone when the deadline of its drain has come.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::drone_api::Stop;
use jetway_protocol::status::EndReason;

use crate::db::DbError;
use crate::db::dispatch::{self, StopDue};
use crate::db::pool::Pool;
use crate::driver::{Summary, Task, WokenBy};
use crate::drone::DroneCalls;
use crate::fleet::HEARTBEAT_AGE_MAX;

const PERIOD: Duration = Duration::from_secs(1);
const BATCH: i64 = 200;
/// Sessions of drained drones in a run, a second long: their clients come back, and at once they would be a stampede.
const OVERDUE: i64 = 32;
const CONCURRENCY: usize = 16;

pub struct Stops {
    pub db: Arc<Pool>,
    pub drones: Arc<DroneCalls>,
}

impl Stops {
    pub async fn once(&self) -> Result<Summary, DbError> {
        let mut connection = self.db.acquire().await?;
        dispatch::stop_overdue(&mut connection, OVERDUE).await?;
        let due = dispatch::stops_due(&mut connection, HEARTBEAT_AGE_MAX, BATCH).await?;
        drop(connection);
        let count = due.len();
        futures_util::stream::iter(due).for_each_concurrent(CONCURRENCY, |stop| self.repeat(stop)).await;
        Ok(format!("sent {count} stops"))
    }

    async fn repeat(&self, due: StopDue) {
        let (term, reason) = (Some(due.drone.term), EndReason::External);
        let stop = Stop { term, kind: due.kind, reason, leave: due.leaves };
        if let Err(error) = self.drones.stop(&due.drone, &due.id, &stop).await {
            tracing::debug!(backend = %due.id, drone = %due.drone.name, %error, "a stop did not get through");
        }
    }
}

impl Task for Stops {
    fn name(&self) -> &'static str {
        "stops"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Harness, keyed};

    #[tokio::test]
    async fn wishes_of_a_silent_drone_do_not_fill_the_batch() {
        let harness = Harness::new().await;
        let gone = harness.drone("gone").await;
        harness.connect(&keyed("a")).await;
        harness.report(&gone).await;
        harness.execute("update drones set draining = true").await;
        let drone = harness.drone("one").await;
        let answer = harness.connect(&keyed("b")).await;
        assert_eq!(answer.json()["drone"], "one", "{}", answer.text());
        harness.report(&drone).await;
        harness.execute("update backends set stop_requested = 1").await;
        harness
            .execute("update drones set last_heartbeat = now() - interval '1 hour' where name = 'gone'")
            .await;
        let mut connection = harness.app.pools.requests.acquire().await.unwrap();
        let due = dispatch::stops_due(&mut connection, HEARTBEAT_AGE_MAX, 1).await.unwrap();
        assert_eq!(due.iter().map(|due| due.drone.name.as_str()).collect::<Vec<_>>(), ["one"]);
    }
}
