//! `POST /ctrl/c/{cluster}/d/{drone}/drain` and `undrain`: whether a drone is given anything new. What runs goes on.

use axum::Json;
use axum::extract::State;
use jetway_protocol::error::Code;
use jetway_protocol::ids::{ClusterName, DroneName};
use serde::Serialize;

use super::extract::ApiPath;
use crate::app::App;
use crate::db::drones;
use crate::error::{ApiError, ApiResult, shown};

#[derive(Serialize)]
pub struct Updated {
    updated: bool,
}

type ClusterAndDrone = ApiPath<(String, String)>;

pub async fn drain(State(app): State<App>, ApiPath(path): ClusterAndDrone) -> ApiResult<Json<Updated>> {
    set(app, path, true).await
}

pub async fn undrain(State(app): State<App>, ApiPath(path): ClusterAndDrone) -> ApiResult<Json<Updated>> {
    set(app, path, false).await
}

async fn set(app: App, (cluster, name): (String, String), draining: bool) -> ApiResult<Json<Updated>> {
    let cluster: ClusterName =
        cluster.parse().map_err(|error| ApiError::new(Code::InvalidCluster, format!("{error}")))?;
    let unknown =
        || ApiError::new(Code::DroneNotFound, format!("the cluster {cluster} has no drone {}", shown(&name)));
    let drone: DroneName = name.parse().map_err(|_| unknown())?;
    let mut connection = app.db.acquire().await?;
    let found = drones::set_draining(&mut connection, &cluster, &drone, draining).await?;
    drop(connection);
    let (drone, updated) = found.ok_or_else(unknown)?;
    let task = app.lifecycle.spawn({
        let app = app.clone();
        async move {
            app.fleet.refresh(&app.housekeeping).await?;
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
}
