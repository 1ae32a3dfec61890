//! Plane's published client against our API, unchanged: every method that an application's backend calls.
//!
//! Arguments: the API's URL, an image, the cluster, the drone's name. Exits 0 if the client understood every answer.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use plane_common::names::{BackendName, DroneName};
use plane_common::types::backend_state::BackendStatus;
use plane_common::types::{ClusterName, ConnectRequest, DockerExecutorConfig, KeyConfig, RevokeRequest, SpawnConfig};
use plane_common::{PlaneClient, PlaneClientError};

const SOON: Duration = Duration::from_secs(20);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [api, image, cluster, drone] = &arguments[..] else { bail!("usage: API IMAGE CLUSTER DRONE") };
    let client = PlaneClient::new(api.parse()?);
    let cluster: ClusterName = cluster.parse().map_err(anyhow::Error::msg)?;
    let drone = DroneName::try_from(drone.clone())?;

    client.health_check().await?;
    let status = client.status().await?;
    ensure!(status.status == "ok", "{status:?}");

    let request = request(image);
    let first = client.connect(&request).await?;
    ensure!(first.spawned && first.drone.as_ref() == Some(&drone), "{first:?}");
    let again = client.connect(&request).await?;
    ensure!(!again.spawned && again.backend_id == first.backend_id && again.token != first.token, "{again:?}");
    until(&client, &first.backend_id, BackendStatus::Ready).await?;

    errors(&client, &request).await?;
    // What a drone has comes with its heartbeats.
    let counted = async {
        loop {
            let state = client.cluster_state(&cluster).await?;
            if state.drones.len() == 1 && state.drones[0].ready && state.drones[0].backend_count == 1 {
                return anyhow::Ok(state);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let state = tokio::time::timeout(SOON, counted).await.context("the drone with its session")??;
    ensure!(state.proxies.len() == 1, "{state:?}");

    client.revoke(&RevokeRequest { backend_id: first.backend_id.clone(), user: "ada".to_owned() }).await?;
    stream(&client, &first.backend_id).await?;

    let third = client.connect(&ConnectRequest { key: None, ..request.clone() }).await?;
    ensure!(third.spawned && third.backend_id != first.backend_id, "{third:?}");
    client.hard_terminate(&third.backend_id).await?;
    until(&client, &third.backend_id, BackendStatus::Terminated).await?;
    ensure!(client.drain(&cluster, &drone).await?.updated);
    ensure!(!client.drain(&cluster, &drone).await?.updated, "draining twice changes nothing");
    match client.connect(&request).await {
        Err(PlaneClientError::PlaneError(error, status)) => ensure!(status == 503, "{error:?}"),
        other => bail!("a drained drone took a session: {other:?}"),
    }
    println!("plane-common understood every answer");
    Ok(())
}

fn request(image: &str) -> ConnectRequest {
    let executable = DockerExecutorConfig::from_image_with_defaults(image);
    ConnectRequest {
        key: Some(KeyConfig { name: "plane".to_owned(), ..KeyConfig::default() }),
        spawn_config: Some(SpawnConfig {
            id: None,
            cluster: None,
            pool: Default::default(),
            executable: serde_json::to_value(executable).unwrap_or_default(),
            lifetime_limit_seconds: None,
            max_idle_seconds: None,
            use_static_token: false,
            subdomain: None,
        }),
        user: Some("ada".to_owned()),
        auth: Default::default(),
    }
}

async fn errors(client: &PlaneClient, request: &ConnectRequest) -> anyhow::Result<()> {
    let mut tagged = request.clone();
    tagged.key.as_mut().context("key")?.tag = "another".to_owned();
    match client.connect(&tagged).await {
        Err(PlaneClientError::PlaneError(error, status)) => {
            ensure!(status == 409 && format!("{error:?}").contains("KeyHeld"), "{error:?}");
        }
        other => bail!("a held key was given: {other:?}"),
    }
    let unknown = BackendName::try_from("nowhere".to_owned())?;
    match client.backend_status(&unknown).await {
        Err(PlaneClientError::PlaneError(error, status)) => {
            ensure!(status == 404 && format!("{error:?}").contains("NotFound"), "{error:?}");
        }
        other => bail!("an unknown backend has a status: {other:?}"),
    }
    Ok(())
}

/// Reads the stream from the start, stops the backend, and reads on to the end.
async fn stream(client: &PlaneClient, backend: &BackendName) -> anyhow::Result<()> {
    let mut stream = client.backend_status_stream(backend).await?;
    client.soft_terminate(backend).await?;
    let mut seen = Vec::new();
    while seen.last() != Some(&BackendStatus::Terminated) {
        let entry = tokio::time::timeout(SOON, stream.next()).await?.context("the stream ended early")?;
        seen.push(entry.status);
    }
    ensure!(seen.first() == Some(&BackendStatus::Scheduled), "{seen:?}");
    ensure!(seen.contains(&BackendStatus::Ready) && seen.contains(&BackendStatus::Terminating), "{seen:?}");
    Ok(())
}

async fn until(client: &PlaneClient, backend: &BackendName, status: BackendStatus) -> anyhow::Result<()> {
    let poll = async {
        while client.backend_status(backend).await?.status != status {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(SOON, poll).await.with_context(|| format!("{backend} did not become {status:?}"))?
}
