//! Jetway as processes of its own, with pools declared through its API, and what it says of the tier that served a start.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{Connected, Site, local};
use crate::harness::{Options, Role, Stack, eventually};
use crate::http::split;

/// What makes slots needs this long at most on a busy machine.
const FILL_MAX: Duration = Duration::from_secs(120);

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
            let pool = self.site.get(&format!("/ctrl/pools/{name}")).await.map_err(|e| e.to_string())?;
            if pool["ready"].as_u64() == Some(u64::from(slots)) { Ok(()) } else { Err(pool.to_string()) }
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
            let view = self.site.get(&path).await.map_err(|error| error.to_string())?;
            let stages = view["timeline"].as_array().cloned().unwrap_or_default();
            let claimed = stages.iter().find(|stage| stage["stage"] == "claimed");
            let note = claimed.map(|stage| stage["note"].as_str().unwrap_or_default().to_owned());
            note.ok_or_else(|| view.to_string())
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
