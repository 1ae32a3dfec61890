//! `GET /internal/drones/{id}`: where a drone is reached now, for a proxy that holds a token with an old address.

use axum::Json;
use axum::extract::State;
use jetway_protocol::controller_api::DroneAddress;
use jetway_protocol::error::Code;
use jetway_protocol::ids::DroneId;

use super::message::No;
use crate::app::App;
use crate::db::drones;
use crate::error::ApiError;
use crate::http::extract::ApiPath;

pub async fn address(
    State(app): State<App>,
    ApiPath(id): ApiPath<DroneId>,
) -> Result<Json<DroneAddress>, No> {
    let mut connection = app.pools.requests.acquire().await?;
    let found = drones::address(&mut connection, id).await?;
    let (drone, last_heartbeat) =
        found.ok_or_else(|| ApiError::new(Code::DroneNotFound, format!("there is no drone {id}")))?;
    Ok(Json(DroneAddress { drone: id, advertise: drone.advertise, last_heartbeat }))
}
