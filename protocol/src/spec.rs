//! What to run and how long, with every default filled in. The controller makes it from the public request; the
//! drone and its journal carry it as it is.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{PortName, Subdomain};

pub const FIRST_CONNECTION_SECONDS: u32 = 30;
pub const LINGER_SECONDS: u32 = 10;
pub const STOP_GRACE_SECONDS: u32 = 10;
pub const START_TIMEOUT_SECONDS: u32 = 60;
pub const PORT: u16 = 8080;
pub const MEMORY_LIMIT_BYTES: i64 = 512 * 1024 * 1024;
pub const MEMORY_RESERVE_BYTES: i64 = 128 * 1024 * 1024;
pub const PIDS_LIMIT: i64 = 512;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackendSpec {
    pub executable: Executable,
    /// Seconds from scheduling to the stop; `None`: no limit.
    pub lifetime_limit_seconds: Option<u32>,
    /// Seconds from the last close to the stop; `None`: no idle end at all, not even for want of a first connection.
    pub max_idle_seconds: Option<u32>,
    pub first_connection_seconds: u32,
    pub linger_seconds: u32,
    pub stop_grace_seconds: u32,
    pub start_timeout_seconds: u32,
    pub on_isolation: OnIsolation,
    pub subdomain: Option<Subdomain>,
    /// Whether one token serves every caller; the drone then has a grant `GrantId::STATIC`.
    #[serde(default)]
    pub use_static_token: bool,
}

/// What a drone does with a backend whose lease it cannot renew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OnIsolation {
    Stop,
    Keep,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Executable {
    pub image: String,
    #[serde(default)]
    pub pull_policy: PullPolicy,
    #[serde(default)]
    pub credentials: Option<Credentials>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub resource_limits: ResourceLimits,
    /// Host path below the drone's mount base, already checked to be relative and free of `..`.
    #[serde(default)]
    pub mount: Option<String>,
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
    pub port: u16,
    /// What the application speaks on `port`.
    #[serde(default, skip_serializing_if = "Protocol::is_default")]
    pub protocol: Protocol,
    /// Further ports, chosen by their names in the URL. `port` may be among them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<PortName, Port>,
    #[serde(default)]
    pub shm_size_bytes: Option<i64>,
    /// Path in the container to mount options, as in Docker's `--tmpfs`.
    #[serde(default)]
    pub tmpfs: BTreeMap<String, String>,
    #[serde(default)]
    pub read_only: bool,
    /// Path of an HTTP check that must answer 2xx or 3xx before the backend counts as ready.
    #[serde(default)]
    pub ready_http_path: Option<String>,
    #[serde(default)]
    pub init: InitMode,
    /// Where the application can take its session after it was started.
    #[serde(default)]
    pub hot: Option<Hot>,
    /// CPUs set aside for placement; fractions allowed.
    #[serde(default)]
    pub cpu_reserve: f64,
    pub memory_reserve_bytes: i64,
}

/// How a proxy speaks with an application. A WebSocket is HTTP/1.1 either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Http1,
    /// HTTP/2 without TLS, known beforehand (RFC 9113 §3.3): what gRPC needs.
    H2c,
}

impl Protocol {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A port that the application listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    pub port: u16,
    #[serde(default, skip_serializing_if = "Protocol::is_default")]
    pub protocol: Protocol,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum PullPolicy {
    #[default]
    IfNotPresent,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum InitMode {
    /// Jetway's init stays PID 1 and supervises the application.
    #[default]
    Supervise,
    /// Init becomes the application at claim: for images that must be PID 1 themselves.
    Exec,
}

/// How an application that runs already is told of its session. An application that says nothing of this is never started
/// before its session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hot {
    /// Path of the application that gets the session as a `POST` with a JSON body ([`crate::warm::ClaimRequest`]) and must
    /// answer 2xx. `None`: it learns of its session by the `x-verified-*` headers of requests alone.
    #[serde(default)]
    pub claim_path: Option<String>,
    /// For the answer to that request; without one in time the start has failed.
    #[serde(default = "claim_timeout_seconds")]
    pub claim_timeout_seconds: u32,
}

pub const CLAIM_TIMEOUT_SECONDS: u32 = 5;

fn claim_timeout_seconds() -> u32 {
    CLAIM_TIMEOUT_SECONDS
}

/// A registry login. Never shown: not by `Debug`, not by the API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ResourceLimits {
    /// Microseconds; Docker's `CpuPeriod`.
    #[serde(default)]
    pub cpu_period: Option<i64>,
    /// Percent of one CPU: the quota is period × percent / 100 (period 100 ms where none is given).
    #[serde(default)]
    pub cpu_period_percent: Option<u32>,
    /// Seconds of CPU time (`ulimit -t`), soft and hard.
    #[serde(default)]
    pub cpu_time_limit: Option<i64>,
    #[serde(default)]
    pub memory_limit_bytes: Option<i64>,
    #[serde(default)]
    pub disk_limit_bytes: Option<i64>,
}

impl Executable {
    /// An image with every default: what tests and the demo start from.
    pub fn of_image(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            pull_policy: PullPolicy::IfNotPresent,
            credentials: None,
            env: BTreeMap::new(),
            resource_limits: ResourceLimits::default(),
            mount: None,
            network_name: None,
            entrypoint: None,
            cmd: None,
            user: None,
            working_dir: None,
            port: PORT,
            protocol: Protocol::Http1,
            ports: BTreeMap::new(),
            shm_size_bytes: None,
            tmpfs: BTreeMap::new(),
            read_only: false,
            ready_http_path: None,
            init: InitMode::Supervise,
            hot: None,
            cpu_reserve: 0.0,
            memory_reserve_bytes: MEMORY_RESERVE_BYTES,
        }
    }

    /// The only ones to which a proxy is ever let through.
    pub fn all_ports(&self) -> Vec<u16> {
        std::iter::once(self.port).chain(self.ports.values().map(|named| named.port)).collect()
    }

    pub fn memory_limit_bytes(&self) -> i64 {
        self.resource_limits.memory_limit_bytes.unwrap_or(MEMORY_LIMIT_BYTES)
    }
}

impl BackendSpec {
    /// A spec with every default around an executable.
    pub fn of(executable: Executable) -> Self {
        Self {
            executable,
            lifetime_limit_seconds: None,
            max_idle_seconds: None,
            first_connection_seconds: FIRST_CONNECTION_SECONDS,
            linger_seconds: LINGER_SECONDS,
            stop_grace_seconds: STOP_GRACE_SECONDS,
            start_timeout_seconds: START_TIMEOUT_SECONDS,
            on_isolation: OnIsolation::Stop,
            subdomain: None,
            use_static_token: false,
        }
    }
}
