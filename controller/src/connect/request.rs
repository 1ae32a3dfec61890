//! The body of `POST /ctrl/connect`, as it is on the wire. Unknown fields are refused by name; what Plane's client
//! sends as `null` is accepted as absent; an array is never an object. What the values may be is [`super::validate`]'s business.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

use crate::object;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    #[serde(default, deserialize_with = "object::optional")]
    pub key: Option<KeyRequest>,
    #[serde(default, deserialize_with = "object::optional")]
    pub spawn_config: Option<SpawnConfig>,
    #[serde(default)]
    pub user: Option<String>,
    /// As in Plane, `null` is refused: it is an object or absent.
    #[serde(default)]
    pub auth: serde_json::Map<String, serde_json::Value>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub allowed_origins: Vec<String>,
    #[serde(default)]
    pub wait: Option<Wait>,
    #[serde(default)]
    pub wait_timeout_seconds: Option<i64>,
    #[serde(default)]
    pub warm_pool: Option<String>,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    Ready,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    pub name: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub namespace: String,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tag: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnConfig {
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub cluster: Option<String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub pool: String,
    #[serde(deserialize_with = "object::required")]
    pub executable: ExecutableRequest,
    #[serde(default)]
    pub lifetime_limit_seconds: Option<i64>,
    #[serde(default)]
    pub max_idle_seconds: Option<i64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub use_static_token: bool,
    #[serde(default)]
    pub subdomain: Option<String>,
    #[serde(default)]
    pub first_connection_seconds: Option<i64>,
    #[serde(default)]
    pub linger_seconds: Option<i64>,
    #[serde(default)]
    pub stop_grace_seconds: Option<i64>,
    #[serde(default)]
    pub start_timeout_seconds: Option<i64>,
    #[serde(default)]
    pub on_isolation: Option<jetway_protocol::spec::OnIsolation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecutableRequest {
    pub image: String,
    #[serde(default)]
    pub pull_policy: Option<jetway_protocol::spec::PullPolicy>,
    #[serde(default, deserialize_with = "object::optional")]
    pub credentials: Option<CredentialsRequest>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "object::or_default")]
    pub resource_limits: LimitsRequest,
    #[serde(default)]
    pub mount: Option<MountRequest>,
    #[serde(default)]
    pub network_name: Option<String>,
    #[serde(default)]
    pub entrypoint: Option<Vec<String>>,
    #[serde(default)]
    pub cmd: Option<Vec<String>>,
    #[serde(default)]
    pub user: Option<String>,
    #[serde(default)]
    pub working_dir: Option<String>,
    #[serde(default)]
    pub port: Option<i64>,
    #[serde(default)]
    pub protocol: Option<jetway_protocol::spec::Protocol>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub ports: BTreeMap<String, PortRequest>,
    #[serde(default)]
    pub shm_size_bytes: Option<i64>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub tmpfs: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "null_as_default")]
    pub read_only: bool,
    #[serde(default, deserialize_with = "object::optional")]
    pub ready: Option<ReadyRequest>,
    #[serde(default)]
    pub init: Option<jetway_protocol::spec::InitMode>,
    #[serde(default, deserialize_with = "object::optional")]
    pub hot: Option<HotRequest>,
    #[serde(default)]
    pub cpu_reserve: Option<f64>,
    #[serde(default)]
    pub memory_reserve_bytes: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a port number, or an object with port and protocol")]
pub enum PortRequest {
    Number(i64),
    Full(FullPortRequest),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FullPortRequest {
    pub port: i64,
    #[serde(default)]
    pub protocol: Option<jetway_protocol::spec::Protocol>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsRequest {
    pub username: String,
    pub password: String,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct LimitsRequest {
    #[serde(default)]
    pub cpu_period: Option<i64>,
    #[serde(default)]
    pub cpu_period_percent: Option<i64>,
    #[serde(default)]
    pub cpu_time_limit: Option<i64>,
    #[serde(default)]
    pub memory_limit_bytes: Option<i64>,
    #[serde(default)]
    pub disk_limit_bytes: Option<i64>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "true, false or a relative path")]
pub enum MountRequest {
    ByKey(bool),
    Path(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadyRequest {
    #[serde(default)]
    pub http_path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HotRequest {
    #[serde(default)]
    pub claim_path: Option<String>,
    #[serde(default)]
    pub claim_timeout_seconds: Option<i64>,
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
