//! Plane, if it is installed: its controller, drone and proxy as processes, on the same Postgres server and the same engine.
//! It is never stood in for by figures of another day.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use bollard::Docker;
use bollard::models::NetworkCreateRequest;
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{Site, local};
use crate::harness::database;
use crate::harness::eventually;
use crate::harness::processes::{Process, free_port};

pub const HOW_TO_INSTALL: &str =
    "RUSTFLAGS=\"--cfg tracing_unstable\" cargo install plane --version 0.5.5 --locked";
/// Names the executable where it is not on the PATH.
pub const VARIABLE: &str = "JETWAY_BENCH_PLANE";
const START_MAX: Duration = Duration::from_secs(60);
const DOCKER_BRIDGE: &str = "/sys/class/net/docker0";
/// Of each log, for a failure.
const LOG_BYTES_MAX: usize = 4 * 1024;

pub fn executable() -> Option<PathBuf> {
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    let found = std::env::split_paths(&path).chain(home).map(|directory| directory.join("plane"));
    named.into_iter().chain(found).find(|file| file.is_file())
}

pub struct Plane {
    pub site: Site,
    network: Option<String>,
    docker: Docker,
    processes: Vec<Process>,
    directory: PathBuf,
    database: String,
    database_url: String,
}

/// As Plane names a backend's container.
pub fn container(backend: &str) -> String {
    format!("plane-{backend}")
}

/// Docker's own bridge is what Plane uses. Where somebody has taken that away, another one stands in for it.
async fn network(docker: &Docker) -> anyhow::Result<Option<String>> {
    if Path::new(DOCKER_BRIDGE).exists() {
        return Ok(None);
    }
    let name = format!("jetway-bench-plane-{}", std::process::id());
    let driver = Some("bridge".to_owned());
    docker.create_network(NetworkCreateRequest { name: name.clone(), driver, ..Default::default() }).await?;
    Ok(Some(name))
}

impl Plane {
    /// `None`: it is not installed.
    pub async fn start(docker: &Docker, image: &str) -> anyhow::Result<Option<Self>> {
        let Some(program) = executable() else { return Ok(None) };
        let database = format!("p{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let database_url = database::create(&database).await?;
        let directory = std::env::temp_dir().join(format!("jetway-{database}"));
        std::fs::create_dir_all(&directory)?;
        let (api, proxy) = (free_port()?, free_port()?);
        let network = network(docker).await?;
        let own = json!({ "executable": { "network_name": network } });
        let site = Site::new(local(&format!("localhost:{api}"))?, image, own);
        let mut plane = Self {
            site,
            network,
            docker: docker.clone(),
            processes: Vec::new(),
            directory,
            database,
            database_url,
        };
        if let Err(error) = plane.start_roles(&program, api, proxy).await {
            eprintln!("{}", plane.logs());
            plane.leave().await?;
            return Err(error.context("Plane does not start"));
        }
        Ok(Some(plane))
    }

    async fn start_roles(&mut self, program: &PathBuf, api: u16, proxy: u16) -> anyhow::Result<()> {
        let (cluster, controller) = (format!("localhost:{proxy}"), format!("http://127.0.0.1:{api}"));
        let db = self.database_url.clone();
        let (api, proxy) = (api.to_string(), proxy.to_string());
        self.role(program, &["controller", "--db", &db, "--port", &api, "--default-cluster", &cluster])?;
        eventually("Plane's controller answers", START_MAX, async || {
            self.site.get("/ctrl/status").await.map(drop).map_err(|error| error.to_string())
        })
        .await?;
        let with = ["--controller-url", &controller, "--cluster", &cluster];
        let journal = self.directory.join("drone.sqlite").display().to_string();
        self.role(program, &[&["drone", "--db", &journal][..], &with].concat())?;
        self.role(program, &[&["proxy", "--http-port", &proxy][..], &with].concat())?;
        let state = format!("/ctrl/c/{cluster}/state");
        eventually("Plane's drone and proxy are there", START_MAX, async || {
            let said = self.site.get(&state).await.map_err(|error| error.to_string())?;
            let ready = said["drones"][0]["ready"] == true && !said["proxies"][0].is_null();
            if ready { Ok(()) } else { Err(said.to_string()) }
        })
        .await
    }

    fn role(&mut self, program: &PathBuf, arguments: &[&str]) -> anyhow::Result<()> {
        let log = self.directory.join(format!("{}.log", arguments[0]));
        self.processes.push(Process::start(&log, Command::new(program).args(arguments))?);
        Ok(())
    }

    /// The ends of its logs.
    pub fn logs(&self) -> String {
        let tail = |role: &str| {
            let log = std::fs::read(self.directory.join(format!("{role}.log"))).unwrap_or_default();
            let end = &log[log.len().saturating_sub(LOG_BYTES_MAX)..];
            format!("--- Plane's {role} ---\n{}", String::from_utf8_lossy(end))
        };
        ["controller", "drone", "proxy"].map(tail).join("\n")
    }

    /// It was started last.
    pub fn proxy_pid(&self) -> u32 {
        self.processes.last().map_or(0, Process::pid)
    }

    pub async fn end(mut self) -> anyhow::Result<()> {
        let ended = self.site.end_all().await;
        self.leave().await?;
        ended
    }

    /// Whatever there is of it: processes, containers, its database.
    async fn leave(&mut self) -> anyhow::Result<()> {
        for mut process in std::mem::take(&mut self.processes) {
            let _ended = process.stop(Signal::SIGKILL).await;
        }
        for backend in self.site.started() {
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            // Most have gone by themselves.
            let _removed = self.docker.remove_container(&container(&backend), Some(options)).await;
        }
        if let Some(network) = &self.network {
            self.docker.remove_network(network).await.context("Plane's network")?;
        }
        database::drop(&self.database).await?;
        std::fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}
