//! Where an engine of a test's own keeps everything, and how containerd and its daemon are told of
//! it. It shares nothing with the machine's own engine. Not here: in which network the two run, and
//! when.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::eventually;

/// Of containerd or a daemon that was just started.
pub const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// The files of one engine, all in one directory.
#[derive(Debug, Clone)]
pub struct EngineFiles {
    pub directory: PathBuf,
}

impl EngineFiles {
    /// Writes the settings of both. `daemon`: the daemon's, in JSON.
    pub fn make(directory: PathBuf, daemon: &str) -> anyhow::Result<Self> {
        let files = Self { directory };
        std::fs::write(files.at("daemon.json"), daemon)?;
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{}\"\n[debug]\nlevel = \"warn\"\n",
            files.at("croot"),
            files.at("cstate"),
            files.at("c.sock")
        );
        std::fs::write(files.at("containerd.toml"), config)?;
        Ok(files)
    }

    /// Those of an engine that was made before.
    pub fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn at(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// As `DOCKER_HOST` has it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.at("docker.sock"))
    }

    /// The arguments of `containerd`.
    pub fn containerd(&self, command: &mut Command) {
        command.args(["--config", &self.at("containerd.toml")]);
    }

    /// The arguments of `dockerd`; its bridge and firewall are the caller's to choose. With
    /// `live_restore` its containers outlive the daemon.
    pub fn dockerd(&self, command: &mut Command, live_restore: bool) {
        command
            .args(["--config-file", &self.at("daemon.json"), "--data-root", &self.at("data")])
            .args(["--exec-root", &self.at("exec"), "--pidfile", &self.at("docker.pid")])
            .args(["--containerd", &self.at("c.sock"), "-H", &self.host()]);
        if live_restore {
            command.arg("--live-restore");
        }
    }

    pub async fn containerd_listens(&self) -> anyhow::Result<()> {
        let socket = self.at("c.sock");
        let looked = eventually("containerd has its socket", FIRST_ANSWER, async || {
            UnixStream::connect(&socket).map(drop)
        });
        looked.await
    }
}
