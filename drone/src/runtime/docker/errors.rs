//! Why there is no working engine, or no network for sessions: in words that say what to do.

use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::init_executable::InitExecutableError;
use super::subnet::SubnetError;
use crate::runtime::RuntimeError;

/// Why there is no working engine. Each says in one line what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(
        "DOCKER_HOST is {0}, but sessions need an engine on this host: set it to unix:///path/of/docker.sock"
    )]
    NotLocal(String),
    #[error("no container engine answers at {0}: start it (systemctl start docker) or set DOCKER_HOST")]
    NotRunning(String),
    #[error("no permission to use the engine at {0}: run as root or as a member of the group docker")]
    PermissionDenied(String),
    #[error(
        "the engine speaks API {api} (version {version}); it needs {minimum} or newer: upgrade Docker to 20.10 or newer"
    )]
    TooOld { version: String, api: String, minimum: &'static str },
    #[error(
        "{0} is a directory, not an engine's socket (Docker makes one where a mount's source is missing): start the engine on the host, remove that directory, and mount the socket again"
    )]
    SocketIsDirectory(String),
    #[error("{0} is not a socket: name the engine's with DOCKER_HOST=unix:///path/of/docker.sock")]
    NotASocket(String),
    #[error("the engine failed at the start: {0}")]
    Engine(RuntimeError),
    #[error(transparent)]
    InitExecutable(#[from] InitExecutableError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("{path} cannot be used: {reason}")]
    Directory { path: PathBuf, reason: String },
    /// This process runs in a container, and the engine can only bind directories of its own host.
    #[error(
        "the engine cannot reach {path} ({flag}), which lies under no bind or volume of this container: {advice}"
    )]
    OutOfReach { path: PathBuf, flag: &'static str, advice: &'static str },
}

impl ConnectError {
    /// Whether an engine that is starting may answer so.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::NotRunning(_) | Self::Engine(RuntimeError::Engine(_) | RuntimeError::Unreachable(_))
        )
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(transparent)]
    Subnet(#[from] SubnetError),
    #[error(
        "the network {name} of this drone has {found} and containers on it, but --session-subnet says {wanted}: drain the drone first"
    )]
    InUse { name: String, found: String, wanted: Ipv4Net },
    #[error("the sessions' network cannot be made: {0}")]
    Engine(RuntimeError),
    #[error("the network {name} still has {containers} of this drone's containers")]
    NotEmpty { name: String, containers: usize },
}
