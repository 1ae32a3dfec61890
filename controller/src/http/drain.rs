//! `POST /ctrl/c/{cluster}/d/{drone}/drain` and `undrain`: whether a drone is given anything new. What runs goes on, for as long as
//! it likes or until a deadline.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::drones::{DrainRequest, Updated};
use jetway_api::object::Object;
use jetway_api::refusal::number;
use jetway_protocol::error::Code;
use jetway_protocol::ids::{ClusterName, DroneName};

use super::extract::{ApiPath, PUBLIC_BODY_BYTES_MAX, parse_json, read_body};
use crate::app::App;
use crate::db::drones;
use crate::error::{ApiError, ApiResult, shown};

/// A week.
const DEADLINE_SECONDS_MAX: i64 = 604_800;

type ClusterAndDrone = ApiPath<(String, String)>;

/// Give a drone nothing new. What runs goes on, or until a deadline.
#[utoipa::path(
    post, path = "/c/{cluster}/d/{drone}/drain", tag = "operating",
    params(
        ("cluster" = String, Path, description = "The drone's cluster"),
        ("drone" = String, Path, description = "The drone's name"),
    ),
    request_body = Option<DrainRequest>,
    responses(
        (status = 200, description = "Whether that is new", body = Updated),
        (status = 400, description = "`invalid_json`; `invalid_cluster`", body = ErrorBody),
        (status = 404, description = "`drone_not_found`: the cluster has no drone of this name", body = ErrorBody),
    ),
)]
pub async fn drain(
    State(app): State<App>,
    ApiPath(path): ClusterAndDrone,
    body: Body,
) -> ApiResult<Json<Updated>> {
    let body = read_body(body, PUBLIC_BODY_BYTES_MAX).await?;
    // Plane's clients send nothing, or null.
    let request = match body.trim_ascii() {
        b"" | b"null" => DrainRequest::default(),
        object => parse_json::<Object<DrainRequest>>(object)?.0,
    };
    let deadline = number("deadline_seconds", request.deadline_seconds, 0, DEADLINE_SECONDS_MAX)?;
    set(app, path, true, deadline.map(|seconds| Duration::from_secs(seconds.unsigned_abs()))).await
}

/// Give a drone new sessions again.
#[utoipa::path(
    post, path = "/c/{cluster}/d/{drone}/undrain", tag = "operating",
    params(
        ("cluster" = String, Path, description = "The drone's cluster"),
        ("drone" = String, Path, description = "The drone's name"),
    ),
    responses(
        (status = 200, description = "Whether that is new", body = Updated),
        (status = 400, description = "`invalid_cluster`", body = ErrorBody),
        (status = 404, description = "`drone_not_found`: the cluster has no drone of this name", body = ErrorBody),
    ),
)]
pub async fn undrain(State(app): State<App>, ApiPath(path): ClusterAndDrone) -> ApiResult<Json<Updated>> {
    set(app, path, false, None).await
}

async fn set(
    app: App,
    (cluster, name): (String, String),
    draining: bool,
    deadline: Option<Duration>,
) -> ApiResult<Json<Updated>> {
    let cluster: ClusterName =
        cluster.parse().map_err(|error| ApiError::new(Code::InvalidCluster, format!("{error}")))?;
    let unknown =
        || ApiError::new(Code::DroneNotFound, format!("the cluster {cluster} has no drone {}", shown(&name)));
    let drone: DroneName = name.parse().map_err(|_| unknown())?;
    let mut connection = app.pools.requests.acquire().await?;
    let found = drones::set_draining(&mut connection, &cluster, &drone, draining, deadline).await?;
    drop(connection);
    let (drone, updated) = found.ok_or_else(unknown)?;
    let task = app.lifecycle.spawn({
        let app = app.clone();
        async move {
            app.fleet.refresh(&app.pools.housekeeping).await?;
            // Where the drone does not hear it, the answer to its next heartbeat says it again.
            if let Err(error) = app.drones.draining(&drone, draining).await {
                tracing::info!(drone = %drone.name, %error, "a drone will learn of its draining by heartbeat");
            }
            Ok::<_, ApiError>(())
        }
    });
    let _told_or_told_later = task.await;
    Ok(Json(Updated { updated }))
}

#[cfg(test)]
mod tests {
    use crate::testing::{Harness, keyed, request};

    #[tokio::test]
    async fn a_draining_drone_gets_nothing_new_until_it_is_undrained() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let set = async |verb: &str| {
            harness
                .send(request("POST", &format!("/ctrl/c/localhost:9090/d/one/{verb}"), "null"))
                .await
                .text()
        };
        assert_eq!(set("drain").await, r#"{"updated":true}"#);
        assert_eq!(set("drain").await, r#"{"updated":false}"#);
        assert_eq!(drone.draining(), Some(true));
        let state = harness.get("/ctrl/c/localhost:9090/state").await.json();
        assert_eq!(
            (&state["drones"][0]["draining"], &state["drones"][0]["node"]["name"]["Drone"]),
            (&true.into(), &"one".into())
        );
        assert_eq!(harness.connect(&keyed("k")).await.outcome(), (503, "no_drone".into()));
        assert_eq!(set("undrain").await, r#"{"updated":true}"#);
        assert_eq!(harness.connect(&keyed("k")).await.status, 200);
        for (path, outcome) in [
            ("/ctrl/c/localhost:9090/d/two/drain", (404, "drone_not_found")),
            ("/ctrl/c/other:1/d/one/drain", (404, "drone_not_found")),
            ("/ctrl/c/a_b/d/one/drain", (400, "invalid_cluster")),
        ] {
            let answer = harness.send(request("POST", path, "")).await;
            assert_eq!(answer.outcome(), (outcome.0, outcome.1.to_owned()), "{path}");
        }
        assert_eq!(harness.get("/ctrl/c/other:1/state").await.text(), r#"{"drones":[],"proxies":[]}"#);
        assert_eq!(harness.get("/ctrl/c/a_b/state").await.outcome(), (400, "invalid_cluster".into()));
    }

    #[tokio::test]
    async fn what_is_left_at_the_deadline_of_a_drain_is_stopped_and_its_clients_come_back() {
        let harness = Harness::new().await;
        let drone = harness.drone("one").await;
        let id = harness.connect(&keyed("k")).await.json()["backend_id"].as_str().unwrap().to_owned();
        harness.report(&drone).await;
        let drain = async |verb: &str, body: &str| {
            harness.send(request("POST", &format!("/ctrl/c/localhost:9090/d/one/{verb}"), body)).await
        };
        let stops = async || {
            crate::tasks::stops_now(&harness.app).await;
            drone.calls(&format!("STOP {id} Soft leave"))
        };
        for (body, outcome) in [
            ("{", (400, "invalid_json")),
            ("[60]", (422, "invalid_request")),
            (r#"{"deadline":60}"#, (422, "invalid_request")),
            (r#"{"deadline_seconds":-1}"#, (422, "invalid_request")),
            (r#"{"deadline_seconds":604801}"#, (422, "invalid_request")),
        ] {
            let answer = drain("drain", body).await;
            assert_eq!(answer.outcome(), (outcome.0, outcome.1.to_owned()), "{body}: {}", answer.text());
        }
        assert_eq!(drone.draining(), None, "bad input changes nothing");

        assert_eq!(drain("drain", r#"{"deadline_seconds":600}"#).await.text(), r#"{"updated":true}"#);
        assert_eq!(stops().await, 0, "it is not yet time");
        let left = harness.get("/ctrl/drones").await.json()["drones"][0]["drain_seconds_left"].clone();
        assert!((590.0..=600.0).contains(&left.as_f64().unwrap()), "{left}");
        for word in ["", "null", "{}"] {
            drain("drain", word).await;
            let left = harness.get("/ctrl/drones").await.json()["drones"][0]["drain_seconds_left"].clone();
            assert!(left.is_null(), "{word:?}: for as long as it likes: {left}");
        }
        drain("drain", r#"{"deadline_seconds":0}"#).await;
        drain("undrain", "").await;
        assert_eq!(stops().await, 0, "it was taken back");
        drain("drain", r#"{"deadline_seconds":0}"#).await;
        assert_eq!(stops().await, 1);
        assert_eq!(drone.calls(&format!("STOP {id}")), 1);
        harness.report(&drone).await;
        assert_eq!(stops().await, 1, "it stops already");
    }
}
