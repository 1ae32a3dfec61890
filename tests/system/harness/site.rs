//! An application as its users meet it: a whole `jetway dev`, and a browser before it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use super::browser::{Browser, Window};
use super::dev::{Dev, directory};
use super::eventually;

/// From a connect to a process that listens, on a busy machine, and from its signal to its end.
const START_SECONDS: u32 = 120;
const END: Duration = Duration::from_secs(60);
/// As many as `jetway dev` keeps.
const NAMESPACES: usize = 2;
const READY: Duration = Duration::from_secs(30);
/// An interface's IPv6 address is checked for a moment (RFC 4862 §5.4), and that is a change, too.
const SETTLED: Duration = Duration::from_secs(3);
/// For a page, which may be large, and for one try at it.
const SHOWN: Duration = Duration::from_secs(120);
const TRY: Duration = Duration::from_secs(6);
/// Of the windows, and so of their pictures.
const SIZE: (u32, u32) = (900, 560);

pub struct Site {
    pub dev: Dev,
    pub browser: Browser,
    pictures: Option<PathBuf>,
}

impl Site {
    pub async fn start(name: &str) -> anyhow::Result<Self> {
        let directory = directory(name);
        let mounts = directory.join("mounts");
        std::fs::create_dir_all(&mounts)?;
        let mounts = mounts.to_str().context("a path in UTF-8")?.to_owned();
        let flags = ["--api", "127.0.0.1:0", "--proxy", "127.0.0.1:0", "--no-demo", "--mount-base", &mounts];
        let dev = Dev::start(&directory, &flags).await?;
        // Sessions start in namespaces that are there, so that no interface comes while a page is being loaded: see `shown`.
        eventually("namespaces are ready", READY, async || {
            let made = dev.containers().await.map_err(|error| error.to_string())?;
            if made.len() >= NAMESPACES { Ok(()) } else { Err(format!("{made:?}")) }
        })
        .await?;
        tokio::time::sleep(SETTLED).await;
        let browser = Browser::start(&directory).await?;
        let pictures = std::env::var_os("JETWAY_TEST_SCREENSHOTS").map(PathBuf::from);
        Ok(Self { dev, browser, pictures })
    }

    /// A session that is ready: its backend's id and the URL for this caller.
    pub async fn connect(&self, mut request: Value) -> anyhow::Result<(String, String)> {
        request["wait"] = "ready".into();
        request["wait_timeout_seconds"] = START_SECONDS.into();
        request["spawn_config"]["start_timeout_seconds"] = START_SECONDS.into();
        let answer = self.dev.connect(&request).await?;
        let text = |name: &str| answer[name].as_str().map(str::to_owned).with_context(|| answer.to_string());
        anyhow::ensure!(answer["status"] == "ready", "{answer}");
        Ok((text("backend_id")?, text("url")?))
    }

    /// A window of somebody else's than all others.
    pub async fn open(&mut self, url: &str) -> anyhow::Result<Window> {
        let window = self.browser.open_as_another("about:blank").await?;
        self.browser.resize(&window, SIZE.0, SIZE.1).await?;
        self.browser.navigate(&window, url).await?;
        Ok(window)
    }

    /// Waits for a page to show itself. Chromium gives a request up when this machine gets an interface meanwhile, as it does with
    /// each container; then, and only then, the page is loaded again.
    pub async fn shown(&mut self, window: &Window, expression: &str) -> anyhow::Result<()> {
        let (start, mut changes) = (Instant::now(), 0);
        loop {
            match self.browser.until_within(TRY, window, expression).await {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > SHOWN => return Err(error),
                Err(_) if self.browser.network_changes > changes => {
                    changes = self.browser.network_changes;
                    self.browser.reload(window).await?;
                }
                Err(_) => {}
            }
        }
    }

    pub async fn status(&self, backend: &str) -> anyhow::Result<String> {
        let url = format!("{}/pub/b/{backend}/status", self.dev.api);
        let status: Value = reqwest::get(url).await?.json().await?;
        status["status"].as_str().map(str::to_owned).with_context(|| status.to_string())
    }

    pub async fn until_ended(&self, backend: &str) -> anyhow::Result<()> {
        eventually("the session ends", END, async || match self.status(backend).await {
            Ok(status) if status == "terminated" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Leaves a picture of the window where `JETWAY_TEST_SCREENSHOTS` says, if it does.
    pub async fn picture(&mut self, window: &Window, name: &str) -> anyhow::Result<()> {
        let Some(directory) = &self.pictures else { return Ok(()) };
        std::fs::create_dir_all(directory)?;
        let path = directory.join(format!("{name}.png"));
        Ok(std::fs::write(path, self.browser.screenshot(window).await?)?)
    }

    pub async fn end(self) -> anyhow::Result<()> {
        self.browser.end().await?;
        self.dev.end().await
    }
}
