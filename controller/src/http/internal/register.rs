//! `POST /internal/drones/register`: a drone is here, and begins a new term.

use axum::Json;
use axum::extract::State;
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{Register, Registered, StaleCode};

use super::{HEARTBEAT_MS, LEASE_MS, Message, No};
use crate::app::App;
use crate::db::drones::{self, Registration};
use crate::error::ApiError;

/// Bytes of an address; it goes into every token of the drone.
const ADVERTISE_BYTES_MAX: usize = 200;

pub async fn register(
    State(app): State<App>,
    Message(drone): Message<Register>,
) -> Result<Json<Registered>, No> {
    if drone.protocol != PROTOCOL_VERSION {
        let message = format!(
            "the drone speaks version {} of the protocol, this controller {PROTOCOL_VERSION}",
            drone.protocol
        );
        return Err(ApiError::invalid(message).into());
    }
    if drone.advertise.len() > ADVERTISE_BYTES_MAX || drone.advertise.parse::<http::uri::Authority>().is_err()
    {
        return Err(ApiError::invalid("advertise must be host:port").into());
    }
    if drone.installation.is_some_and(|installation| installation != app.installation) {
        return Err(No::stale(
            StaleCode::Installation,
            "the drone belongs to another installation; give it another --data-dir, or this controller its old database",
        ));
    }
    let cluster = drone.cluster.as_ref().unwrap_or(&app.cluster);
    let mut connection = app.internal.acquire().await?;
    let registration = drones::register(&mut connection, &drone, cluster).await?;
    drop(connection);
    match registration {
        Registration::Registered { term, cluster, draining } => {
            tracing::info!(drone = %drone.name, %term, advertise = drone.advertise, "a drone registered");
            // So that the next connect knows of it; else the next refresh does.
            if let Err(error) = app.fleet.refresh(&app.housekeeping).await {
                tracing::debug!(%error, "the table of drones");
            }
            Ok(Json(Registered {
                term,
                installation: app.installation,
                cluster,
                draining,
                heartbeat_ms: HEARTBEAT_MS,
                lease_ms: LEASE_MS,
            }))
        }
        Registration::NameTaken => Err(No::stale(
            StaleCode::NameTaken,
            format!("the name {} belongs to another drone; start this one with another --name", drone.name),
        )),
        Registration::OtherHost => Err(No::stale(
            StaleCode::NameTaken,
            "a drone with the same identity was heard of from another host after this host's boot; was its data directory copied?",
        )),
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{BootId, InstallationId};
    use jetway_protocol::secret::Purpose;
    use serde_json::json;

    use crate::testing::{Harness, registration};

    #[tokio::test]
    async fn each_registration_is_a_higher_term_and_a_name_is_one_drone_s() {
        let harness = Harness::new().await;
        let path = "/internal/drones/register";
        let drone = registration("one", "10.0.0.1:7070");
        let first = harness.internal(path, &json!(drone)).await.json();
        let second = harness.internal(path, &json!(drone)).await.json();
        assert!(second["term"].as_i64() > first["term"].as_i64());
        assert_eq!(second["cluster"], "localhost:9090");
        let other = registration("one", "10.0.0.2:7070");
        assert_eq!(harness.internal(path, &json!(other)).await.outcome(), (409, "name_taken".into()));
        let mut copied = drone.clone();
        (copied.boot_id, copied.uptime_ms) = (BootId::random(), 3_600_000);
        assert_eq!(harness.internal(path, &json!(copied)).await.outcome(), (409, "name_taken".into()));
        copied.uptime_ms = 1000;
        assert_eq!(harness.internal(path, &json!(copied)).await.status, 200, "it was booted just now");
        let mut foreign = drone.clone();
        foreign.installation = Some(InstallationId::random());
        assert_eq!(harness.internal(path, &json!(foreign)).await.outcome(), (409, "installation".into()));

        let address = format!("/internal/drones/{}", drone.drone);
        let found = harness.as_role(Purpose::ProxyToController, "GET", &address, &json!(null)).await;
        assert_eq!(found.json()["advertise"], "10.0.0.1:7070");
        let refused = harness.as_role(Purpose::DroneToController, "GET", &address, &json!(null)).await;
        assert_eq!(refused.status, 401);
    }
}
