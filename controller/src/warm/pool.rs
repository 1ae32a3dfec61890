//! A declared pool: how many slots of a spec are to be ready, and what a connect that names the pool starts.

use jetway_protocol::at_rest::{AtRest, CannotOpen};
use jetway_protocol::ids::{ClusterName, PoolName, WarmPoolName};
use jetway_protocol::key::Key;
use jetway_protocol::spec::{BackendSpec, OnIsolation};
use jetway_protocol::warm::{Kind, SlotTier};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::connect::validate::{Spawn, on_isolation};
use crate::error::ApiResult;

/// What is sealed: a spec without what belongs to one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub spec: BackendSpec,
    /// As it was given: what it means depends on the connect's key.
    pub on_isolation: Option<OnIsolation>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    pub tier: SlotTier,
    pub min: u32,
    pub max: u32,
    pub target_hit_rate: f64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    pub name: WarmPoolName,
    pub sizes: Sizes,
    /// Without secrets.
    pub shown: Value,
    /// Why it cannot be read: the secret is another one than when it was put.
    pub template: Result<Template, CannotOpen>,
}

impl Template {
    pub fn seal(&self, at_rest: &AtRest, name: &WarmPoolName) -> Vec<u8> {
        // Our own types always become JSON.
        at_rest.seal(&place(name), &serde_json::to_vec(self).unwrap_or_default())
    }

    pub fn open(at_rest: &AtRest, name: &WarmPoolName, sealed: &[u8]) -> Result<Self, CannotOpen> {
        let plain = at_rest.open(&place(name), sealed)?;
        serde_json::from_slice(&plain).map_err(|_| CannotOpen)
    }

    /// The same without the login, and of the environment only the names: what SQL's `without_secrets` makes of a spec.
    pub fn shown(&self) -> Value {
        let mut shown = self.clone();
        let executable = &mut shown.spec.executable;
        executable.credentials = None;
        executable.env.values_mut().for_each(String::clear);
        serde_json::to_value(&shown).unwrap_or_default()
    }

    /// For one connect.
    pub fn spawn(self, key: Option<&Key>) -> ApiResult<Spawn> {
        let mut spec = self.spec;
        spec.on_isolation = on_isolation(self.on_isolation, key, spec.executable.init)?;
        Ok(Spawn { id: None, cluster: Some(self.cluster), pool: self.pool, spec })
    }
}

impl Pool {
    pub fn kind(&self) -> Option<Kind> {
        Kind::of(self.sizes.tier, &self.template.as_ref().ok()?.spec.executable).ok()
    }
}

fn place(name: &WarmPoolName) -> String {
    format!("warm_pools/{name}")
}
