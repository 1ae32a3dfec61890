//! Rows that no drone has acknowledged: their `PUT` was lost, or its sender was. For a while it is repeated; then the
//! drone is asked whether it has the backend. What it does not have is deleted *there*, and only its "gone, and never
//! will run" ends the row and frees the key.
//!
//! A refusal here is no proof: an older `PUT` of the same row may still be on its way. A tombstone stops that one, too.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::drone_api::{PutBackend, RefusalCode};
use jetway_protocol::ids::GrantId;
use jetway_protocol::status::{End, EndReason};
use tokio::time::Instant;
use uuid::Uuid;

use crate::db::DbError;
use crate::db::dispatch::{self, Undispatched};
use crate::db::ends;
use crate::db::pool::Pool;
use crate::driver::{Summary, Task, WokenBy};
use crate::drone::{CALL_DEADLINE, DroneCalls, Failure, PUT_DEADLINE};
use crate::fleet::HEARTBEAT_AGE_MAX;
use crate::urls::Urls;

const PERIOD: Duration = Duration::from_secs(1);
/// Rows of one run, all under way at once, so that none waits for another's drone.
const BATCH: i64 = 32;
const CONCURRENCY: usize = 32;
/// For so long this run is the only sender of a row, by Postgres' clock.
const CLAIM: Duration = Duration::from_secs(10);
/// The calls for one row at their slowest: a `PUT` or a look, and a `DELETE`.
const ROW_MAX: Duration = PUT_DEADLINE.saturating_add(CALL_DEADLINE);
/// The end of a backend that ran has come to Postgres by then, as a rule.
const EVENT_SECONDS: f64 = 5.0;
/// A row that has not been acknowledged by then is given up.
const GIVE_UP_SECONDS: f64 = 30.0;

pub struct Dispatch {
    pub db: Arc<Pool>,
    pub drones: Arc<DroneCalls>,
    pub urls: Arc<Urls>,
}

impl Dispatch {
    pub async fn once(&self) -> Result<Summary, DbError> {
        let mut connection = self.db.acquire().await?;
        // Counted from before the claim, so that it is never later than what Postgres counts.
        let send_until = Instant::now() + CLAIM - ROW_MAX;
        let sender = Uuid::new_v4();
        let seconds = CLAIM.as_secs_f64();
        let rows =
            dispatch::claim_undispatched(&mut connection, sender, seconds, HEARTBEAT_AGE_MAX, BATCH).await?;
        drop(connection);
        let count = rows.len();
        futures_util::stream::iter(rows)
            .for_each_concurrent(CONCURRENCY, |row| async {
                if Instant::now() > send_until {
                    return;
                }
                let (id, drone) = (row.id.clone(), row.drone.name.clone());
                if let Err(error) = self.one(row).await {
                    tracing::warn!(backend = %id, %drone, %error, "a row could not be dispatched");
                }
            })
            .await;
        Ok(format!("took up {count} backends"))
    }

    async fn one(&self, row: Undispatched) -> Result<(), DbError> {
        if row.age_seconds >= GIVE_UP_SECONDS || row.stop_requested || row.spec.is_none() {
            return self.settle(&row).await;
        }
        let Some(spec) = row.spec.clone() else { return Ok(()) };
        let body = PutBackend {
            term: row.drone.term,
            fencing_token: row.fencing_token,
            key: row.key.clone(),
            spec,
            grant: row.grant.clone(),
            static_token: row.use_static_token.then(|| {
                self.urls.token(
                    &row.id,
                    row.fencing_token,
                    row.drone.id,
                    &row.drone.advertise,
                    GrantId::STATIC,
                )
            }),
            timeline: Vec::new(),
            or_never: false,
        };
        match self.drones.put(&row.drone, &row.id, &body).await {
            Ok(_view) => self.acknowledge(&row).await,
            Err(error) => match Failure::from(error) {
                Failure::Refused(
                    RefusalCode::Draining
                    | RefusalCode::NoCapacity
                    | RefusalCode::NotOffered
                    | RefusalCode::Declined
                    | RefusalCode::Invalid,
                    message,
                ) => {
                    tracing::info!(backend = %row.id, drone = %row.drone.name, message, "refused; will be deleted");
                    self.delete(&row).await
                }
                // Its event is under way; or it never ran, was refused there for good, and nobody
                // will say so.
                Failure::Refused(RefusalCode::Ended, _) if row.age_seconds >= EVENT_SECONDS => {
                    self.settle(&row).await
                }
                // The next run tries again.
                Failure::Refused(_, _) | Failure::NotSent(_) | Failure::Unclear(_) => Ok(()),
            },
        }
    }

    /// The end of waiting, or a wish to stop. A backend that its drone has is acknowledged, and
    /// lives, or is stopped as was wished by the task that repeats wishes; only one that the drone
    /// does not have is deleted there.
    async fn settle(&self, row: &Undispatched) -> Result<(), DbError> {
        match self.drones.view(&row.drone, &row.id, None, PUT_DEADLINE).await {
            Ok(view) if view.fencing_token == row.fencing_token => return self.acknowledge(row).await,
            Ok(_another_life) => {}
            Err(error) => match Failure::from(error) {
                Failure::Refused(RefusalCode::Unknown | RefusalCode::Ended, _) => {}
                // Nobody knows whether it is there: the next run asks again.
                Failure::Refused(_, _) | Failure::NotSent(_) | Failure::Unclear(_) => return Ok(()),
            },
        }
        self.delete(row).await
    }

    async fn acknowledge(&self, row: &Undispatched) -> Result<(), DbError> {
        let mut connection = self.db.acquire().await?;
        dispatch::acknowledge(&mut connection, &row.id, row.fencing_token).await
    }

    async fn delete(&self, row: &Undispatched) -> Result<(), DbError> {
        let gone = match self.drones.delete(&row.drone, &row.id, row.drone.term).await {
            Ok(reply) => reply.gone,
            Err(error) => matches!(Failure::from(error), Failure::Refused(RefusalCode::Ended, _)),
        };
        if !gone {
            return Ok(());
        }
        let (reason, message) = if row.stop_requested {
            (EndReason::External, "stopped before its drone had it")
        } else {
            (EndReason::Refused, "its drone did not take it in time")
        };
        let end = End {
            reason,
            kind: None,
            exit_code: None,
            oom_killed: false,
            message: message.to_owned(),
            output: String::new(),
        };
        let mut connection = self.db.acquire().await?;
        ends::end_gone(&mut connection, &row.id, row.fencing_token, &end).await?;
        Ok(())
    }
}

impl Task for Dispatch {
    fn name(&self) -> &'static str {
        "dispatch"
    }

    fn period(&mut self) -> Option<Duration> {
        Some(PERIOD)
    }

    async fn run(&mut self, _woken_by: WokenBy) -> Result<Summary, DbError> {
        self.once().await
    }
}
