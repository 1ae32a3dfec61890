//! What an agent is told at its start. Parsing flags is the caller's business.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use jetway_protocol::ids::{ClusterName, DroneName, PoolName};
use jetway_protocol::secret::Secret;

use crate::warm::Calm;

#[derive(Debug, Clone)]
pub struct Config {
    /// Base URLs; any of them serves.
    pub controllers: Vec<String>,
    pub listen: SocketAddr,
    /// Where controllers and proxies reach this server, `host:port`; the bound address if `None`.
    pub advertise: Option<String>,
    pub name: DroneName,
    pub cluster: Option<ClusterName>,
    pub pool: PoolName,
    pub data_dir: PathBuf,
    /// Sockets of the slots: a short path, on tmpfs.
    pub run_dir: PathBuf,
    /// The static `jetway-init` that is mounted into every container.
    pub init_executable: PathBuf,
    /// The first free /18 in 10.64.0.0/10 if `None`.
    pub session_subnet: Option<(Ipv4Addr, u8)>,
    /// Specs may mount below it; `None`: mounts are refused.
    pub mount_base: Option<PathBuf>,
    /// Engine networks that a spec may name.
    pub allowed_networks: Vec<String>,
    pub backends_max: u32,
    /// The host's if `None`.
    pub cpus: Option<f64>,
    /// The host's if `None`.
    pub memory_bytes: Option<i64>,
    /// Network namespaces to have ready for sessions' containers.
    pub sandboxes: u32,
    pub calm: Calm,
    /// For slots that are kept ready because of what was learned; a tenth of the memory if `None`.
    pub warm_memory_bytes: Option<i64>,
    /// Image of the one-shot helper that sets network rules where the agent may not.
    pub helper_image: Option<String>,
    /// The engine's runtime for sessions, such as `runsc`.
    pub container_runtime: Option<String>,
    /// How full the engine's disk may be, in percent, before images that nobody needs are removed; 0: they never are.
    pub image_gc_percent: u8,
    /// Containers are called after the keys that they serve, for people who look at the engine's
    /// list.
    pub names_by_key: bool,
    /// (a directory here, the same one on the engine's host); for a drone in a container the engine is asked, too.
    pub host_paths: Vec<(PathBuf, PathBuf)>,
    /// How long the start waits for an engine that does not answer yet.
    pub engine_patience: Duration,
    pub secret: Secret,
}

/// The host's processors and memory, where the configuration does not say otherwise.
pub fn host_cpus() -> f64 {
    std::thread::available_parallelism()
        .map_or(1.0, |count| f64::from(u32::try_from(count.get()).unwrap_or(1)))
}

pub fn host_memory_bytes() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    memory_total_bytes(&text).unwrap_or(i64::MAX)
}

fn memory_total_bytes(meminfo: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_hosts_memory() {
        let text = "MemTotal:       8000 kB\nMemFree:         5 kB\n";
        assert_eq!(memory_total_bytes(text), Some(8_192_000));
        assert_eq!(memory_total_bytes(""), None);
    }
}
