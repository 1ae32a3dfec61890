//! Rows that no drone has acknowledged: their `PUT` was lost, or its sender was. For a while it is repeated; then the
//! backend is deleted *at the drone*, and only its "gone, and never will run" ends the row and frees the key.
//!
//! A refusal here is no proof: an older `PUT` of the same row may still be on its way. A tombstone stops that one, too.

use futures_util::StreamExt;
use jetway_protocol::drone_api::{PutBackend, RefusalCode};
use jetway_protocol::ids::GrantId;
use jetway_protocol::status::{End, EndReason};

use crate::app::App;
use crate::db::DbError;
use crate::db::backends;
use crate::db::dispatch::{self, Undispatched};
use crate::drone::Failure;

const BATCH: i64 = 100;
const CONCURRENCY: usize = 16;
/// For so long this task is the only sender of a row: longer than one call.
const CLAIM_SECONDS: f64 = 6.0;
/// A row that has not been acknowledged by then is given up.
const GIVE_UP_SECONDS: f64 = 30.0;

pub async fn run(app: App) -> Result<(), DbError> {
    let mut connection = app.housekeeping.acquire().await?;
    let rows = dispatch::claim_undispatched(&mut connection, app.process, CLAIM_SECONDS, BATCH).await?;
    drop(connection);
    futures_util::stream::iter(rows)
        .for_each_concurrent(CONCURRENCY, |row| async {
            let (id, drone) = (row.id.clone(), row.drone.name.clone());
            if let Err(error) = one(&app, row).await {
                tracing::warn!(backend = %id, %drone, %error, "a row could not be dispatched");
            }
        })
        .await;
    Ok(())
}

async fn one(app: &App, row: Undispatched) -> Result<(), DbError> {
    if row.age_seconds >= GIVE_UP_SECONDS || row.stop_requested {
        return delete(app, &row).await;
    }
    let Some(spec) = row.spec.clone() else { return delete(app, &row).await };
    let body = PutBackend {
        term: row.drone.term,
        fencing_token: row.fencing_token,
        key: row.key.clone(),
        spec,
        grant: row.grant.clone(),
        static_token: row.use_static_token.then(|| {
            app.token(&row.id, row.fencing_token, row.drone.id, &row.drone.advertise, GrantId::STATIC)
        }),
        timeline: Vec::new(),
    };
    match app.drones.put(&row.drone, &row.id, &body).await {
        Ok(_view) => {
            let mut connection = app.housekeeping.acquire().await?;
            dispatch::acknowledge(&mut connection, &row.id, row.fencing_token).await
        }
        Err(error) => match Failure::from(error) {
            Failure::Refused(
                RefusalCode::Draining
                | RefusalCode::NoCapacity
                | RefusalCode::NotOffered
                | RefusalCode::Invalid,
                message,
            ) => {
                tracing::info!(backend = %row.id, drone = %row.drone.name, message, "refused; will be deleted");
                delete(app, &row).await
            }
            // Ended: its event is under way. The others: the next run tries again.
            Failure::Refused(_, _) | Failure::NotSent(_) | Failure::Unclear(_) => Ok(()),
        },
    }
}

async fn delete(app: &App, row: &Undispatched) -> Result<(), DbError> {
    let gone = match app.drones.delete(&row.drone, &row.id, row.drone.term).await {
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
    let mut connection = app.housekeeping.acquire().await?;
    backends::end_gone(&mut connection, &row.id, row.fencing_token, &end).await?;
    Ok(())
}
