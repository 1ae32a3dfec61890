//! Docker without anybody in between: create, start, ask until it answers; with the options that a session's container has,
//! on a network of its own, at a fixed address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HostConfig, Ipam, IpamConfig,
    NetworkCreateRequest, NetworkingConfig,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};

use super::MEMORY_LIMIT_BYTES;
use crate::http::{Connection, request};

const ADDRESS: &str = "10.253.77.2";
const PORT: u16 = 8080;
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(1);

pub struct Bare {
    docker: Docker,
    network: String,
    image: String,
}

impl Bare {
    pub async fn start(docker: &Docker, image: &str) -> anyhow::Result<Self> {
        let network = format!("jetway-bench-{}", std::process::id());
        let icc = ("com.docker.network.bridge.enable_icc".to_owned(), "false".to_owned());
        let config = IpamConfig { subnet: Some("10.253.77.0/24".to_owned()), ..IpamConfig::default() };
        let request = NetworkCreateRequest {
            name: network.clone(),
            driver: Some("bridge".to_owned()),
            options: Some(HashMap::from([icc])),
            ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
            ..NetworkCreateRequest::default()
        };
        docker.create_network(request).await.context("a network for bare containers")?;
        Ok(Self { docker: docker.clone(), network, image: image.to_owned() })
    }

    pub async fn end(self) -> anyhow::Result<()> {
        self.docker.remove_network(&self.network).await.context("remove the network")
    }

    /// From the create call to the first byte.
    pub async fn first_byte(&self) -> anyhow::Result<Duration> {
        let name = format!("jetway-bench-{}", uuid::Uuid::new_v4().simple());
        let begin = Instant::now();
        let answered = self.answered(&name, begin).await;
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(&name, Some(options)).await.context("remove")?;
        answered
    }

    async fn answered(&self, name: &str, begin: Instant) -> anyhow::Result<Duration> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker.create_container(Some(options), self.body()).await.context("create")?;
        self.docker.start_container(name, None).await.context("start")?;
        let address = SocketAddr::new(ADDRESS.parse()?, PORT);
        let mut connection = loop {
            match Connection::open(address).await {
                Ok(connection) => break connection,
                Err(error) => ensure!(begin.elapsed() < ANSWER_MAX, "no answer: {error:#}"),
            }
            tokio::time::sleep(RETRY).await;
        };
        ensure!(connection.send(&request("GET", ADDRESS, "/", "")).await?.status == 200);
        Ok(begin.elapsed())
    }

    fn body(&self) -> ContainerCreateBody {
        let memory = Some(MEMORY_LIMIT_BYTES);
        let endpoint = EndpointSettings {
            ipam_config: Some(EndpointIpamConfig {
                ipv4_address: Some(ADDRESS.to_owned()),
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        };
        ContainerCreateBody {
            image: Some(self.image.clone()),
            env: Some(vec![format!("PORT={PORT}")]),
            host_config: Some(HostConfig {
                cap_drop: Some(vec!["ALL".to_owned()]),
                security_opt: Some(vec!["no-new-privileges".to_owned()]),
                pids_limit: Some(512),
                memory,
                memory_swap: memory,
                // Two read-only binds, as a session's container has.
                binds: Some(vec!["/usr/share:/.jetway/bin:ro".into(), "/usr/lib:/.jetway/run:ro".into()]),
                network_mode: Some(self.network.clone()),
                ..HostConfig::default()
            }),
            networking_config: Some(NetworkingConfig {
                endpoints_config: Some(HashMap::from([(self.network.clone(), endpoint)])),
            }),
            ..ContainerCreateBody::default()
        }
    }
}
