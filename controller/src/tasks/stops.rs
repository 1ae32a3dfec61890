//! Repeats wishes to stop that the drone has not acted on: it was away, or the controller that had the wish is gone.

use futures_util::StreamExt;
use jetway_protocol::drone_api::Stop;
use jetway_protocol::status::EndReason;

use crate::app::App;
use crate::db::DbError;
use crate::db::dispatch::{self, StopDue};

const BATCH: i64 = 200;
const CONCURRENCY: usize = 16;

pub async fn run(app: App) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    let due = dispatch::stops_due(&mut connection, BATCH).await?;
    drop(connection);
    futures_util::stream::iter(due).for_each_concurrent(CONCURRENCY, |stop| repeat(&app, stop)).await;
    Ok(())
}

async fn repeat(app: &App, due: StopDue) {
    let stop = Stop { kind: due.kind, reason: EndReason::External };
    if let Err(error) = app.drones.stop(&due.drone, &due.id, &stop).await {
        tracing::debug!(backend = %due.id, drone = %due.drone.name, %error, "a stop did not get through");
    }
}
