//! A declared pool: how many slots of a spec are to be ready, and what a connect that names the pool starts.

use jetway_protocol::at_rest::{AtRest, CannotOpen};
use jetway_protocol::ids::{ClusterName, PoolName, WarmPoolName};
use jetway_protocol::spec::{BackendSpec, OnIsolation};
use jetway_protocol::warm::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::db::warm_pools::Sizes;
use crate::db::warm_pools::{self, PoolRow};
use crate::db::{Connection, DbError};

/// What is sealed: a spec without what belongs to one backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Template {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub spec: BackendSpec,
    /// As it was given: what it means depends on the connect's key.
    pub on_isolation: Option<OnIsolation>,
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
}

impl Pool {
    pub fn open(at_rest: &AtRest, row: PoolRow) -> Self {
        let template = Template::open(at_rest, &row.name, &row.sealed);
        Self { name: row.name, sizes: row.sizes, shown: row.shown, template }
    }

    pub fn kind(&self) -> Option<Kind> {
        Kind::of(self.sizes.tier, &self.template.as_ref().ok()?.spec.executable).ok()
    }
}

/// Those of the pools that are there, each with a number that changes with its row.
pub async fn read(
    connection: &mut Connection,
    at_rest: &AtRest,
    names: &[String],
) -> Result<Vec<(i64, Pool)>, DbError> {
    let rows = warm_pools::read(connection, names).await?;
    Ok(rows.into_iter().map(|row| (row.version, Pool::open(at_rest, row))).collect())
}

fn place(name: &WarmPoolName) -> String {
    format!("warm_pools/{name}")
}
