//! `spawn_config.executable`: the container of a session.

use std::collections::BTreeMap;

use jetway_protocol::key::Key;
use jetway_protocol::spec::{
    CLAIM_TIMEOUT_SECONDS, Credentials, Executable, Hot, InitMode, MEMORY_LIMIT_BYTES, MEMORY_RESERVE_BYTES,
    PORT, Port, Protocol, PullPolicy,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::LimitsRequest;
use super::ports::{self, PortRequest};
use super::values::{
    check_absolute, check_arguments, check_credentials, check_env, check_http_path, check_image, check_mount,
    check_name, check_network, check_tmpfs,
};
use crate::object;
use crate::refusal::{Checked, Refusal, number};

pub(super) const BYTES_MAX: i64 = 1 << 50;
const CPUS_MAX: f64 = 4096.0;
const CLAIM_TIMEOUT_SECONDS_MAX: i64 = 60;

/// The container of a session.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Executable)]
#[serde(deny_unknown_fields)]
pub struct ExecutableRequest {
    /// A reference like `registry.example/team/app:tag`, or an image's whole id.
    pub image: String,
    /// `IfNotPresent` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
    /// The registry login. Never shown.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialsRequest>,
    /// The application's environment, 256 KiB in all. Names that Jetway sets itself are dropped.
    #[serde(
        default,
        deserialize_with = "object::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub env: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "object::or_default")]
    pub resource_limits: LimitsRequest,
    /// A directory that stays, at `/plane-data`: `true` names it by the key, a relative path by
    /// itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount: Option<MountRequest>,
    /// A network that the drone was started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_name: Option<String>,
    /// By default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// By default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// `name`, `uid` or `uid:gid`; by default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Absolute; by default the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    /// Where the application must listen; 8080 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65_535)]
    pub port: Option<i64>,
    /// Its protocol there; `http1` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Further ports that the URL can name; 16 at most.
    #[serde(
        default,
        deserialize_with = "object::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub ports: BTreeMap<String, PortRequest>,
    /// By default the engine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 4096, maximum = 1_125_899_906_842_624_i64)]
    pub shm_size_bytes: Option<i64>,
    /// Absolute paths to mount options, as Docker's `--tmpfs`; 32 at most.
    #[serde(
        default,
        deserialize_with = "object::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub tmpfs: BTreeMap<String, String>,
    /// A read-only root.
    #[serde(
        default,
        deserialize_with = "object::null_as_default",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub read_only: bool,
    /// By default a listening socket is ready.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub ready: Option<ReadyRequest>,
    /// `supervise` by default. `exec`: for images that must be PID 1 themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<InitMode>,
    /// Whether the application can be started before its session is known.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub hot: Option<HotRequest>,
    /// CPUs set aside for placement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 4096)]
    pub cpu_reserve: Option<f64>,
    /// For placement: up to the memory limit; 128 MiB by default, or the limit where one is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub memory_reserve_bytes: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Credentials)]
#[serde(deny_unknown_fields)]
pub struct CredentialsRequest {
    pub username: String,
    #[schema(format = Password)]
    pub password: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Mount)]
#[serde(untagged, expecting = "true, false or a relative path")]
pub enum MountRequest {
    ByKey(bool),
    Path(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Ready)]
#[serde(deny_unknown_fields)]
pub struct ReadyRequest {
    /// Ready means a 2xx or 3xx to `GET` of this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Hot)]
#[serde(deny_unknown_fields)]
pub struct HotRequest {
    /// Path of the application that gets the session by `POST` and must answer 2xx. Without it the
    /// application knows its sessions by the `x-verified-*` headers alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_path: Option<String>,
    /// For that answer; 5 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60)]
    pub claim_timeout_seconds: Option<i64>,
}

impl ExecutableRequest {
    pub fn check(self, key: Option<&Key>) -> Checked<Executable> {
        let Self {
            image,
            pull_policy,
            credentials,
            env,
            resource_limits,
            mount,
            network_name,
            entrypoint,
            cmd,
            user,
            working_dir,
            port,
            protocol,
            ports: named_ports,
            shm_size_bytes,
            tmpfs,
            read_only,
            ready,
            init,
            hot,
            cpu_reserve,
            memory_reserve_bytes,
        } = self;
        check_image(&image)?;
        let resource_limits = resource_limits.check()?;
        let memory_reserve_bytes =
            check_memory_reserve(memory_reserve_bytes, resource_limits.memory_limit_bytes)?;
        let cpu_reserve = check_cpu_reserve(cpu_reserve)?;
        check_process(entrypoint.as_deref(), cmd.as_deref(), user.as_deref(), working_dir.as_deref())?;
        network_name.as_ref().map(|network| check_network(network)).transpose()?;
        let ready_http_path = ready.and_then(|ready| ready.http_path);
        ready_http_path.as_ref().map(|path| check_http_path("ready.http_path", path)).transpose()?;
        let init = init.unwrap_or_default();
        let port = check_port(port)?;
        let protocol = protocol.unwrap_or_default();
        check_tmpfs(&tmpfs)?;
        let login = |login: CredentialsRequest| check_credentials(login.username, login.password);
        let credentials: Option<Credentials> = credentials.map(login).transpose()?;
        Ok(Executable {
            pull_policy: pull_policy.unwrap_or_default(),
            credentials,
            env: check_env(env)?,
            resource_limits,
            mount: check_mount(mount, key)?,
            network_name,
            entrypoint,
            cmd,
            user,
            working_dir,
            port,
            protocol,
            ports: ports::check(named_ports, Port { port, protocol })?,
            shm_size_bytes: number(&at("shm_size_bytes"), shm_size_bytes, 4096, BYTES_MAX)?,
            tmpfs,
            read_only,
            ready_http_path,
            hot: hot.map(|hot| check_hot(hot, init)).transpose()?,
            init,
            cpu_reserve,
            memory_reserve_bytes,
            image,
        })
    }
}

pub(super) fn at(field: &str) -> String {
    format!("spawn_config.executable.{field}")
}

pub(super) fn invalid(field: &str, problem: &str) -> Refusal {
    Refusal::invalid(format!("{} {problem}", at(field)))
}

/// What is executed, as whom and where.
fn check_process(
    entrypoint: Option<&[String]>,
    cmd: Option<&[String]>,
    user: Option<&str>,
    working_dir: Option<&str>,
) -> Checked<()> {
    check_arguments("entrypoint", entrypoint)?;
    check_arguments("cmd", cmd)?;
    user.map(|user| check_name("user", user, ":")).transpose()?;
    working_dir.map(|path| check_absolute("working_dir", path)).transpose()?;
    Ok(())
}

fn check_port(given: Option<i64>) -> Checked<u16> {
    let port = number(&at("port"), given, 1, 65535)?;
    Ok(port.and_then(|port| u16::try_from(port).ok()).unwrap_or(PORT))
}

fn check_memory_reserve(given: Option<i64>, limit: Option<i64>) -> Checked<i64> {
    let reserve = number(&at("memory_reserve_bytes"), given, 0, limit.unwrap_or(MEMORY_LIMIT_BYTES))?;
    // A declared limit is a declared need; without one, the usual session's.
    Ok(reserve.unwrap_or(limit.unwrap_or(MEMORY_RESERVE_BYTES)))
}

fn check_cpu_reserve(given: Option<f64>) -> Checked<f64> {
    let cpu_reserve = given.unwrap_or(0.0);
    if !(0.0..=CPUS_MAX).contains(&cpu_reserve) {
        return Err(invalid(
            "cpu_reserve",
            &format!("is {cpu_reserve}; it must be between 0 and {CPUS_MAX}"),
        ));
    }
    Ok(cpu_reserve)
}

/// An application that takes its session late must have an init beside it, which tells the drone
/// that it listens.
fn check_hot(hot: HotRequest, init: InitMode) -> Checked<Hot> {
    if init == InitMode::Exec {
        return Err(invalid("hot", "cannot be had with init \"exec\": leave one of them out"));
    }
    if let Some(path) = &hot.claim_path {
        check_http_path("hot.claim_path", path)?;
    }
    let seconds =
        number(&at("hot.claim_timeout_seconds"), hot.claim_timeout_seconds, 1, CLAIM_TIMEOUT_SECONDS_MAX)?;
    let claim_timeout_seconds =
        seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(CLAIM_TIMEOUT_SECONDS);
    Ok(Hot { claim_path: hot.claim_path, claim_timeout_seconds })
}
