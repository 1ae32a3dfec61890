//! `POST /internal/drones/{id}/heartbeat`: the drone lives, renews its lease, and says what it has. It is answered with a 2xx
//! only once its renewal is in Postgres; it waits for the next batch, not for a connection.

use axum::Json;
use axum::extract::State;
use jetway_protocol::controller_api::{Heartbeat, HeartbeatReply, StaleCode};
use jetway_protocol::error::Code;
use jetway_protocol::ids::DroneId;
use jetway_protocol::lease::Seat;
use tokio::time::timeout;

use super::message::{ANSWER_MAX, Message, No, RETRY_MS};
use crate::app::App;
use crate::db::leases::Renewal;
use crate::error::ApiError;
use crate::http::extract::ApiPath;
use crate::lease::Answer;

/// Without an answer in time the renewal may be written all the same. A drone that does not get the
/// answer does not count the renewal.
pub async fn heartbeat(
    State(app): State<App>,
    ApiPath(id): ApiPath<DroneId>,
    Message(heartbeat): Message<Heartbeat>,
) -> Result<Json<HeartbeatReply>, No> {
    let Heartbeat { term, renewal, lease, load } = heartbeat;
    let renewal = Renewal { drone: id, seat: Seat { term, renewal }, lease, load };
    let answer = app.leases.renew(renewal).ok_or_else(not_now)?;
    match timeout(ANSWER_MAX, answer).await {
        Ok(Ok(Answer::Renewed { draining })) => Ok(Json(HeartbeatReply { draining })),
        Ok(Ok(Answer::TermOver)) => Err(No::stale(StaleCode::Term, "this term is over; register again")),
        Ok(Ok(Answer::NotNow) | Err(_)) | Err(_) => Err(not_now().into()),
    }
}

fn not_now() -> ApiError {
    ApiError::new(Code::Busy, "the renewal was not written, and counts for nothing; send another")
        .retry_after_ms(RETRY_MS)
}

#[cfg(test)]
mod tests {
    use jetway_protocol::controller_api::Load;

    use crate::testing::Harness;

    #[tokio::test]
    async fn a_drone_is_heard_while_requests_hold_every_connection_of_theirs() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let pool = &harness.app.pools.requests;
        let mut held = Vec::new();
        for _ in 0..pool.limits().connections {
            held.push(pool.acquire().await.unwrap());
        }
        harness.heartbeat(&drone, Load { engine_ok: true, ..Load::default() }).await;
        harness.report(&drone).await;
    }
}
