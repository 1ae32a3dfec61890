//! Whose a host is, as proxies ask. Strangers cause these questions with names of their own making,
//! so they are read together, a batch or two at a time, and never take more connections than that.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::controller_api::HostOwner;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::db::pool::Pool;
use crate::db::{DbError, deadlines, hosts};
use crate::gather::Gather;

/// Batches that are read at once.
const READS_MAX: usize = 2;

type Found = Result<Option<HostOwner>, Arc<DbError>>;

pub struct Owners {
    db: Arc<Pool>,
    hold: Duration,
    reads: Semaphore,
    together: Arc<Gather<String, Found>>,
}

impl Owners {
    pub fn new(db: Arc<Pool>, hold: Duration) -> Self {
        Self { db, hold, reads: Semaphore::new(READS_MAX), together: Arc::default() }
    }

    /// `None`: the host is free.
    pub async fn of(&self, host: String) -> Result<Option<HostOwner>, DbError> {
        let together = self.together.answer(host.clone(), async |hosts| self.read_together(hosts).await);
        match together.await {
            Some(found) => found.map_err(DbError::Together),
            // The caller that asked for it has gone.
            None => self.read(&[host]).await.map(|mut found| found.pop().flatten()),
        }
    }

    async fn read_together(&self, hosts: Vec<String>) -> Vec<Option<Found>> {
        match self.read(&hosts).await {
            Ok(found) => found.into_iter().map(|owner| Some(Ok(owner))).collect(),
            Err(error) => vec![Some(Err(Arc::new(error))); hosts.len()],
        }
    }

    async fn read(&self, hosts: &[String]) -> Result<Vec<Option<HostOwner>>, DbError> {
        let turn = timeout(deadlines::CONNECT, self.reads.acquire()).await;
        let _one_of_few =
            turn.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        hosts::owners(&mut *self.db.acquire().await?, hosts, self.hold).await
    }
}
