//! Jetway as processes of its own, with pools declared through its API, and what it says of the tier that served a start.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use jetway_api::backends::Backend;
use jetway_api::pools::Pool;
use jetway_protocol::timeline::StageName;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{Connected, Site, local};
use crate::harness::processes::{Process, executable, free_port};
use crate::harness::{Options, Role, Stack, eventually};
use crate::http::split;

/// What makes slots needs this long at most on a busy machine.
const FILL_MAX: Duration = Duration::from_secs(120);
const SOON: Duration = Duration::from_secs(20);

/// Small, so that a burst fits on a small machine.
const MEMORY_RESERVE_BYTES: i64 = 16 << 20;

pub struct Jetway {
    pub stack: Stack,
    pub site: Site,
}

impl Jetway {
    /// `variables` are for every role: settings of the drone and the controller.
    pub async fn start(image: &str, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut options = Options::default();
        // Its own default, not the tests'.
        options.variables.push(("JETWAY_LOG".to_owned(), "info".to_owned()));
        options.variables.extend(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())));
        let stack = Stack::start(options).await?;
        let own = json!({ "executable": { "memory_reserve_bytes": MEMORY_RESERVE_BYTES } });
        let site = Site::new(local(split(&stack.api)?.0)?, image, own);
        Ok(Self { stack, site })
    }

    /// Ends everything, and says so if something is left.
    pub async fn end(mut self) -> anyhow::Result<()> {
        if let Err(error) = self.site.end_all().await {
            self.stack.abandon().await;
            return Err(error);
        }
        self.stack.end().await
    }

    pub fn proxy_pid(&self) -> u32 {
        self.stack.pid(Role::Proxy)
    }

    /// One more proxy on this host, and its port. Its process is as new as can be.
    pub async fn one_more_proxy(&self, name: &str) -> anyhow::Result<(Process, u16)> {
        let (port, stack) = (free_port()?, &self.stack);
        let log = stack.directory.join(format!("proxy-{name}.log"));
        let mut command = Command::new(executable("jetway")?);
        command
            .args(["proxy", "--controller", &stack.api, "--name", name])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .env("JETWAY_SECRET", &stack.secret);
        let process = Process::start(&log, &mut command)?;
        let ready = format!("http://127.0.0.1:{port}/ready");
        eventually("one more proxy is ready", SOON, async || match stack.http.get(&ready).send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        })
        .await?;
        Ok((process, port))
    }

    /// Declares a pool for what these connects ask for, and waits until it is full.
    pub async fn pool(&self, name: &str, tier: &str, slots: u32, spawn: &Value) -> anyhow::Result<()> {
        let config = self.site.connect_body("pool", spawn)["spawn_config"].take();
        let body = json!({
            "spawn_config": config, "min": slots, "max": slots, "target_hit_rate": 0.99, "tier": tier,
        });
        let path = format!("/ctrl/pools/{name}");
        let answer = self.site.call("PUT", &path, &body.to_string()).await?;
        ensure!((200..300).contains(&answer.status), "PUT {path}: {}: {}", answer.status, answer.text());
        self.pool_is_full(name, slots).await
    }

    /// No more either: a pool that was larger before has given up the rest.
    pub async fn pool_is_full(&self, name: &str, slots: u32) -> anyhow::Result<()> {
        eventually(&format!("the pool {name} has {slots} slots"), FILL_MAX, async || {
            let said = self.site.get(&format!("/ctrl/pools/{name}")).await.map_err(|e| e.to_string())?;
            let pool = Pool::deserialize(&said).map_err(|error| error.to_string())?;
            if pool.slots.ready == u64::from(slots) { Ok(()) } else { Err(said.to_string()) }
        })
        .await
    }

    /// What the drone's last heartbeat said of its slots.
    pub async fn warm_load(&self) -> anyhow::Result<Value> {
        let mut connection = PgConnection::connect(&self.stack.database).await?;
        let load: Value =
            sqlx::query_scalar("select load from drones limit 1").fetch_one(&mut connection).await?;
        Ok(load["warm"].clone())
    }

    pub async fn sandboxes_are_ready(&self) -> anyhow::Result<()> {
        eventually("sandboxes are ready", FILL_MAX, async || {
            let warm = self.warm_load().await.map_err(|error| error.to_string())?;
            if warm["sandboxes_ready"].as_u64() > Some(0) { Ok(()) } else { Err(warm.to_string()) }
        })
        .await
    }

    /// The tier that a start's timeline names, without the reason behind it.
    pub async fn tier(&self, connected: &Connected) -> anyhow::Result<String> {
        let path = format!("/ctrl/backends/{}", connected.backend);
        eventually("the timeline has the claim", Duration::from_secs(10), async || {
            let said = self.site.get(&path).await.map_err(|error| error.to_string())?;
            let backend = Backend::deserialize(&said).map_err(|error| error.to_string())?;
            let claimed = backend.timeline.into_iter().find(|stage| stage.stage == StageName::Claimed);
            claimed.map(|stage| stage.note).ok_or_else(|| said.to_string())
        })
        .await
        .map(|note| note.split([':', ' ']).next().unwrap_or_default().to_owned())
    }

    /// A start from this tier, or why it does not count.
    pub async fn first_byte(&self, body: &Value, tier: &str) -> anyhow::Result<Duration> {
        let (time, connected) = self.site.first_byte(body).await?;
        let served = self.tier(&connected).await.context("which tier served")?;
        // Before there were tiers, all was cold, and nothing said so.
        if served != tier && !(tier == "cold" && served.is_empty()) {
            bail!("a start was served {served}, not {tier}");
        }
        Ok(time)
    }
}
