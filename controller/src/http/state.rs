//! `GET /ctrl/c/{cluster}/state`: the drones and proxies of a cluster, in Plane's shape. An unknown cluster is empty.

use axum::Json;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::cluster::{ClusterDrone, ClusterState, Node, NodeName};
use jetway_protocol::error::Code;
use jetway_protocol::ids::ClusterName;

use super::extract::ApiPath;
use crate::app::App;
use crate::db::drones::Drone;
use crate::db::{drones, proxies};
use crate::error::{ApiError, ApiResult};
use crate::fleet::HEARTBEAT_AGE_MAX;

/// Proxies that are shown, at most.
const PROXIES_MAX: i64 = 1000;

/// The drones and proxies of a cluster, in Plane's shape. An unknown cluster is empty.
#[utoipa::path(
    get, path = "/c/{cluster}/state", tag = "operating",
    params(("cluster" = String, Path, description = "The cluster's name")),
    responses(
        (status = 200, description = "Its drones and proxies", body = ClusterState),
        (status = 400, description = "`invalid_cluster`", body = ErrorBody),
    ),
)]
pub async fn cluster_state(
    State(app): State<App>,
    ApiPath(cluster): ApiPath<String>,
) -> ApiResult<Json<ClusterState>> {
    let cluster: ClusterName =
        cluster.parse().map_err(|error| ApiError::new(Code::InvalidCluster, format!("{error}")))?;
    let mut connection = app.pools.requests.acquire().await?;
    let drones = drones::all(&mut connection).await?;
    let proxies = proxies::of_cluster(&mut connection, &cluster, PROXIES_MAX).await?;
    drop(connection);

    let mut drones: Vec<_> = drones.into_iter().filter(|drone| drone.cluster == cluster).collect();
    drones.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Json(ClusterState {
        drones: drones.iter().map(shown_drone).collect(),
        proxies: proxies.into_iter().map(|proxy| node(NodeName::Proxy(proxy.name), proxy.version)).collect(),
    }))
}

fn shown_drone(drone: &Drone) -> ClusterDrone {
    ClusterDrone {
        ready: drone.heartbeat_age <= HEARTBEAT_AGE_MAX && drone.load.engine_ok,
        draining: drone.draining,
        last_heartbeat_age: drone.heartbeat_age.as_secs(),
        backend_count: drone.load.backends,
        node: node(NodeName::Drone(drone.name.to_string()), drone.version.clone()),
    }
}

fn node(name: NodeName, version: String) -> Node {
    Node {
        name,
        plane_version: version,
        plane_hash: option_env!("JETWAY_GIT_HASH").unwrap_or("unknown").to_owned(),
        controller: "jetway".to_owned(),
        controller_heartbeat_age: 0,
    }
}
