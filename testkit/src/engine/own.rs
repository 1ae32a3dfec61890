//! A Docker engine of the test's own: containerd and a daemon that the test may kill, with data, sockets and state of their
//! own. It touches no firewall rule, has no network but what drones make, and leaves the machine's own engine alone.

use std::path::Path;
use std::process::Command;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{EngineFiles, FIRST_ANSWER, docker_at};
use crate::eventually;
use crate::processes::Process;

pub struct OwnEngine {
    files: EngineFiles,
    /// Where a daemon has none of its own it removes `docker0`, the machine's.
    bridge: Bridge,
    live_restore: bool,
    daemon: Option<Process>,
    /// Stays up through everything, as it does where it is a service of its own.
    containerd: Option<Process>,
}

/// For containers that name no network: there are none.
struct Bridge(String);

impl Bridge {
    fn make(name: String) -> anyhow::Result<Self> {
        ip(&["link", "add", &name, "type", "bridge"])?;
        let bridge = Self(name);
        // From the range for tests of network devices (RFC 2544): nobody's here.
        ip(&["addr", "add", "198.18.255.1/24", "dev", &bridge.0])?;
        ip(&["link", "set", &bridge.0, "up"])?;
        Ok(bridge)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "del", &self.0]) {
            eprintln!("{error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("ip").args(arguments).status().context("ip (iproute2) is missing")?;
    anyhow::ensure!(status.success(), "ip {arguments:?}: {status}");
    Ok(())
}

impl OwnEngine {
    /// `live_restore`: its containers outlive its daemon.
    pub async fn start(live_restore: bool) -> anyhow::Result<Self> {
        let id = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let directory = std::env::temp_dir().join(format!("jetway-engine-{id}"));
        let bridge = Bridge::make(format!("jwe-{id}"))?;
        std::fs::create_dir_all(&directory)?;
        let files = EngineFiles::make(directory, "{}")?;
        let mut command = Command::new("containerd");
        files.containerd(&mut command);
        let containerd = Process::start(&files.directory.join("containerd.log"), &mut command)
            .context("containerd is missing (scripts/setup --test)")?;
        let mut engine = Self { files, bridge, live_restore, daemon: None, containerd: Some(containerd) };
        engine.files.containerd_listens().await?;
        engine.start_daemon().await?;
        Ok(engine)
    }

    /// Returns when it answers.
    pub async fn start_daemon(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("dockerd");
        self.files.dockerd(&mut command, self.live_restore);
        // The machine's daemon has its own chains in the firewall; two would take each other's away.
        command.args(["--bridge", &self.bridge.0, "--iptables=false", "--ip-masq=false"]);
        self.daemon = Some(Process::start(&self.files.directory.join("dockerd.log"), &mut command)?);
        eventually("the daemon answers", FIRST_ANSWER, async || {
            let docker = docker_at(Some(&self.host())).await?;
            docker.ping().await.map(drop).map_err(anyhow::Error::from)
        })
        .await
        .map_err(|error| anyhow::anyhow!("{error:#}\n{}", self.log()))
    }

    pub async fn kill_daemon(&mut self) -> anyhow::Result<()> {
        if let Some(daemon) = &mut self.daemon {
            daemon.stop(Signal::SIGKILL).await?;
        }
        Ok(())
    }

    /// As `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        self.files.host()
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.files.directory.join("dockerd.log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// In order, when nothing runs on it any more.
    pub async fn end(mut self) -> anyhow::Result<()> {
        for process in [self.daemon.as_mut(), self.containerd.as_mut()].into_iter().flatten() {
            process.stop(Signal::SIGTERM).await?;
        }
        Ok(())
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        (self.daemon, self.containerd) = (None, None);
        for pid in supervised(&self.files.directory) {
            let _killed = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts: Vec<_> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|at| Path::new(at).starts_with(&self.files.directory))
            .collect();
        for at in mounts.into_iter().rev() {
            let _gone = Command::new("umount").args(["-l", at]).status();
        }
        if let Err(error) = std::fs::remove_dir_all(&self.files.directory) {
            eprintln!("{} is left: {error}", self.files.directory.display());
        }
    }
}

/// Shims that name this engine's directory, and what they have started: only after a test that has failed.
fn supervised(directory: &Path) -> Vec<i32> {
    let of =
        |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let all: Vec<i32> = std::fs::read_dir("/proc")
        .map(|entries| {
            entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
        })
        .unwrap_or_default();
    let named = directory.display().to_string();
    let is_shim = |pid: &i32| {
        let said = of(*pid, "cmdline");
        said.contains("containerd-shim") && said.contains(&named)
    };
    let shims: Vec<i32> = all.iter().copied().filter(is_shim).collect();
    let parent = |pid: i32| -> Option<i32> {
        let status = of(pid, "status");
        status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
    };
    let children =
        all.iter().copied().filter(|pid| parent(*pid).is_some_and(|parent| shims.contains(&parent)));
    children.chain(shims.iter().copied()).collect()
}
