//! The same start without Jetway: create, start, ask until it answers; same limits, a network of its own, a fixed
//! address.

use std::collections::HashMap;
use std::time::Instant;

use anyhow::Context;
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, Ipam, IpamConfig,
    NetworkCreateRequest, NetworkingConfig,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};

const NETWORK: &str = "jetway-figures";
const ADDRESS: &str = "10.253.77.2";

/// Milliseconds from the create call to the first byte.
pub async fn first_byte(docker: &Docker, image: &str) -> anyhow::Result<f64> {
    network(docker).await?;
    let name = format!("jetway-figures-{}", uuid::Uuid::new_v4().simple());
    let start = Instant::now();
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    docker.create_container(Some(options), body(image)).await?;
    docker.start_container(&name, None).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("http://{ADDRESS}:8080/");
    while client.get(&url).send().await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let length = start.elapsed().as_secs_f64() * 1e3;
    let options = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&name, Some(options)).await.context("remove")?;
    docker.remove_network(NETWORK).await.context("remove the network")?;
    Ok(length)
}

async fn network(docker: &Docker) -> anyhow::Result<()> {
    let options = HashMap::from([("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned())]);
    let config = IpamConfig { subnet: Some("10.253.77.0/24".to_owned()), ..IpamConfig::default() };
    let request = NetworkCreateRequest {
        name: NETWORK.to_owned(),
        driver: Some("bridge".to_owned()),
        options: Some(options),
        ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(request).await?;
    Ok(())
}

fn body(image: &str) -> ContainerCreateBody {
    let memory = Some(512 << 20);
    let endpoint = EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(ADDRESS.to_owned()),
            ..EndpointIpamConfig::default()
        }),
        ..EndpointSettings::default()
    };
    ContainerCreateBody {
        image: Some(image.to_owned()),
        env: Some(vec!["PORT=8080".to_owned()]),
        host_config: Some(HostConfig {
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            pids_limit: Some(512),
            memory,
            memory_swap: memory,
            // Two read-only binds, as a session's container has.
            binds: Some(vec!["/usr/share:/.jetway/bin:ro".to_owned(), "/usr/lib:/.jetway/run:ro".to_owned()]),
            network_mode: Some(NETWORK.to_owned()),
            ..HostConfig::default()
        }),
        networking_config: Some(NetworkingConfig {
            endpoints_config: Some(HashMap::from([(NETWORK.to_owned(), endpoint)])),
        }),
        ..ContainerCreateBody::default()
    }
}
