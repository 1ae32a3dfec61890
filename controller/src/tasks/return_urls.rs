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
    /// Those that come meanwhile are the next run's.
    pub async fn once(&self) -> Result<Summary, DbError> {
        let all = self.return_urls.take();
        let mut written = 0;
        for (batch, chunk) in all.chunks(BATCH).enumerate() {
            match self.write(chunk).await {
                Ok(count) => written += count,
                Err(error) => {
                    self.return_urls.put_back(all.iter().skip(batch * BATCH).cloned());
                    return Err(error);
                }
            }
        }
        Ok(format!("wrote {written} of {} return URLs", all.len()))
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
