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
    let mut connection = app.db.acquire().await?;
    match drones::heartbeat(&mut connection, id, &heartbeat).await? {
        Some(draining) => Ok(Json(HeartbeatReply { draining })),
        None => Err(No::stale(StaleCode::Term, "this term is over; register again")),
    }
}
