//! `POST /internal/drones/register`: a drone is here, and begins a new term.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{Register, Registered, Stale, StaleCode};
use jetway_protocol::lease::Replaces;

use super::message::{Message, No};
use crate::app::App;
use crate::db::registrations::{self, Registration};
use crate::error::ApiError;

/// How often drones are to speak; a short lease asks for more.
const HEARTBEAT: Duration = Duration::from_secs(2);
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
    if drone.installation.is_some_and(|installation| installation != app.identity.installation) {
        return Err(No::stale(
            StaleCode::Installation,
            "the drone belongs to another installation; give it another --data-dir, or this controller its old database",
        ));
    }
    let cluster = drone.cluster.as_ref().unwrap_or(&app.identity.cluster);
    let mut connection = app.pools.internal.acquire().await?;
    // A drone keeps the terms that it was registered with, so they are not changed on the way.
    let lease = app.leases.terms.filter(|_| drone.holds_lease);
    let registration = registrations::register(&mut connection, &drone, cluster, lease).await?;
    drop(connection);
    let (term, draining, booted_anew) = match registration {
        Registration::Registered { term, draining, booted_anew } => (term, draining, booted_anew),
        other => return Err(refused(&drone, &other)),
    };
    tracing::info!(drone = %drone.name, %term, advertise = drone.advertise, booted_anew, "a drone registered");
    if booted_anew {
        app.leases.release_nudge.notify_one();
    }
    // So that the next connect knows of it; else the next refresh does.
    if let Err(error) = app.fleet.refresh(&app.pools.housekeeping).await {
        tracing::debug!(%error, "the table of drones");
    }
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Ok(Json(Registered {
        term,
        installation: app.identity.installation,
        cluster: cluster.clone(),
        draining,
        heartbeat_ms: ms(lease.map_or(HEARTBEAT, |lease| lease.heartbeat(HEARTBEAT))),
        lease_ms: ms(lease.unwrap_or_default().length()),
        lease,
    }))
}

fn refused(drone: &Register, registration: &Registration) -> No {
    let moved = |present: Option<Replaces>| {
        let message = "this does not replace what is there; register again, with what is".to_owned();
        No::Stale(Stale { code: StaleCode::Moved, message, present })
    };
    // What an agent from before the lease can read.
    let in_use = if drone.holds_lease { StaleCode::IdInUse } else { StaleCode::NameTaken };
    match registration {
        Registration::Moved { present } if drone.holds_lease => moved(*present),
        Registration::Registered { .. } | Registration::Moved { .. } => {
            No::stale(StaleCode::Term, "another registration came first; register again")
        }
        Registration::NameTaken => No::stale(
            StaleCode::NameTaken,
            format!(
                "the name {0} belongs to another drone; start this one with another --name, or, if that one's host is gone \
                 for good: jetway forget {0} --confirmed-dead",
                drone.name
            ),
        ),
        Registration::OtherHost => No::stale(
            in_use,
            format!(
                "a drone with the same identity was heard of from another host after this host's boot; was its data directory \
                 copied? Give this one an empty --data-dir; or, if that host is gone for good: jetway forget {} \
                 --confirmed-dead",
                drone.name
            ),
        ),
        Registration::OtherAgent => No::stale(
            in_use,
            "another agent has registered with this drone's identity since; was its data directory copied? Stop one of \
             them, or give it an empty --data-dir",
        ),
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
