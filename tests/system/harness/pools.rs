//! What a stack is told to keep ready, as a user declares it.

use jetway_api::pools::{Pool, PoolRequest, Pools};
use jetway_protocol::warm::SlotTier;
use serde_json::{Value, json};

use super::Stack;

impl Stack {
    /// A pool of just so many slots for what such a request asks for.
    pub async fn pool(&self, name: &str, tier: SlotTier, slots: u32, spawn: &Value) -> anyhow::Result<()> {
        let config = self.request("any", &json!({}), spawn)["spawn_config"].take();
        let body = PoolRequest {
            spawn_config: serde_json::from_value(config)?,
            min: Some(slots.into()),
            max: Some(slots.into()),
            target_hit_rate: None,
            tier: Some(tier),
        };
        let url = format!("{}/ctrl/pools/{name}", self.api);
        self.http.put(url).json(&body).send().await?.error_for_status()?;
        Ok(())
    }

    pub async fn no_pools(&self) -> anyhow::Result<()> {
        let known: Pools = serde_json::from_value(self.get("/ctrl/pools").await?)?;
        for Pool { name, .. } in known.pools {
            self.http.delete(format!("{}/ctrl/pools/{name}", self.api)).send().await?.error_for_status()?;
        }
        Ok(())
    }
}
