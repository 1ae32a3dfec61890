//! `POST /internal/drones/{id}/heartbeat`: the drone lives, renews its lease, and says what it has.

use axum::Json;
use axum::extract::State;
use jetway_protocol::controller_api::{Heartbeat, HeartbeatReply, StaleCode};
use jetway_protocol::ids::DroneId;

use super::{Message, No};
use crate::app::App;
use crate::db::drones;
use crate::http::extract::ApiPath;

pub async fn heartbeat(
    State(app): State<App>,
    ApiPath(id): ApiPath<DroneId>,
    Message(heartbeat): Message<Heartbeat>,
) -> Result<Json<HeartbeatReply>, No> {
    let mut connection = app.internal.acquire().await?;
    match drones::heartbeat(&mut connection, id, &heartbeat).await? {
        Some(draining) => Ok(Json(HeartbeatReply { draining })),
        None => Err(No::stale(StaleCode::Term, "this term is over; register again")),
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::controller_api::Load;

    use crate::testing::Harness;

    #[tokio::test]
    async fn a_drone_is_heard_while_requests_hold_every_connection_of_theirs() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let pool = &harness.app.db;
        let mut held = Vec::new();
        for _ in 0..pool.options().get_max_connections() {
            held.push(pool.acquire().await.unwrap());
        }
        harness.heartbeat(&drone, Load { engine_ok: true, ..Load::default() }).await;
        harness.report(&drone).await;
    }
}
