//! `GET /ctrl/c/{cluster}/state`: the drones and proxies of a cluster, in Plane's shape. An unknown cluster is empty.

use axum::Json;
use axum::extract::State;
use jetway_protocol::error::Code;
use jetway_protocol::ids::ClusterName;
use serde_json::{Value, json};

use super::extract::ApiPath;
use crate::app::App;
use crate::connect::place::HEARTBEAT_AGE_MAX;
use crate::db::{drones, proxies};
use crate::error::{ApiError, ApiResult};

/// Proxies that are shown, at most.
const PROXIES_MAX: i64 = 1000;

pub async fn cluster_state(
    State(app): State<App>,
    ApiPath(cluster): ApiPath<String>,
) -> ApiResult<Json<Value>> {
    let cluster: ClusterName =
        cluster.parse().map_err(|error| ApiError::new(Code::InvalidCluster, format!("{error}")))?;
    let mut connection = app.db.acquire().await?;
    let drones = drones::all(&mut connection).await?;
    let proxies = proxies::of_cluster(&mut connection, &cluster, PROXIES_MAX).await?;
    drop(connection);

    let mut drones: Vec<_> = drones.into_iter().filter(|drone| drone.cluster == cluster).collect();
    drones.sort_by(|a, b| a.name.cmp(&b.name));
    let drones: Vec<Value> = drones
        .iter()
        .map(|drone| {
            json!({
                "ready": drone.heartbeat_age <= HEARTBEAT_AGE_MAX && drone.load.engine_ok,
                "draining": drone.draining,
                "last_heartbeat_age": drone.heartbeat_age.as_secs(),
                "backend_count": drone.load.backends,
                "node": node(&json!({ "Drone": drone.name }), &drone.version),
            })
        })
        .collect();
    let proxies: Vec<Value> =
        proxies.iter().map(|proxy| node(&json!({ "Proxy": proxy.name }), &proxy.version)).collect();
    Ok(Json(json!({ "drones": drones, "proxies": proxies })))
}

/// Plane's node. Ours hang on no particular controller; the one that answers stands for it.
fn node(name: &Value, version: &str) -> Value {
    json!({
        "name": name,
        "plane_version": version,
        "plane_hash": option_env!("JETWAY_GIT_HASH").unwrap_or("unknown"),
        "controller": "jetway",
        "controller_heartbeat_age": 0,
    })
}
