//! What every container of ours is made of: init as its entrypoint, the hardening, the limits. Pure: from a request
//! to the engine's words. Not its business: making it.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    Mount, MountType, NetworkingConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use jetway_protocol::init::{INIT_DIR, INIT_PATH, LEASE_DIR, RUN_DIR};
use jetway_protocol::spec::{Executable, PIDS_LIMIT};

use super::config::DockerConfig;
use super::mount::TARGET;
use super::names;
use crate::runtime::{CreateRequest, Image, RuntimeError};

/// What a root image's own entrypoint needs to become somebody else (gosu, su-exec, chown of a data directory).
const ROOT_CAPABILITIES: [&str; 6] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "SETUID", "SETGID", "KILL"];
/// Docker's default period of a CPU quota, in microseconds.
const CPU_PERIOD: i64 = 100_000;
/// Weight of one CPU, as the engine counts it.
const SHARES_PER_CPU: f64 = 1024.0;
/// Weight of a container that reserves nothing: a tenth of a CPU's, so that reserved ones come first.
const SHARES_MIN: f64 = 102.0;
const SHARES_MAX: f64 = 262_144.0;
/// Paths under which init and its socket are mounted.
const OUR_DIRECTORY: &str = "/.jetway";

/// What the drone adds to the request.
pub struct Surroundings<'a> {
    pub config: &'a DockerConfig,
    /// The engine's id of the drone's own network.
    pub network_id: &'a str,
    pub init_dir: &'a Path,
    pub slot_dir: &'a Path,
    pub lease_dir: &'a Path,
    pub data_mount: Option<&'a Path>,
    pub can_limit_disk: bool,
}

pub fn container(
    request: &CreateRequest,
    around: &Surroundings<'_>,
) -> Result<ContainerCreateBody, RuntimeError> {
    let executable = &request.executable;
    let argv = argv(executable, &request.image);
    if argv.is_empty() {
        return Err(RuntimeError::Refused(format!(
            "the image {} has no command: give executable.cmd",
            executable.image
        )));
    }
    let mut labels = names::labels(around.config.installation, around.config.drone, names::ROLE_SLOT);
    labels.insert(names::LABEL_SLOT.to_owned(), request.slot.to_string());
    if let Some(backend) = &request.backend {
        labels.insert(names::LABEL_BACKEND.to_owned(), backend.to_string());
    }
    if let Some(sandbox) = request.sandbox {
        labels.insert(names::LABEL_SANDBOX.to_owned(), sandbox.to_string());
    }
    let (network_mode, networking_config) = network(request, around)?;
    Ok(ContainerCreateBody {
        image: Some(request.image.id.clone()),
        entrypoint: Some(vec![INIT_PATH.to_owned(), "--".to_owned()]),
        cmd: Some(argv),
        user: executable.user.clone(),
        working_dir: executable.working_dir.clone(),
        labels: Some(labels),
        // It would run in parked containers.
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig { network_mode: Some(network_mode), ..host(request, around)? }),
        networking_config,
        ..ContainerCreateBody::default()
    })
}

/// As Docker does it: another entrypoint clears the image's command, another command does not clear its entrypoint.
pub fn argv(executable: &Executable, image: &Image) -> Vec<String> {
    let entrypoint = executable.entrypoint.as_ref().map(|given| match given.as_slice() {
        [only] if only.is_empty() => Vec::new(),
        given => given.to_vec(),
    });
    let (mut argv, cmd) = match (entrypoint, &executable.cmd) {
        (Some(entrypoint), cmd) => (entrypoint, cmd.clone().unwrap_or_default()),
        (None, Some(cmd)) => (image.entrypoint.clone(), cmd.clone()),
        (None, None) => (image.entrypoint.clone(), image.cmd.clone()),
    };
    argv.extend(cmd);
    argv
}

/// The user that the application runs as: the spec's, else the image's.
pub fn user<'a>(executable: &'a Executable, image: &'a Image) -> &'a str {
    executable.user.as_deref().unwrap_or(&image.user)
}

fn is_root(user: &str) -> bool {
    let name = user.split(':').next().unwrap_or_default();
    matches!(name, "" | "root") || name.parse::<u64>() == Ok(0)
}

fn host(request: &CreateRequest, around: &Surroundings<'_>) -> Result<HostConfig, RuntimeError> {
    let executable = &request.executable;
    let limits = &executable.resource_limits;
    if limits.disk_limit_bytes.is_some() && !around.can_limit_disk {
        // An engine with the containerd image store would accept it, and not hold it.
        let reason = "this drone's engine cannot limit a container's disk: its storage does not";
        return Err(RuntimeError::NotOffered(reason.to_owned()));
    }
    let memory = executable.memory_limit_bytes();
    let is_root = is_root(user(executable, &request.image));
    let capabilities = if is_root { ROOT_CAPABILITIES.map(str::to_owned).to_vec() } else { Vec::new() };
    let period = limits.cpu_period.unwrap_or(CPU_PERIOD);
    Ok(HostConfig {
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(capabilities),
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        pids_limit: Some(PIDS_LIMIT),
        memory: Some(memory),
        // The same number means: no swap.
        memory_swap: Some(memory),
        memory_reservation: Some(executable.memory_reserve_bytes.clamp(0, memory.max(0))),
        cpu_shares: Some(cpu_shares(executable.cpu_reserve)),
        cpu_period: limits.cpu_period.or(limits.cpu_period_percent.map(|_| period)),
        cpu_quota: limits.cpu_period_percent.map(|percent| period.saturating_mul(i64::from(percent)) / 100),
        ulimits: limits.cpu_time_limit.map(|seconds| {
            vec![ResourcesUlimits { name: Some("cpu".to_owned()), soft: Some(seconds), hard: Some(seconds) }]
        }),
        storage_opt: limits
            .disk_limit_bytes
            .map(|bytes| HashMap::from([("size".to_owned(), bytes.to_string())])),
        readonly_rootfs: Some(executable.read_only),
        tmpfs: Some(tmpfs(executable)?),
        shm_size: executable.shm_size_bytes,
        mounts: Some(mounts(around)),
        log_config: Some(log_config()),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        init: Some(false),
        publish_all_ports: Some(false),
        runtime: around.config.container_runtime.clone(),
        ..HostConfig::default()
    })
}

/// Bounded and never in the application's way: a full buffer drops lines, it does not block a write.
fn log_config() -> HostConfigLogConfig {
    let options =
        [("max-size", "10m"), ("max-file", "2"), ("mode", "non-blocking"), ("max-buffer-size", "1m")];
    HostConfigLogConfig {
        typ: Some("json-file".to_owned()),
        config: Some(options.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()),
    }
}

fn cpu_shares(reserve: f64) -> i64 {
    // The clamp keeps a NaN; the cast makes it 0, which is the engine's default.
    (reserve * SHARES_PER_CPU).clamp(SHARES_MIN, SHARES_MAX) as i64
}

fn tmpfs(executable: &Executable) -> Result<HashMap<String, String>, RuntimeError> {
    for path in executable.tmpfs.keys() {
        if !path.starts_with('/') || Path::new(path).starts_with(OUR_DIRECTORY) {
            return Err(RuntimeError::Refused(format!(
                "a tmpfs needs an absolute path outside {OUR_DIRECTORY}, not {path:?}"
            )));
        }
    }
    Ok(executable.tmpfs.clone().into_iter().collect())
}

fn mounts(around: &Surroundings<'_>) -> Vec<Mount> {
    let bind = |source, target, read_only| bind(around.config, source, target, read_only);
    let mut mounts = vec![
        bind(around.init_dir, INIT_DIR, true),
        bind(around.slot_dir, RUN_DIR, true),
        bind(around.lease_dir, LEASE_DIR, true),
    ];
    mounts.extend(around.data_mount.map(|path| bind(path, TARGET, false)));
    mounts
}

/// A directory of ours, by the engine's name for it.
pub fn bind(config: &DockerConfig, source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(config.host_path(source).display().to_string()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// A place on our own network.
pub fn endpoint(network_id: &str, address: Ipv4Addr) -> NetworkingConfig {
    let ipam = EndpointIpamConfig { ipv4_address: Some(address.to_string()), ..Default::default() };
    let endpoint = EndpointSettings { ipam_config: Some(ipam), ..EndpointSettings::default() };
    NetworkingConfig { endpoints_config: Some(HashMap::from([(network_id.to_owned(), endpoint)])) }
}

fn network(
    request: &CreateRequest,
    around: &Surroundings<'_>,
) -> Result<(String, Option<NetworkingConfig>), RuntimeError> {
    let own = around.network_id;
    match (&request.executable.network_name, request.sandbox) {
        (Some(_), Some(_)) => {
            Err(RuntimeError::Refused("a sandbox is on the drone's own network only".to_owned()))
        }
        (Some(name), None) if is_allowed(name, &around.config.allowed_networks) => Ok((name.clone(), None)),
        (Some(name), None) => {
            Err(RuntimeError::NotOffered(format!("this drone does not offer the network {name:?}")))
        }
        // Address, name server and host name are the sandbox's.
        (None, Some(sandbox)) => Ok((format!("container:{}", names::sandbox(sandbox)), None)),
        (None, None) => Ok((own.to_owned(), Some(endpoint(own, request.address)))),
    }
}

/// The host's network, none at all, and another container's are never given, whatever the operator allowed.
pub fn is_allowed(name: &str, allowed: &[String]) -> bool {
    let is_special = matches!(name, "" | "host" | "none" | "default") || name.starts_with("container:");
    !is_special && allowed.iter().any(|allowed| allowed == name)
}

#[cfg(test)]
#[path = "container_spec_tests.rs"]
mod tests;
