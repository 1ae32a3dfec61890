//! Who is measured. Jetway and Plane have the same API, so one [`Site`] calls either; what differs is in their files. `web` has the
//! reverse proxies that the edge stands beside.

pub mod alone;
pub mod docker;
pub mod jetway;
pub mod plane;
pub mod web;

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::sync::Mutex as AsyncMutex;

use crate::harness::eventually;
use crate::harness::options::merge;
use crate::http::{self, Connection, request};

/// Sessions' memory: the same for everybody who is compared.
pub const MEMORY_LIMIT_BYTES: i64 = 512 << 20;
const END_MAX: Duration = Duration::from_secs(60);

/// An installation, as a web app's backend and its browsers see it.
pub struct Site {
    pub api: SocketAddr,
    pub image: String,
    /// What only this one's specs have.
    own: Value,
    /// The backend's connection, open already.
    connection: AsyncMutex<Option<Connection>>,
    /// What was started and not ended yet.
    live: Mutex<Vec<String>>,
    /// Every backend that was ever started.
    started: Mutex<Vec<String>>,
}

#[derive(Debug, Clone)]
pub struct Connected {
    pub backend: String,
    pub url: String,
}

impl Site {
    /// `own` is for every spec of this one.
    pub fn new(api: SocketAddr, image: &str, own: Value) -> Self {
        Self {
            api,
            image: image.to_owned(),
            own,
            connection: AsyncMutex::default(),
            live: Mutex::default(),
            started: Mutex::default(),
        }
    }

    /// A connect for a key whose session has an environment of its own; `spawn` overrides the spec's members.
    pub fn connect_body(&self, key: &str, spawn: &Value) -> Value {
        let limits = json!({ "memory_limit_bytes": MEMORY_LIMIT_BYTES });
        let executable = json!({ "image": self.image, "env": { "SESSION": key }, "resource_limits": limits });
        let mut config = json!({ "executable": executable });
        merge(&mut config, &self.own);
        merge(&mut config, spawn);
        json!({ "key": { "name": key }, "spawn_config": config })
    }

    pub fn connect_bytes(&self, body: &Value) -> Vec<u8> {
        request("POST", &self.api.to_string(), "/ctrl/connect", &body.to_string())
    }

    /// A call over the connection that is open already.
    pub async fn call(&self, method: &str, path: &str, body: &str) -> anyhow::Result<http::Answer> {
        let mut slot = self.connection.lock().await;
        let bytes = request(method, &self.api.to_string(), path, body);
        // The server may have closed one that was idle.
        if let Some(mut connection) = slot.take()
            && let Ok(answer) = connection.send(&bytes).await
        {
            *slot = Some(connection);
            return Ok(answer);
        }
        let mut connection = Connection::open(self.api).await?;
        let answer = connection.send(&bytes).await?;
        *slot = Some(connection);
        Ok(answer)
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.call("GET", path, "").await?;
        ensure!(answer.status == 200, "GET {path}: {}: {}", answer.status, answer.text());
        answer.json()
    }

    pub async fn connect(&self, body: &Value) -> anyhow::Result<Connected> {
        self.read(&self.call("POST", "/ctrl/connect", &body.to_string()).await?)
    }

    fn read(&self, answer: &http::Answer) -> anyhow::Result<Connected> {
        ensure!(answer.status == 200, "connect: {}: {}", answer.status, answer.text());
        let said = answer.json()?;
        let text = |name: &str| said[name].as_str().map(str::to_owned).with_context(|| name.to_owned());
        let connected = Connected { backend: text("backend_id")?, url: text("url")? };
        if said["spawned"] == true {
            self.live.lock().expect("no panic holds it").push(connected.backend.clone());
            self.started.lock().expect("no panic holds it").push(connected.backend.clone());
        }
        Ok(connected)
    }

    /// From the connect to the application's first byte through the proxy, over a browser's new connection. The answer must be
    /// of this key's own session.
    pub async fn first_byte(&self, body: &Value) -> anyhow::Result<(Duration, Connected)> {
        let begin = Instant::now();
        let connected = self.connect(body).await?;
        self.enter(body, &connected).await?;
        Ok((begin.elapsed(), connected))
    }

    /// The same over a connection of its own to the API, for many at once.
    pub async fn first_byte_of_many(&self, body: &Value) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let mut backend = Connection::open(self.api).await?;
        let connected = self.read(&backend.send(&self.connect_bytes(body)).await?)?;
        self.enter(body, &connected).await?;
        Ok(begin.elapsed())
    }

    async fn enter(&self, body: &Value, connected: &Connected) -> anyhow::Result<()> {
        let (host, path) = http::split(&connected.url)?;
        let mut browser = Connection::open(local(host)?).await?;
        let answer = browser.send(&request("GET", host, path, "")).await?;
        let own = body["spawn_config"]["executable"]["env"]["SESSION"].as_str().unwrap_or_default();
        ensure!(answer.status == 200, "first byte: {}: {}", answer.status, answer.text());
        ensure!(answer.text() == own, "{own} was answered as {}", answer.text());
        Ok(())
    }

    /// A WebSocket's tunnel to a session.
    pub async fn tunnel(&self, connected: &Connected) -> anyhow::Result<Connection> {
        let (host, path) = http::split(&connected.url)?;
        let mut browser = Connection::open(local(host)?).await?;
        browser.tunnel(&http::upgrade(host, path)).await?;
        Ok(browser)
    }

    pub fn started(&self) -> Vec<String> {
        self.started.lock().expect("no panic holds it").clone()
    }

    /// Asks for the end of the oldest sessions, so that no more than these live.
    pub async fn keep_newest(&self, count: usize) -> anyhow::Result<()> {
        let surplus: Vec<_> = {
            let mut live = self.live.lock().expect("no panic holds it");
            let surplus = live.len().saturating_sub(count);
            live.drain(..surplus).collect()
        };
        for backend in surplus {
            self.call("POST", &format!("/ctrl/b/{backend}/hard-terminate"), "null").await?;
        }
        Ok(())
    }

    /// Ends all that was started, and waits until it is over.
    pub async fn end_all(&self) -> anyhow::Result<()> {
        let live = std::mem::take(&mut *self.live.lock().expect("no panic holds it"));
        for backend in &live {
            self.call("POST", &format!("/ctrl/b/{backend}/hard-terminate"), "null").await?;
        }
        for backend in &live {
            eventually(&format!("{backend} ends"), END_MAX, async || {
                let said = self.get(&format!("/pub/b/{backend}/status")).await;
                match said {
                    Ok(said) if said["status"] == "terminated" => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            })
            .await?;
        }
        Ok(())
    }
}

/// Clusters are `localhost:port` here.
pub fn local(host: &str) -> anyhow::Result<SocketAddr> {
    let port = host.rsplit_once(':').context("a port")?.1.parse()?;
    Ok(SocketAddr::from(([127, 0, 0, 1], port)))
}
