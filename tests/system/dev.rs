//! `jetway dev` as a newcomer meets it: one process, the demo in two windows of a real browser, Ctrl-C.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::browser::Browser;
use crate::harness::processes::{Process, executable};
use crate::harness::{Session, engine, eventually};

const SOON: Duration = Duration::from_secs(30);

/// One `jetway dev` in a directory of its own.
struct Dev {
    process: Process,
    directory: PathBuf,
    api: String,
}

impl Dev {
    async fn start(directory: &Path, flags: &[&str]) -> anyhow::Result<Self> {
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

    fn said(&self) -> String {
        std::fs::read_to_string(self.directory.join("dev.log")).unwrap_or_default()
    }

    async fn until_said(&self, words: &str) -> anyhow::Result<()> {
        eventually(&format!("the terminal says {words:?}"), SOON, async || {
            let said = self.said();
            if said.contains(words) { Ok(()) } else { Err(said) }
        })
        .await
    }

    fn drone(&self) -> anyhow::Result<String> {
        let text = std::fs::read_to_string(self.directory.join("data/drone/drone.json"))?;
        let json: Value = serde_json::from_str(&text)?;
        Ok(json["id"].as_str().context("the drone's id")?.to_owned())
    }

    async fn slots(&self) -> anyhow::Result<Vec<String>> {
        engine::slots(&engine::docker().await?, "jetway.drone", &self.drone()?).await
    }

    async fn containers(&self) -> anyhow::Result<Vec<String>> {
        engine::containers(&engine::docker().await?, "jetway.drone", &self.drone()?).await
    }

    /// Ctrl-C, and the proof that nothing is left.
    async fn end(mut self) -> anyhow::Result<()> {
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

fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("jetway-{name}-{}", std::process::id()))
}

fn run(body: impl Future<Output = anyhow::Result<()>>) {
    jetway_service::client::install_crypto();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if let Err(error) = runtime.block_on(body) {
        panic!("{error:#}");
    }
}

#[test]
fn two_windows_of_the_demo_see_each_other_and_the_last_one_ends_the_session() {
    run(async {
        let directory = directory("demo");
        let dev = Dev::start(&directory, &["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0"]).await?;
        let mut browser = Browser::start(&directory).await?;
        let url = format!("{}/demo", dev.api);
        let one = browser.open(&url).await?;
        browser.until(&one, "document.querySelectorAll('#list li').length === 1").await?;
        let two = browser.open(&url).await?;
        for window in [&one, &two] {
            browser.until(window, "document.querySelectorAll('#list li').length === 2").await?;
            browser.until(window, "/\\d+ ms/.test(document.body.innerText)").await?;
        }
        // A stroke in one window arrives in the other.
        let ink = "(() => { const c = document.querySelector('canvas'); const d = c.getContext('2d')\
                   .getImageData(0, 0, c.width, c.height).data; for (let i = 3; i < d.length; i += 4) \
                   if (d[i]) return true; return false; })()";
        browser.until(&two, &format!("!{ink}")).await?;
        // A place where nothing lies over the canvas.
        let free = "(() => { for (let y = 40; y < innerHeight - 40; y += 20) for (let x = 40; x < innerWidth - 120; x += 20) \
                    if ([0, 50, 100].every(d => document.elementFromPoint(x + d, y) === document.querySelector('canvas'))) \
                    return [x, y]; })()";
        let place = browser.evaluate(&one, free).await?;
        let (x, y) = (place[0].as_f64().context("x")?, place[1].as_f64().context("y")?);
        browser.mouse(&one, "mouseMoved", x, y, false).await?;
        browser.mouse(&one, "mousePressed", x, y, true).await?;
        for step in 1..=20 {
            browser.mouse(&one, "mouseMoved", x + 5.0 * f64::from(step), y, true).await?;
        }
        browser.mouse(&one, "mouseReleased", x + 100.0, y, false).await?;
        browser.until(&one, ink).await.context("in the window that draws")?;
        browser.until(&two, ink).await?;
        browser.close(one).await?;
        browser.until(&two, "document.querySelectorAll('#list li').length === 1").await?;
        browser.close(two).await?;
        dev.until_said("its last window was closed").await?;
        eventually("the demo's container goes", SOON, async || {
            let left = dev.slots().await.map_err(|error| error.to_string())?;
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await?;
        browser.end().await?;
        dev.end().await
    });
}

#[test]
fn with_keep_sessions_stay_and_the_next_start_adopts_them() {
    run(async {
        let directory = directory("keep");
        let dev = Dev::start(
            &directory,
            &["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--keep", "--no-demo"],
        )
        .await?;
        let image = engine::test_image(&engine::docker().await?).await?;
        let body = json!({ "key": { "name": "kept" }, "spawn_config": { "executable": { "image": image } } });
        let http = reqwest::Client::new();
        let answer: Value =
            http.post(format!("{}/ctrl/connect", dev.api)).json(&body).send().await?.json().await?;
        let url = answer["url"].as_str().with_context(|| answer.to_string())?.to_owned();
        Session::open(&url).await?.echo("before").await?;
        let proxy = format!("127.0.0.1:{}", url.split([':', '/']).nth(4).context("port")?);
        let api = dev.api.trim_start_matches("http://").to_owned();

        let mut first = dev;
        ensure!(first.process.stop(Signal::SIGINT).await?, "{}", first.said());
        ensure!(first.slots().await?.len() == 1, "the session stays");
        ensure!(!directory.join("data/postgres/postmaster.pid").exists(), "Postgres goes, the session stays");
        let second = Dev::start(&directory, &["--api", &api, "--proxy", &proxy, "--no-demo"]).await?;
        let again: Value =
            http.post(format!("{}/ctrl/connect", second.api)).json(&body).send().await?.json().await?;
        ensure!(again["spawned"] == false && again["backend_id"] == answer["backend_id"], "{again}");
        let mut session = Session::open(&url).await.context("the old URL")?;
        session.echo("the same process").await?;
        second.end().await
    });
}

#[test]
fn a_kill_of_jetway_dev_is_healed_by_the_next_start() {
    run(async {
        let directory = directory("killed");
        let flags = ["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--no-demo"];
        let mut first = Dev::start(&directory, &flags).await?;
        first.process.stop(Signal::SIGKILL).await?;
        // Its Postgres lives on, and is taken over.
        ensure!(directory.join("data/postgres/postmaster.pid").exists());
        let second = Dev::start(&directory, &flags).await?;
        second.end().await
    });
}
