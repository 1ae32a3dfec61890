//! A connect to a key whose backend lives: one exchange with its drone, no write. Where the backend is ending, a
//! bounded wait for its end instead, which holds no connection to the database.

use std::time::Duration;

use jetway_protocol::drone_api::{AddGrant, RefusalCode};
use jetway_protocol::error::Code;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::status::Status;
use tokio::time::Instant;

use super::deliver::deliver_later;
use super::respond::Connected;
use super::validate::{Wanted, check_static};
use super::{Round, grant, static_grant, wait};
use crate::app::App;
use crate::db::backends::{LiveBackend, has_ended};
use crate::db::drones::DroneRef;
use crate::drone::{Failure, GRANT_DEADLINE};
use crate::error::{ApiError, ApiResult};

/// What a caller is told to wait where too many grants wait for their drones.
const BUSY_RETRY_MS: u64 = 2000;
/// Between two attempts at a backend whose `PUT` is still on its way.
const NOT_YET_WAIT: Duration = Duration::from_millis(8);

pub async fn join(app: &App, wanted: &Wanted, live: LiveBackend, deadline: Instant) -> ApiResult<Round> {
    if wanted.key.as_ref().is_some_and(|key| key.tag != live.tag) {
        return Err(
            ApiError::new(Code::KeyHeld, "the key is held by a backend with another tag").about(&live.id)
        );
    }
    if live.status.is_ending() || live.stop_requested || live.is_released {
        return until_ended(app, &live, deadline).await;
    }
    let grant = if live.use_static_token {
        check_static(wanted)?;
        static_grant()
    } else {
        grant(wanted)
    };
    let (status, drone_answered) = match offer(app, &live, &grant).await {
        Offered::Taken(status) if status.is_ending() => return until_ended(app, &live, deadline).await,
        Offered::Taken(status) => (status.max(live.status), true),
        Offered::Gone => return until_ended(app, &live, deadline).await,
        Offered::Unknown if live.acknowledged => {
            // The drone had it and has it no more: the inventory's comparison finds out, and frees the key.
            app.inventory_nudge.notify_one();
            return until_ended(app, &live, deadline).await.map_err(|_| unhealthy(&live));
        }
        Offered::Refused(message) => {
            tracing::warn!(backend = %live.id, drone = %live.drone.name, message, "a grant was refused");
            return Err(unhealthy(&live));
        }
        Offered::Unknown | Offered::NotYet => {
            if !deliver_later(app, &live, &grant) {
                return Err(ApiError::new(Code::Busy, "too many grants wait for drones that do not answer")
                    .retry_after_ms(BUSY_RETRY_MS)
                    .about(&live.id));
            }
            (live.status, false)
        }
    };
    Ok(Round::Done(Box::new(Connected {
        id: live.id,
        fencing_token: live.fencing_token,
        spawned: false,
        status,
        cluster: live.cluster,
        subdomain: live.subdomain,
        drone: live.drone,
        grant,
        drone_answered,
    })))
}

fn unhealthy(live: &LiveBackend) -> ApiError {
    ApiError::new(
        Code::KeyUnhealthy,
        format!("the key's backend {} is on the drone {}, which does not have it", live.id, live.drone.name),
    )
    .retry_after_ms(1000)
    .about(&live.id)
}

pub(super) enum Offered {
    Taken(Status),
    /// A tombstone: the event of its end is on its way to Postgres.
    Gone,
    /// Not there: its `PUT` has not arrived, or the drone has lost it.
    Unknown,
    Refused(String),
    /// No answer in time, or none that says anything about the grant.
    NotYet,
}

/// One exchange, repeated only within its deadline and only where the `PUT` is still on its way.
async fn offer(app: &App, live: &LiveBackend, grant: &Grant) -> Offered {
    let deadline = Instant::now() + GRANT_DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match offer_once(app, &live.drone, &live.id, live.fencing_token, grant, left).await {
            Offered::Unknown if !live.acknowledged && Instant::now() + NOT_YET_WAIT < deadline => {
                tokio::time::sleep(NOT_YET_WAIT).await;
            }
            offered => return offered,
        }
    }
}

pub(super) async fn offer_once(
    app: &App,
    drone: &DroneRef,
    id: &BackendId,
    fencing_token: FencingToken,
    grant: &Grant,
    deadline: Duration,
) -> Offered {
    let body = AddGrant { term: drone.term, fencing_token, grant: grant.clone() };
    match app.drones.grant(drone, id, &body, deadline).await {
        Ok(reply) => Offered::Taken(reply.status),
        Err(error) => match Failure::from(error) {
            Failure::Refused(RefusalCode::Ended, _) => Offered::Gone,
            Failure::Refused(RefusalCode::Unknown, _) => Offered::Unknown,
            // The drone has registered anew, or is about to: its next term is known in a moment.
            Failure::Refused(RefusalCode::WrongTerm | RefusalCode::Unavailable, _) => Offered::NotYet,
            Failure::Refused(_, message) => Offered::Refused(message),
            Failure::NotSent(_) | Failure::Unclear(_) => Offered::NotYet,
        },
    }
}

/// Waits until the row has ended; then the connect looks again.
async fn until_ended(app: &App, live: &LiveBackend, deadline: Instant) -> ApiResult<Round> {
    let drone = (!live.is_released).then_some(&live.drone);
    let ended = wait::until_row_ended(app, drone, &live.id, deadline).await?;
    if ended { Ok(Round::Again) } else { Err(super::stopping().about(&live.id)) }
}

/// Used by [`wait`]: whether Postgres has the end.
pub(super) async fn row_has_ended(app: &App, id: &BackendId) -> ApiResult<bool> {
    let mut connection = app.db.acquire().await?;
    Ok(has_ended(&mut connection, id).await?)
}
