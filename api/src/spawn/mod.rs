//! `spawn_config`: the session to start if none lives. A field of it is declared here (or in
//! [`executable`]) with its meaning and its limits, and checked by [`SpawnConfig::check`]; with
//! every default filled in it is a field of [`BackendSpec`].
//!
//! Pure: the check reads the request and its key alone. Whether a drone offers a mount or a network
//! is placement's and the drone's to say.

pub mod executable;
mod limits;
mod ports;
mod values;

use jetway_protocol::error::Code;
use jetway_protocol::host::{is_derived, split_label};
use jetway_protocol::ids::{BackendId, ClusterName, PoolName, Subdomain};
use jetway_protocol::key::Key;
use jetway_protocol::spec::{
    BackendSpec, FIRST_CONNECTION_SECONDS, InitMode, LINGER_SECONDS, OnIsolation, START_TIMEOUT_SECONDS,
    STOP_GRACE_SECONDS,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use executable::ExecutableRequest;
pub use limits::LimitsRequest;
pub use ports::{FullPortRequest, PortRequest};

use crate::object;
use crate::refusal::{Checked, Refusal, number};

/// Ten years: a longer time is no deadline.
const SECONDS_MAX: i64 = 10 * 366 * 24 * 3600;
const GRACE_SECONDS_MAX: i64 = 3600;
const START_TIMEOUT_SECONDS_MAX: i64 = 24 * 3600;
pub const STOP_AND_EXEC: &str = "spawn_config.on_isolation is \"stop\", which executable.init \"exec\" cannot promise: leave it out, or say \"keep\"";

/// The session to start if none lives.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SpawnConfig {
    /// Its backend's id; random by default. An id is never used twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9-]{1,45}$")]
    pub id: Option<String>,
    /// Where browsers reach the proxies: a host name with an optional port. By default the
    /// controller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Drones that were started with this pool.
    #[serde(default, deserialize_with = "object::null_as_default", skip_serializing_if = "String::is_empty")]
    #[schema(pattern = "^[a-zA-Z0-9._-]{0,63}$")]
    pub pool: String,
    #[serde(deserialize_with = "object::required")]
    pub executable: ExecutableRequest,
    /// Seconds from scheduling to the stop. By default there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000_i64)]
    pub lifetime_limit_seconds: Option<i64>,
    /// Seconds from the last close to the stop. By default there is no idle end at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 316_224_000_i64)]
    pub max_idle_seconds: Option<i64>,
    /// One token for every caller; then `user`, `auth` and `allowed_origins` are refused.
    #[serde(
        default,
        deserialize_with = "object::null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub use_static_token: bool,
    /// The host label of the backend under its cluster; unique among live backends there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    pub subdomain: Option<String>,
    /// How long a ready backend waits for its first connection; 30 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 316_224_000_i64)]
    pub first_connection_seconds: Option<i64>,
    /// How long a plain request counts as use after its end; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3600)]
    pub linger_seconds: Option<i64>,
    /// From the stop signal to SIGKILL; 10 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 3600)]
    pub stop_grace_seconds: Option<i64>,
    /// From the moment the application is told to start until it listens; 60 by default. Pulls do
    /// not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub start_timeout_seconds: Option<i64>,
    /// Whether the session stops when its host is cut off: by default `stop` with a key, else
    /// `keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_isolation: Option<OnIsolation>,
}

/// A `spawn_config` in which every value has been checked.
#[derive(Debug, Clone)]
pub struct Spawn {
    pub id: Option<BackendId>,
    /// `None`: the controller's default.
    pub cluster: Option<ClusterName>,
    pub pool: PoolName,
    pub spec: BackendSpec,
}

impl SpawnConfig {
    /// An image with every default.
    pub fn of_image(image: &str) -> Self {
        let executable = ExecutableRequest { image: image.to_owned(), ..ExecutableRequest::default() };
        Self { executable, ..Self::default() }
    }

    /// Parses it, or says which field is wrong and how. No field can be left out here.
    pub fn check(self, key: Option<&Key>) -> Checked<Spawn> {
        let Self {
            id,
            cluster,
            pool,
            executable,
            lifetime_limit_seconds,
            max_idle_seconds,
            use_static_token,
            subdomain,
            first_connection_seconds,
            linger_seconds,
            stop_grace_seconds,
            start_timeout_seconds,
            on_isolation,
        } = self;
        let at = |field: &str| format!("spawn_config.{field}");
        let invalid = |field: &str, error| Refusal::invalid(format!("{}: {error}", at(field)));
        let seconds = |field: &str, given: Option<i64>, min: i64, max: i64| -> Checked<Option<u32>> {
            Ok(number(&at(field), given, min, max)?.and_then(|seconds| u32::try_from(seconds).ok()))
        };
        let id = id.map(|id| id.parse()).transpose().map_err(|error| invalid("id", error))?;
        let cluster = cluster.map(|cluster| cluster.parse()).transpose();
        let cluster = cluster
            .map_err(|error| Refusal::new(Code::InvalidCluster, format!("{}: {error}", at("cluster"))))?;
        let pool = pool.parse().map_err(|error| invalid("pool", error))?;
        let subdomain = subdomain.map(|subdomain| check_subdomain(&subdomain)).transpose()?;
        let executable = executable.check(key)?;
        let on_isolation = isolation(on_isolation, key, executable.init)?;
        let spec = BackendSpec {
            executable,
            lifetime_limit_seconds: seconds(
                "lifetime_limit_seconds",
                lifetime_limit_seconds,
                1,
                SECONDS_MAX,
            )?,
            max_idle_seconds: seconds("max_idle_seconds", max_idle_seconds, 0, SECONDS_MAX)?,
            first_connection_seconds: seconds(
                "first_connection_seconds",
                first_connection_seconds,
                1,
                SECONDS_MAX,
            )?
            .unwrap_or(FIRST_CONNECTION_SECONDS),
            linger_seconds: seconds("linger_seconds", linger_seconds, 0, GRACE_SECONDS_MAX)?
                .unwrap_or(LINGER_SECONDS),
            stop_grace_seconds: seconds("stop_grace_seconds", stop_grace_seconds, 0, GRACE_SECONDS_MAX)?
                .unwrap_or(STOP_GRACE_SECONDS),
            start_timeout_seconds: seconds(
                "start_timeout_seconds",
                start_timeout_seconds,
                1,
                START_TIMEOUT_SECONDS_MAX,
            )?
            .unwrap_or(START_TIMEOUT_SECONDS),
            on_isolation,
            subdomain,
            use_static_token,
        };
        Ok(Spawn { id, cluster, pool, spec })
    }
}

/// A label of derived shape belongs to one key or backend, and so does each of its ports' hosts.
fn check_subdomain(subdomain: &str) -> Checked<Subdomain> {
    let parsed: Subdomain =
        subdomain.parse().map_err(|error| Refusal::invalid(format!("spawn_config.subdomain: {error}")))?;
    let (_, base) = split_label(subdomain);
    if is_derived(subdomain) || is_derived(base) {
        return Err(Refusal::invalid(format!(
            "spawn_config.subdomain: {subdomain} looks like a label that is derived from a key: choose another, or leave it out",
        )));
    }
    Ok(parsed)
}

/// Without a caller's key there is nothing to give away: the session may as well go on. Where init
/// becomes the application, the container has no init that ends it when the agent is dead: its key
/// must not be given away.
pub fn isolation(given: Option<OnIsolation>, key: Option<&Key>, init: InitMode) -> Checked<OnIsolation> {
    match (given, key, init) {
        (Some(OnIsolation::Stop), None, _) => Err(Refusal::invalid(
            "spawn_config.on_isolation is \"stop\", which needs a key: without one nothing is ever given away",
        )),
        (Some(OnIsolation::Stop), Some(_), InitMode::Exec) => Err(Refusal::invalid(STOP_AND_EXEC)),
        (Some(given), _, _) => Ok(given),
        (None, Some(_), InitMode::Supervise) => Ok(OnIsolation::Stop),
        (None, None, _) | (None, Some(_), InitMode::Exec) => Ok(OnIsolation::Keep),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_subdomain_looks_like_no_derived_label() {
        let derived = "a".repeat(26);
        for (subdomain, is_fine) in [
            ("notes".to_owned(), true),
            ("debug--notes".to_owned(), true),
            (format!("k-{derived}x"), true),
            (format!("k-{derived}"), false),
            (format!("b-{derived}"), false),
            (format!("debug--k-{derived}"), false),
            (format!("db--b-{derived}"), false),
        ] {
            let config = SpawnConfig { subdomain: Some(subdomain.clone()), ..SpawnConfig::of_image("app") };
            let checked = config.check(None);
            assert_eq!(checked.is_ok(), is_fine, "{subdomain}");
            let said = checked.map(drop).map_err(|refusal| refusal.message);
            assert!(is_fine || said.unwrap_err().contains("derived"), "{subdomain}");
        }
    }
}
