//! A whole `jetway dev`, in a directory of its own, and the proof that nothing is left of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use jetway_testkit::eventually::SOON;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::processes::{Process, executable};
use super::{engine, eventually};

/// One `jetway dev` in a directory of its own.
pub struct Dev {
    pub process: Process,
    pub directory: PathBuf,
    pub api: String,
}

impl Dev {
    pub async fn start(directory: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let log = directory.join("dev.log");
        let before = std::fs::read_to_string(&log).unwrap_or_default().len();
        let mut command = Command::new(executable("jetway")?);
        command.arg("dev").arg("--data-dir").arg(directory.join("data")).args(flags);
        let mut process = Process::start(&log, &mut command)?;
        let said = eventually("jetway dev is ready", SOON, async || {
            let text = std::fs::read_to_string(&log).map_err(|error| error.to_string())?.split_off(before);
            if text.contains("jetway is ready") { Ok(text) } else { Err(text) }
        })
        .await;
        ensure!(process.is_running() || said.is_ok(), "{}", std::fs::read_to_string(&log)?);
        let said = said?;
        let api =
            said.split_whitespace().find(|word| word.ends_with("/ctrl/connect")).context("the API's URL")?;
        let api = api.trim_end_matches("/ctrl/connect").to_owned();
        Ok(Self { process, directory: directory.to_owned(), api })
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(self.directory.join("dev.log")).unwrap_or_default()
    }

    pub async fn until_said(&self, words: &str) -> anyhow::Result<()> {
        eventually(&format!("the terminal says {words:?}"), SOON, async || {
            let said = self.said();
            if said.contains(words) { Ok(()) } else { Err(said) }
        })
        .await
    }

    /// Asks for a session; fails with what was answered instead of its URL.
    pub async fn connect(&self, body: &Value) -> anyhow::Result<Value> {
        let url = format!("{}/ctrl/connect", self.api);
        let answer: Value = reqwest::Client::new().post(url).json(body).send().await?.json().await?;
        ensure!(answer["url"].is_string(), "{answer}");
        Ok(answer)
    }

    pub fn drone(&self) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(self.directory.join("data/drone/drone.json"))?;
        let json: Value = serde_json::from_str(&text)?;
        Ok(json["id"].as_str().context("the drone's id")?.to_owned())
    }

    pub async fn slots(&self) -> anyhow::Result<Vec<String>> {
        engine::slots(&engine::docker().await?, "jetway.drone", &self.drone()?).await
    }

    pub async fn containers(&self) -> anyhow::Result<Vec<String>> {
        engine::containers(&engine::docker().await?, "jetway.drone", &self.drone()?).await
    }

    /// Ctrl-C, and the proof that nothing is left.
    pub async fn end(mut self) -> anyhow::Result<()> {
        let clean = self.process.stop(Signal::SIGINT).await?;
        ensure!(clean, "jetway dev did not exit 0:\n{}", self.said());
        ensure!(self.containers().await?.is_empty(), "containers are left");
        let networks = engine::networks(&engine::docker().await?, "jetway.drone", &self.drone()?).await?;
        ensure!(networks.is_empty(), "networks are left: {networks:?}");
        ensure!(!self.directory.join("data/postgres/postmaster.pid").exists(), "Postgres still runs");
        ensure!(!self.said().contains("panicked at"), "{}", self.said());
        std::fs::remove_dir_all(&self.directory)?;
        Ok(())
    }
}

/// After a failure: whatever still runs of it is taken away, so that other tests are judged by themselves.
impl Drop for Dev {
    fn drop(&mut self) {
        let _killed = self.process.signal(Signal::SIGKILL);
        let postmaster =
            std::fs::read_to_string(self.directory.join("data/postgres/postmaster.pid")).unwrap_or_default();
        if !std::thread::panicking() && postmaster.is_empty() {
            return;
        }
        if let Some(pid) = postmaster.lines().next().and_then(|pid| pid.parse().ok()) {
            let _killed = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGQUIT);
        }
        let Ok(drone) = self.drone() else { return };
        let cleaned = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime
                .block_on(async { engine::take_away(&engine::docker().await?, "jetway.drone", &drone).await })
        });
        let _joined = cleaned.join();
    }
}

pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("jetway-{name}-{}", std::process::id()))
}

pub fn run(body: impl Future<Output = anyhow::Result<()>>) {
    jetway_service::client::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Err(error) = runtime.block_on(body) {
        panic!("{error:#}");
    }
}
