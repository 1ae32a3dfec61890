//! A Docker engine a drone: containerd and dockerd of its own, on the drone's host, with data, sockets and cgroup of their
//! own. The machine's engine is left alone.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use bollard::Docker;

use crate::harness::engine::image_of;
use crate::harness::eventually;
use crate::harness::processes::executable;
use crate::parts::{on_host, spawn};
use crate::places::{CGROUP, Part, engine_socket};

const ANSWER_SECONDS: u64 = 5;
const FIRST_ANSWER: Duration = Duration::from_secs(60);
/// The engine whose containers outlive their daemon.
pub const LIVE_RESTORE: u8 = 1;

fn containerd_socket(number: u8) -> std::path::PathBuf {
    Part::Engine(number).directory().join("c.sock")
}

/// containerd stays up through every fault, as it does where it is a service of its own.
pub async fn make(number: u8) -> anyhow::Result<Child> {
    let part = Part::Engine(number);
    let directory = part.directory();
    std::fs::write(directory.join("daemon.json"), "{}")?;
    let at = |name: &str| directory.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
         disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
         [grpc]\naddress = \"{}\"\n[debug]\nlevel = \"warn\"\n",
        at("croot"),
        at("cstate"),
        containerd_socket(number).display()
    );
    std::fs::write(directory.join("containerd.toml"), config)?;
    let mut command = on_host(part, "containerd");
    command.args(["--config", &at("containerd.toml")]);
    let child = spawn(part, &mut command)?;
    eventually("containerd has its socket", FIRST_ANSWER, async || {
        std::os::unix::net::UnixStream::connect(containerd_socket(number)).map(drop)
    })
    .await?;
    Ok(child)
}

pub fn start(number: u8) -> anyhow::Result<Child> {
    let part = Part::Engine(number);
    let directory = part.directory();
    let at = |name: &str| directory.join(name).display().to_string();
    let mut command = on_host(part, "dockerd");
    command
        .args(["--config-file", &at("daemon.json"), "--data-root", &at("data"), "--exec-root", &at("exec")])
        .args([
            "--pidfile",
            &at("docker.pid"),
            "--containerd",
            &containerd_socket(number).display().to_string(),
        ])
        .args(["-H", &format!("unix://{}", engine_socket(number).display()), "--bridge", "none"])
        .args(["--cgroup-parent", &format!("/{CGROUP}")])
        .stdin(Stdio::null());
    if number == LIVE_RESTORE {
        command.arg("--live-restore");
    }
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

/// The sessions' image, from nothing but the executable; its name.
pub async fn image(number: u8) -> anyhow::Result<String> {
    let docker = client(number)?.negotiate_version().await?;
    let bytes = std::fs::read(executable("jetway-chaos-app")?)?;
    image_of(&docker, "chaos", &[("app", &bytes)], &[r#"ENTRYPOINT ["/app"]"#, "USER 65534:65534"]).await
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
