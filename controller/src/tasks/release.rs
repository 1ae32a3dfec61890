//! Ends the rows of what is known to be dead, and so frees their keys: the drone's lease was watched to its end, its host
//! was booted anew, or an operator has said so. It goes on looking, because a row of an older term may be inserted after
//! the term has ended.

use std::time::Duration;

use jetway_protocol::lease::{Evidence, released};
use jetway_protocol::status::{End, EndReason};
use jetway_service::backoff::jittered;

use crate::app::{App, Counters};
use crate::db::DbError;
use crate::db::releases::{self, Doomed};

const PERIOD: Duration = Duration::from_secs(1);
/// Rows of one statement; the next one follows at once.
const BATCH: i64 = 500;
/// Batches of one run.
const BATCHES_MAX: usize = 200;

pub fn start(app: &App) {
    let app_ = app.clone();
    app.lifecycle.spawn(async move {
        let app = app_;
        let mut failures = 0;
        while super::nudge_or_pause(&app, &app.leases.release_nudge, jittered(PERIOD)).await.is_some() {
            failures = super::report("release", run(&app).await, failures);
        }
    });
}

pub(crate) async fn run(app: &App) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    for _ in 0..BATCHES_MAX {
        let rows = releases::doomed(&mut connection, BATCH).await?;
        let ends: Vec<(&Doomed, End)> = rows
            .iter()
            .filter(|row| released(&row.holding, row.evidence))
            .map(|row| (row, end(row.evidence)))
            .collect();
        if ends.is_empty() {
            return Ok(());
        }
        let ended = releases::end(&mut connection, &ends).await?;
        Counters::add(&app.counters.rows_lost, usize::try_from(ended).unwrap_or(usize::MAX));
        tracing::warn!(ended, drone = %ends[0].0.drone, reason = %ends[0].1.message, "backends have ended with their drone");
        if ended == 0 || app.lifecycle.is_stopping() {
            return Ok(());
        }
    }
    Ok(())
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
