//! Renews this controller's copy of the table of drones.

use std::sync::Arc;
use std::time::Duration;

use crate::db::DbError;
use crate::db::pool::Pool;
use crate::driver::{Summary, Task, WokenBy};
use crate::fleet::Fleet;

const PERIOD: Duration = Duration::from_secs(1);

pub struct Refresh {
    pub db: Arc<Pool>,
    pub fleet: Arc<Fleet>,
}

impl Refresh {
    pub async fn once(&self) -> Result<Summary, DbError> {
        self.fleet.refresh(&self.db).await?;
        Ok(format!("read {} drones", self.fleet.table().drones.len()))
    }
}

impl Task for Refresh {
    fn name(&self) -> &'static str {
        "refresh"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}
