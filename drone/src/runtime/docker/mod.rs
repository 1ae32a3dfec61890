//! The one real container engine: Docker, on this host, over its socket. Not its business: the life of a backend, and
//! which slot is whose.
//!
//! | task | wakes | does |
//! |---|---|---|
//! | [`events::follow`] | the engine's events; every 10 s | hints, forgets what is known of images; a ping |
//! | [`events::keep_images`] | image events, pulls; every 10 min | lists the images |
//! | [`guard::Guard::keep`] | every 60 s | asks the kernel for our firewall table, puts it back |
//! | a pull | [`image::Images::ensure`] | ends with the pull |
//! | a line | [`super::init_line::open`] | ends when the line is dropped |

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::DashMap;
use futures_util::stream::BoxStream;
use jetway_protocol::ids::SlotId;
use jetway_protocol::spec::Executable;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::lease;

use super::{
    ContainerStatus, CreateRequest, Found, Image, ImageError, InitLine, Runtime, RuntimeError, Subnet,
    init_line,
};

pub mod config;
pub mod contact;
mod container;
mod container_spec;
mod credentials;
pub mod engine;
mod events;
pub mod guard;
pub mod guard_helper;
pub mod host_paths;
mod image;
pub mod import;
mod init_executable;
mod logs;
mod mount;
pub mod names;
mod netlink;
pub mod network;
pub mod nft;
mod pull;
pub mod reference;
mod routes;
mod slot_dirs;
mod start;
mod stop_signal;
mod subnet;

pub use config::{ConnectError, DockerConfig};
pub use contact::Contact;
pub use engine::EngineFacts;
pub use guard::GuardStatus;
pub use network::NetworkError;
pub use pull::PullProgress;

/// Hints that may wait for a receiver before it has to look at everything.
const HINTS_MAX: usize = 1024;

pub struct DockerRuntime {
    shared: Arc<Shared>,
    lifecycle: Lifecycle,
    facts: EngineFacts,
    network: network::OwnNetwork,
    guard: guard::Guard,
    guard_status: GuardStatus,
    guard_stop: CancellationToken,
    init_dir: PathBuf,
}

/// What the tasks have in common.
pub(crate) struct Shared {
    engine: engine::Engine,
    config: DockerConfig,
    images: image::Images,
    hints: broadcast::Sender<SlotId>,
    /// Counts event streams that broke.
    losses: watch::Sender<u64>,
    slots: DashMap<SlotId, Arc<SlotRecord>>,
}

/// What this process knows of a slot's container without asking.
#[derive(Debug, Default)]
struct SlotRecord {
    made: Option<Made>,
    /// Docker forgets, on some engines, that it told of an out-of-memory kill.
    oom_seen: AtomicBool,
}

#[derive(Debug)]
struct Made {
    /// On our own network.
    address: Option<Ipv4Addr>,
    mount: Option<mount::Identity>,
    /// It is started at most once: a second start would run a container that has ended.
    was_started: AtomicBool,
}

impl SlotRecord {
    fn note_oom(&self) {
        self.oom_seen.store(true, Ordering::Relaxed);
    }
}

impl DockerRuntime {
    /// With an engine that answers now.
    pub async fn connect(config: DockerConfig, lifecycle: &Lifecycle) -> Result<Self, ConnectError> {
        Self::over(Contact::make(Duration::ZERO).await?, config, lifecycle).await
    }

    /// Makes or finds the drone's network, closes the host's ports to it and begins to listen.
    pub async fn over(
        contact: Contact,
        config: DockerConfig,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ConnectError> {
        let Contact { engine, facts } = contact;
        let init_dir = init_executable::install(&config.init_executable, &config.data_dir)?;
        slot_dirs::prepare(&config)?;
        slot_dirs::sweep(&engine, &config).await?;
        let network = network::ensure(&engine, &config).await?;
        let guard = guard::Guard::of(&config);
        let guard_status = guard.close(&engine, &config).await;
        match &guard_status {
            GuardStatus::Closed(_) => tracing::info!(ports = %guard_status, "the host's own ports"),
            GuardStatus::Open(_) => tracing::warn!(ports = %guard_status, "the host's own ports"),
        }
        let images = image::Images::new(engine.clone(), lifecycle.clone(), config.pull_stall);
        let hints = broadcast::Sender::new(HINTS_MAX);
        let (losses, slots) = (watch::Sender::new(0), DashMap::new());
        let shared = Arc::new(Shared { engine, config, images, hints, losses, slots });
        lifecycle.spawn_until_stopped(events::follow(Arc::clone(&shared)));
        lifecycle.spawn_until_stopped(events::keep_images(Arc::clone(&shared)));
        let guard_stop = lifecycle.token().child_token();
        if guard_status == GuardStatus::Closed(guard::Means::Netlink) {
            let (guard, stop) = (guard.clone(), guard_stop.clone());
            lifecycle.spawn(async move { stop.run_until_cancelled(guard.keep()).await });
        }
        let lifecycle = lifecycle.clone();
        Ok(Self { shared, lifecycle, facts, network, guard, guard_status, guard_stop, init_dir })
    }

    /// The engine's version and the host's size.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// Whether the host's own ports are closed to sessions: `doctor` shows it.
    pub fn guard_status(&self) -> &GuardStatus {
        &self.guard_status
    }

    /// What an operator should know, one line each: none where all is well.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let GuardStatus::Open(_) = self.guard_status {
            warnings.push(format!("the host's own ports are {}", self.guard_status));
        }
        let is_here = !matches!(self.guard_status, GuardStatus::Closed(guard::Means::Helper));
        if is_here && !network::is_bridge_filtered() {
            warnings.push(
                "sessions may reach each other: net.bridge.bridge-nf-call-iptables is not 1 (modprobe br_netfilter)"
                    .to_owned(),
            );
        }
        warnings
    }

    /// The network's name and bridge.
    pub fn network(&self) -> &network::OwnNetwork {
        &self.network
    }

    /// Pulls under way, by image.
    pub fn pulls(&self) -> Vec<(String, PullProgress)> {
        self.shared.images.pulls()
    }

    /// For an orderly end: takes away the network and the firewall's table. Refused while any container of this drone
    /// is left.
    pub async fn remove_network(&self) -> Result<(), NetworkError> {
        let engine = &self.shared.engine;
        let left = container::list(engine, &self.shared.config).await.map_err(NetworkError::Engine)?;
        if !left.is_empty() {
            return Err(NetworkError::NotEmpty { name: self.network.name.clone(), containers: left.len() });
        }
        network::remove(engine, &self.network).await.map_err(NetworkError::Engine)?;
        self.guard_stop.cancel();
        if let Err(error) = self.guard.open(engine, &self.shared.config, &self.guard_status).await {
            tracing::warn!(%error, "the firewall's table is left behind");
        }
        let _not_empty = std::fs::remove_dir(slot_dirs::root(&self.shared.config));
        Ok(())
    }

    fn record(&self, slot: SlotId) -> Option<Arc<SlotRecord>> {
        self.shared.slots.get(&slot).map(|entry| Arc::clone(&entry))
    }

    async fn data_mount(&self, request: &CreateRequest) -> Result<Option<mount::DataMount>, RuntimeError> {
        let Some(path) = request.executable.mount.clone() else { return Ok(None) };
        let Some(base) = self.shared.config.mount_base.clone() else {
            return Err(RuntimeError::NotOffered(
                "this drone has no mount base, so it offers no mounts".to_owned(),
            ));
        };
        let owner = mount::owner_of(container_spec::user(&request.executable, &request.image));
        let resolved = tokio::task::spawn_blocking(move || mount::resolve(&base, &path, owner)).await;
        match resolved {
            Ok(Ok(mount)) => Ok(Some(mount)),
            Ok(Err(error)) => Err(RuntimeError::Refused(error.to_string())),
            Err(error) => Err(RuntimeError::Engine(error.to_string())),
        }
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn ensure_image(&self, executable: &Executable) -> Result<Image, ImageError> {
        self.shared.images.ensure(executable).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<(), RuntimeError> {
        let mount = self.data_mount(request).await?;
        let slot_dir = slot_dirs::of(&self.shared.config, request.slot);
        init_line::make_directory(&slot_dir)
            .map_err(|error| RuntimeError::Engine(format!("{}: {error}", slot_dir.display())))?;
        let surroundings = container_spec::Surroundings {
            config: &self.shared.config,
            network_id: &self.network.id,
            init_dir: &self.init_dir,
            slot_dir: &slot_dir,
            lease_dir: &lease::file::directory(&self.shared.config.run_dir),
            data_mount: mount.as_ref().map(|mount| mount.path.as_path()),
        };
        let body = container_spec::container(request, &surroundings)?;
        let is_new = container::create(&self.shared.engine, request.slot, body).await?;
        if is_new || self.record(request.slot).is_none_or(|record| record.made.is_none()) {
            let made = Made {
                address: request.executable.network_name.is_none().then_some(request.address),
                mount: mount.map(|mount| mount.identity),
                // Made by an earlier call, whose answer was lost: only what the engine says of it counts.
                was_started: AtomicBool::new(!is_new),
            };
            let record = SlotRecord { made: Some(made), oom_seen: AtomicBool::new(false) };
            self.shared.slots.insert(request.slot, Arc::new(record));
        }
        Ok(())
    }

    async fn start(&self, slot: SlotId) -> Result<IpAddr, RuntimeError> {
        self.start_once(slot).await
    }

    async fn inspect(&self, slot: SlotId) -> Result<ContainerStatus, RuntimeError> {
        let oom_seen = self.record(slot).is_some_and(|record| record.oom_seen.load(Ordering::Relaxed));
        let inspected = container::inspect(&self.shared.engine, slot).await?;
        Ok(match inspected.map(|inspected| inspected.status) {
            None => ContainerStatus::Absent,
            Some(ContainerStatus::Exited { code, oom_killed }) => {
                ContainerStatus::Exited { code, oom_killed: oom_killed || oom_seen }
            }
            Some(status) => status,
        })
    }

    async fn kill(&self, slot: SlotId, signal: i32) -> Result<(), RuntimeError> {
        container::kill(&self.shared.engine, slot, signal).await
    }

    async fn remove(&self, slot: SlotId) -> Result<(), RuntimeError> {
        container::remove(&self.shared.engine, slot).await?;
        self.shared.slots.remove(&slot);
        let directory = slot_dirs::of(&self.shared.config, slot);
        match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %directory.display(), %error, "a slot's directory is left behind");
            }
            _ => {}
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        container::list(&self.shared.engine, &self.shared.config).await
    }

    async fn output_tail(&self, slot: SlotId, bytes_max: usize) -> Result<String, RuntimeError> {
        logs::tail(&self.shared.engine, slot, bytes_max).await
    }

    async fn logs(
        &self,
        slot: SlotId,
        tail: Option<u32>,
        follow: bool,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        logs::stream(&self.shared.engine, slot, tail, follow).await
    }

    async fn ping(&self) -> Result<(), RuntimeError> {
        self.shared.engine.ping().await
    }

    fn losses(&self) -> watch::Receiver<u64> {
        self.shared.losses.subscribe()
    }

    fn hints(&self) -> broadcast::Receiver<SlotId> {
        self.shared.hints.subscribe()
    }

    fn subnet(&self) -> Subnet {
        self.network.subnet
    }

    fn pull_progress(&self, executable: &Executable) -> Option<(u64, u64)> {
        let wanted = reference::Reference::parse(&executable.image).ok()?.to_string();
        let pulls = self.pulls();
        let (_, progress) = pulls.iter().find(|(image, _)| *image == wanted)?;
        Some((progress.bytes, progress.bytes_total))
    }

    fn warnings(&self) -> Vec<String> {
        DockerRuntime::warnings(self)
    }

    fn images(&self) -> Vec<String> {
        self.shared.images.names()
    }

    async fn open_line(&self, slot: SlotId) -> Result<InitLine, RuntimeError> {
        self.open_line_of(slot, None).await
    }

    async fn open_line_of(&self, slot: SlotId, nonce: Option<String>) -> Result<InitLine, RuntimeError> {
        let directory = slot_dirs::of(&self.shared.config, slot);
        init_line::open(&self.lifecycle, &directory, nonce)
            .map_err(|error| RuntimeError::Engine(format!("{}: {error}", directory.display())))
    }
}
