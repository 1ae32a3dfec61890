//! Forgets backends that ended more than a day ago, with their events, and proxies that are long silent. In bounded
//! batches; one controller at a time has the turn.

use std::time::Duration;

use crate::app::App;
use crate::db::{DbError, backends, leases, proxies, turns};

const PERIOD: Duration = Duration::from_secs(60);
const ENDED_AGE_SECONDS: f64 = 24.0 * 3600.0;
const PROXY_AGE: Duration = Duration::from_secs(3600);
const CONTROLLER_AGE: Duration = Duration::from_secs(3600);
const BATCH: i64 = 500;
const BATCHES_MAX: u32 = 20;

pub async fn run(app: App) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    if !turns::take(&mut connection, "prune", PERIOD).await? {
        return Ok(());
    }
    for _ in 0..BATCHES_MAX {
        let pruned = backends::prune(&mut connection, ENDED_AGE_SECONDS, BATCH).await?;
        if pruned < BATCH.unsigned_abs() || app.lifecycle.is_stopping() {
            break;
        }
    }
    proxies::prune(&mut connection, PROXY_AGE).await?;
    leases::prune_controllers(&mut connection, CONTROLLER_AGE).await?;
    Ok(())
}
