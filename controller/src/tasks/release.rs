//! Ends the rows of what is known to be dead, and so frees their keys: the drone's lease was watched to its end, its host
//! was booted anew, or an operator has said so. It goes on looking, because a row of an older term may be inserted after
//! the term has ended.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::lease::{Evidence, released};
use jetway_protocol::status::{End, EndReason};
use jetway_service::lifecycle::Lifecycle;

use crate::counters::Counters;
use crate::db::DbError;
use crate::db::deadlines::{LONG_STATEMENT, STATEMENT};
use crate::db::pool::Pool;
use crate::db::releases::{self, Doomed};
use crate::driver::{Summary, Task, WokenBy};
use crate::lease::Leases;

const PERIOD: Duration = Duration::from_secs(1);
/// Rows of one statement; the next one follows at once.
const BATCH: i64 = 500;
/// Batches of one run.
const BATCHES_MAX: usize = 200;

pub struct Release {
    pub db: Arc<Pool>,
    pub leases: Arc<Leases>,
    pub counters: Arc<Counters>,
    pub lifecycle: Lifecycle,
}

impl Release {
    pub async fn once(&self) -> Result<Summary, DbError> {
        let mut connection = self.db.acquire().await?;
        let mut count = 0;
        for _ in 0..BATCHES_MAX {
            let rows = releases::doomed(&mut connection, BATCH).await?;
            let ends: Vec<(&Doomed, End)> = rows
                .iter()
                .filter(|row| released(&row.holding, row.evidence))
                .map(|row| (row, end(row.evidence)))
                .collect();
            if ends.is_empty() {
                break;
            }
            connection.set_deadline(LONG_STATEMENT);
            let ended = releases::end(&mut connection, &ends).await?;
            connection.set_deadline(STATEMENT);
            count += ended;
            Counters::add(&self.counters.rows_lost, usize::try_from(ended).unwrap_or(usize::MAX));
            tracing::warn!(ended, drone = %ends[0].0.drone, reason = %ends[0].1.message, "backends have ended with their drone");
            if ended == 0 || self.lifecycle.is_stopping() {
                break;
            }
        }
        Ok(format!("ended {count} backends"))
    }
}

impl Task for Release {
    fn name(&self) -> &'static str {
        "release"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn nudged(&mut self) -> WokenBy {
        self.leases.release_nudge.notified().await;
        WokenBy::Nudge
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}

fn end(evidence: Evidence) -> End {
    let (reason, message) = match evidence {
        Evidence::LeaseOver { .. } => {
            (EndReason::LeaseExpired, "its drone was not heard of for the length of its lease")
        }
        Evidence::NewBoot { .. } => (EndReason::Lost, "its host was booted anew"),
        Evidence::Forgotten { .. } => (EndReason::Lost, "an operator said that its drone is dead"),
        Evidence::DroneSaysGone { .. }
        | Evidence::Refused
        | Evidence::NeverSent
        | Evidence::CallFailed
        | Evidence::Absent
        | Evidence::Silent => (EndReason::Internal, "ended without evidence"),
    };
    End {
        reason,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: message.to_owned(),
        output: String::new(),
    }
}
