//! What the Docker side is told at its start. What can be wrong with it is in [`super::errors`].

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jetway_protocol::ids::{DroneId, InstallationId};

/// How full the engine's disk may be, in percent, before images are removed. 0: they never are.
pub const PERCENT_DEFAULT: u8 = 85;
/// A pull in which nothing moves for this long has failed.
pub const PULL_STALL: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
pub struct DockerConfig {
    pub installation: InstallationId,
    pub drone: DroneId,
    pub data_dir: PathBuf,
    /// A short path on tmpfs: sockets' paths may have only 107 bytes.
    pub run_dir: PathBuf,
    pub init_executable: PathBuf,
    /// The sessions' network; the first free /18 in 10.64.0.0/10 where none is given.
    pub session_subnet: Option<(Ipv4Addr, u8)>,
    /// The directory below which sessions may ask for mounts.
    pub mount_base: Option<PathBuf>,
    /// Networks, besides our own, that an executable may name.
    pub allowed_networks: Vec<String>,
    /// The engine's runtime for every container, as `runsc`.
    pub container_runtime: Option<String>,
    /// Our own image, with `jetway` on its path: closes the host's ports where this process may not.
    pub helper_image: Option<String>,
    /// Where this process runs in a container itself: (a directory here, the same directory on the engine's host).
    pub host_paths: Vec<(PathBuf, PathBuf)>,
    pub pull_stall: Duration,
    /// Containers are called after the keys that they serve.
    pub names_by_key: bool,
    /// How full the engine's disk may be before unused images go: [`PERCENT_DEFAULT`], 0 = never.
    pub image_gc_percent: u8,
}

impl DockerConfig {
    /// Every default around what has none.
    pub fn new(
        installation: InstallationId,
        drone: DroneId,
        data_dir: PathBuf,
        run_dir: PathBuf,
        init_executable: PathBuf,
    ) -> Self {
        Self {
            installation,
            drone,
            data_dir,
            run_dir,
            init_executable,
            session_subnet: None,
            mount_base: None,
            allowed_networks: Vec::new(),
            container_runtime: None,
            helper_image: None,
            host_paths: Vec::new(),
            pull_stall: PULL_STALL,
            names_by_key: false,
            image_gc_percent: PERCENT_DEFAULT,
        }
    }

    /// The path by which the engine knows one of our paths. The longest mapped prefix wins.
    pub fn host_path(&self, path: &Path) -> PathBuf {
        let mapped = self
            .host_paths
            .iter()
            .filter_map(|(here, there)| Some((here.as_os_str().len(), there, path.strip_prefix(here).ok()?)))
            .max_by_key(|(length, ..)| *length);
        match mapped {
            Some((_, there, rest)) => there.join(rest),
            None => path.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_mapped_by_the_longest_prefix() {
        let mut config = DockerConfig::new(
            InstallationId::random(),
            DroneId::random(),
            "/data".into(),
            "/run".into(),
            "/init".into(),
        );
        assert_eq!(config.host_path(Path::new("/data/init/x")), PathBuf::from("/data/init/x"));
        config.host_paths =
            vec![("/data".into(), "/srv/jetway".into()), ("/data/init".into(), "/opt/init".into())];
        assert_eq!(config.host_path(Path::new("/data/init/x")), PathBuf::from("/opt/init/x"));
        assert_eq!(config.host_path(Path::new("/data/a")), PathBuf::from("/srv/jetway/a"));
        assert_eq!(config.host_path(Path::new("/database")), PathBuf::from("/database"));
    }
}
