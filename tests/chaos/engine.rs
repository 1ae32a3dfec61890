//! A Docker engine a drone: containerd and dockerd of its own, on the drone's host, with data, sockets and cgroup of their
//! own. The machine's engine is left alone.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use serde_json::json;

use crate::harness::engine::{EngineFiles, image_of};
use crate::harness::processes::executable;
use crate::parts::{on_host, spawn};
use crate::places::{CGROUP, Part, engine_socket};
use crate::runtime;

const ANSWER_SECONDS: u64 = 5;
/// What the warm pools name: which image it means changes.
pub const TAG: &str = "jetway-test-chaos:now";
/// The engine whose containers outlive their daemon.
pub const LIVE_RESTORE: u8 = 1;

/// containerd stays up through every fault, as it does where it is a service of its own.
pub async fn make(number: u8) -> anyhow::Result<Child> {
    let part = Part::Engine(number);
    let runtimes = json!({ "jcx": { "path": runtime::link(number)? } });
    let config = json!({ "runtimes": runtimes, "default-runtime": "jcx" });
    let files = EngineFiles::make(part.directory(), &config.to_string())?;
    let mut command = on_host(part, "containerd");
    files.containerd(&mut command);
    let child = spawn(part, &mut command)?;
    files.containerd_listens().await?;
    Ok(child)
}

pub fn start(number: u8) -> anyhow::Result<Child> {
    let part = Part::Engine(number);
    let mut command = on_host(part, "dockerd");
    EngineFiles::of(&part.directory()).dockerd(&mut command, number == LIVE_RESTORE);
    command.args(["--bridge", "none"]).args(["--cgroup-parent", &format!("/{CGROUP}")]).stdin(Stdio::null());
    spawn(part, &mut command)
}

pub fn client(number: u8) -> anyhow::Result<Docker> {
    let socket = engine_socket(number).display().to_string();
    Ok(Docker::connect_with_unix(&socket, ANSWER_SECONDS * 4, bollard::API_DEFAULT_VERSION)?)
}

pub async fn answers(number: u8) -> anyhow::Result<()> {
    let ping = async { client(number)?.ping().await.map(drop).map_err(anyhow::Error::from) };
    tokio::time::timeout(Duration::from_secs(ANSWER_SECONDS), ping).await?
}

/// The sessions' images, from nothing but the executable, alike but for their names and ids.
pub async fn images(number: u8) -> anyhow::Result<[String; 2]> {
    let docker = client(number)?.negotiate_version().await?;
    let bytes = std::fs::read(executable("jetway-chaos-app")?)?;
    let changes = [r#"ENTRYPOINT ["/app"]"#, "USER 65534:65534"];
    let one = image_of(&docker, "chaos", &[("app", &bytes)], &changes).await?;
    let changes = [&changes[..], &["LABEL another=1"]].concat();
    let other = image_of(&docker, "chaos", &[("app", &bytes)], &changes).await?;
    tag(number, &one, TAG).await?;
    Ok([one, other])
}

/// From now on the image of another name is meant, too.
pub async fn tag(number: u8, image: &str, name: &str) -> anyhow::Result<()> {
    let (repository, tag) = name.split_once(':').context("a name with a tag")?;
    let options =
        bollard::query_parameters::TagImageOptionsBuilder::default().repo(repository).tag(tag).build();
    Ok(client(number)?.negotiate_version().await?.tag_image(image, Some(options)).await?)
}

/// What an engine still has: containers, and networks that are not Docker's own.
pub async fn has(number: u8) -> anyhow::Result<Vec<String>> {
    let docker = client(number)?.negotiate_version().await?;
    let all = bollard::query_parameters::ListContainersOptionsBuilder::default().all(true).build();
    let containers = docker.list_containers(Some(all)).await?;
    let mut has: Vec<_> = containers
        .into_iter()
        .map(|container| {
            format!(
                "engine{number} container {:?} {:?}",
                container.names.unwrap_or_default(),
                container.state
            )
        })
        .collect();
    let networks = docker.list_networks(None::<bollard::query_parameters::ListNetworksOptions>).await?;
    has.extend(
        networks
            .into_iter()
            .filter_map(|network| network.name)
            .filter(|name| !["bridge", "host", "none"].contains(&name.as_str()))
            .map(|name| format!("engine{number} network {name}")),
    );
    Ok(has)
}

/// Containers by role, in whatever state: slots, sandboxes, others.
pub async fn roles(number: u8) -> anyhow::Result<[usize; 3]> {
    let docker = client(number)?.negotiate_version().await?;
    let all = bollard::query_parameters::ListContainersOptionsBuilder::default().all(true).build();
    let mut roles = [0; 3];
    for container in docker.list_containers(Some(all)).await? {
        let role = container.labels.as_ref().and_then(|labels| labels.get("jetway.role"));
        roles[match role.map(String::as_str) {
            Some("slot") => 0,
            Some("sandbox") => 1,
            _ => 2,
        }] += 1;
    }
    Ok(roles)
}

/// Whether programs that the engines need are there at all.
pub fn programs() -> Vec<&'static str> {
    ["dockerd", "containerd", "nsenter", "ip", "iptables", "nft", "ss", "setpriv"]
        .into_iter()
        .filter(|program| {
            let path = std::env::var("PATH").unwrap_or_default();
            !path.split(':').any(|directory| Path::new(directory).join(program).is_file())
        })
        .collect()
}
