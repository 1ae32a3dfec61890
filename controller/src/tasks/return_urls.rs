//! Writes the return URLs that connects to live keys gave, in bounded batches.

use std::sync::Arc;
use std::time::Duration;

use crate::db::pool::Pool;
use crate::db::{DbError, hosts};
use crate::driver::{Summary, Task, WokenBy};
use crate::return_urls::ReturnUrls;

/// After a failed write.
const PERIOD: Duration = Duration::from_secs(10);
const PERIOD_MIN: Duration = Duration::from_secs(1);
const BATCH: usize = 500;

pub struct WriteReturnUrls {
    pub db: Arc<Pool>,
    pub return_urls: Arc<ReturnUrls>,
}

impl WriteReturnUrls {
    pub async fn once(&self) -> Result<Summary, DbError> {
        let (mut given, mut written) = (0, 0);
        loop {
            let batch = self.return_urls.take(BATCH);
            if batch.is_empty() {
                return Ok(format!("wrote {written} of {given} return URLs"));
            }
            given += batch.len();
            match self.write(&batch).await {
                Ok(count) => written += count,
                Err(error) => {
                    self.return_urls.put_back(batch);
                    return Err(error);
                }
            }
        }
    }

    async fn write(&self, batch: &[hosts::Return]) -> Result<u64, DbError> {
        hosts::set_returns(&mut *self.db.acquire().await?, batch).await
    }
}

impl Task for WriteReturnUrls {
    const REST: Duration = PERIOD_MIN;

    fn name(&self) -> &'static str {
        "return-urls"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn nudged(&mut self) -> WokenBy {
        self.return_urls.nudge.notified().await;
        WokenBy::Nudge
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}
