//! The one real container engine: Docker, on this host, over its socket. Not its business: the life of a backend, and
//! which slot is whose.
//!
//! | task | wakes | does |
//! |---|---|---|
//! | [`events::follow`] | the engine's events; every 10 s | hints, forgets what is known of images; a ping |
//! | [`events::keep_images`] | image events, pulls; every 10 min | lists the images |
//! | [`sandbox::end_the_cut_off`] | a sandbox that died | kills the container that had joined it |
//! | [`guard::Guard::keep`] | every 60 s | asks the kernel for our firewall table, puts it back |
//! | a pull | [`image::Images::ensure`] | ends with the pull |
//! | a line | [`super::init_line::open`] | ends when the line is dropped |

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dashmap::{DashMap, DashSet};
use futures_util::stream::BoxStream;
use jetway_protocol::ids::SlotId;
use jetway_protocol::image::Reference;
use jetway_protocol::key::Key;
use jetway_protocol::spec::Executable;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    ContainerStatus, CreateRequest, Found, Image, ImageError, InitLine, LogQuery, Runtime, RuntimeError,
    Subnet, init_line,
};

mod answer;
mod collect;
pub mod config;
pub mod contact;
mod container;
mod container_spec;
mod credentials;
pub mod engine;
mod errors;
mod events;
pub mod facts;
pub mod guard;
pub mod guard_helper;
pub mod host_paths;
mod image;
pub mod import;
mod init_executable;
pub mod limiter;
mod logs;
mod make;
mod mount;
pub mod names;
mod netlink;
pub mod network;
pub mod nft;
mod owner;
mod pull;
mod pulled;
mod readable;
mod routes;
mod sandbox;
mod shared;
mod slot_dirs;
mod start;
mod stop_signal;
mod subnet;

pub use config::DockerConfig;
pub use contact::Contact;
pub use errors::{ConnectError, NetworkError};
pub use facts::EngineFacts;
pub use guard::GuardStatus;
pub use limiter::LimiterCounters;
pub use pull::PullProgress;

use limiter::{Call, Class, Limiter};
use readable::Readable;
use shared::{Shared, SlotRecord};

/// Hints that may wait for a receiver before it has to look at everything.
const HINTS_MAX: usize = 1024;
/// For the first list of images; a slow one comes with a later heartbeat.
const FIRST_LIST: Duration = Duration::from_secs(2);

pub struct DockerRuntime {
    shared: Arc<Shared>,
    lifecycle: Lifecycle,
    facts: EngineFacts,
    network: network::OwnNetwork,
    guard: guard::Guard,
    guard_status: GuardStatus,
    guard_stop: CancellationToken,
    init_dir: PathBuf,
    limiter: Limiter,
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
        let readable = Readable::found(&engine, &config).await.map_err(ConnectError::Engine)?;
        let network = network::ensure(&engine, &config).await?;
        let guard = guard::Guard::of(&config);
        let guard_status = guard.close(&engine, &config).await;
        match &guard_status {
            GuardStatus::Closed(_) => tracing::info!(ports = %guard_status, "the host's own ports"),
            GuardStatus::Open(_) => tracing::warn!(ports = %guard_status, "the host's own ports"),
        }
        let pulled = pulled::Pulled::open(&config.data_dir);
        let images = image::Images::new(engine.clone(), lifecycle.clone(), config.pull_stall, pulled);
        // Before the first heartbeat: who wants an image that must be here is told of none otherwise.
        let _listed_later = timeout(FIRST_LIST, images.refresh()).await;
        let hints = broadcast::Sender::new(HINTS_MAX);
        let shared = Arc::new(Shared {
            engine,
            config,
            images,
            hints,
            losses: watch::Sender::new(0),
            slots: DashMap::new(),
            readable,
            sandboxes_leaving: DashSet::new(),
            sandboxes_dead: DashSet::new(),
            sandbox_died: Notify::new(),
            sandbox_image: tokio::sync::Mutex::default(),
        });
        if let Err(error) = sandbox::remove_nameless_images(&shared.engine).await {
            tracing::warn!(%error, "nameless images of sandboxes may be left");
        }
        lifecycle.spawn_until_stopped(sandbox::end_the_cut_off(Arc::clone(&shared)));
        lifecycle.spawn_until_stopped(events::follow(Arc::clone(&shared)));
        lifecycle.spawn_until_stopped(events::keep_images(Arc::clone(&shared)));
        let guard_stop = lifecycle.token().child_token();
        if guard_status == GuardStatus::Closed(guard::Means::Netlink) {
            let (guard, stop) = (guard.clone(), guard_stop.clone());
            lifecycle.spawn(async move { stop.run_until_cancelled(guard.keep()).await });
        }
        let (lifecycle, limiter) = (lifecycle.clone(), Limiter::new(facts.cpus));
        Ok(Self { shared, lifecycle, facts, network, guard, guard_status, guard_stop, init_dir, limiter })
    }

    /// The engine's version and the host's size.
    pub fn facts(&self) -> &EngineFacts {
        &self.facts
    }

    /// How many calls the engine is given at once, and how many wait.
    pub fn limiter(&self) -> LimiterCounters {
        self.limiter.counters()
    }

    /// Whether the host's own ports are closed to sessions: `doctor` shows it.
    pub fn guard_status(&self) -> &GuardStatus {
        &self.guard_status
    }

    /// What an operator should know, one line each: none where all is well.
    pub fn warnings(&self) -> Vec<String> {
        self.guard_status.warnings()
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
        let mut left = 0;
        for role in [names::ROLE_SLOT, names::ROLE_SANDBOX] {
            let listed = container::list(engine, &self.shared.config, role).await;
            left += listed.map_err(NetworkError::Engine)?.len();
        }
        if left > 0 {
            return Err(NetworkError::NotEmpty { name: self.network.name.clone(), containers: left });
        }
        network::remove(engine, &self.network).await.map_err(NetworkError::Engine)?;
        self.guard_stop.cancel();
        if let Err(error) = self.guard.open(engine, &self.shared.config, &self.guard_status).await {
            tracing::warn!(%error, "the firewall's table is left behind");
        }
        // What never came to be, or went with the host, has left its directory.
        if let Err(error) = slot_dirs::sweep(engine, &self.shared.config).await {
            tracing::warn!(%error, "slots' directories may be left behind");
        }
        let _not_empty = std::fs::remove_dir(slot_dirs::root(&self.shared.config));
        Ok(())
    }

    fn record(&self, slot: SlotId) -> Option<Arc<SlotRecord>> {
        self.shared.slots.get(&slot).map(|entry| Arc::clone(&entry))
    }
}

#[async_trait]
impl Runtime for DockerRuntime {
    async fn ensure_image(&self, executable: &Executable) -> Result<Image, ImageError> {
        self.shared.images.ensure(executable).await
    }

    async fn create(&self, request: &CreateRequest) -> Result<(), RuntimeError> {
        self.make(request).await
    }

    async fn make_sandbox(&self, sandbox: SlotId, address: Ipv4Addr) -> Result<(), RuntimeError> {
        let around = sandbox::Around { network_id: &self.network.id, init_dir: &self.init_dir };
        let making = sandbox::make(&self.shared, &around, sandbox, address);
        self.limiter.call(Class::Ahead, self.limiter.next_turn(), Call::Sandbox, making).await
    }

    async fn remove_sandbox(&self, sandbox: SlotId) -> Result<(), RuntimeError> {
        self.shared.sandboxes_leaving.insert(sandbox);
        let removed =
            self.limiter.removal(sandbox::remove(&self.shared.engine, &self.shared.config, sandbox)).await;
        self.shared.sandboxes_leaving.remove(&sandbox);
        if removed.is_ok() {
            self.shared.sandboxes_dead.remove(&sandbox);
        }
        removed
    }

    async fn list_sandboxes(&self) -> Result<Vec<Found>, RuntimeError> {
        sandbox::list(&self.shared).await
    }

    async fn start(&self, slot: SlotId) -> Result<IpAddr, RuntimeError> {
        self.start_once(slot).await
    }

    async fn inspect(&self, slot: SlotId) -> Result<ContainerStatus, RuntimeError> {
        let record = self.record(slot);
        let oom_seen = record.as_ref().is_some_and(|record| record.oom_seen.load(Ordering::Relaxed));
        let engine = &self.shared.engine;
        let mut name = self.shared.readable.container(slot);
        let inspected = loop {
            if let Some(inspected) = container::inspect(engine, &name).await? {
                break inspected;
            }
            // Absent proves an end, so it must not have been renamed meanwhile.
            let now = self.shared.readable.container(slot);
            if std::mem::replace(&mut name, now.clone()) == now {
                return Ok(ContainerStatus::Absent);
            }
        };
        Ok(match inspected.status {
            ContainerStatus::Running { paused, .. } if inspected.joined.is_some() => {
                let made = record.as_ref().and_then(|record| record.made.as_ref()?.address);
                let address = match made {
                    Some(address) => Some(address.into()),
                    None => container::address(engine, &inspected).await?,
                };
                ContainerStatus::Running { paused, address }
            }
            ContainerStatus::Exited { code, oom_killed } => {
                ContainerStatus::Exited { code, oom_killed: oom_killed || oom_seen }
            }
            status => status,
        })
    }

    fn was_cut_off(&self, slot: SlotId) -> bool {
        self.record(slot).is_some_and(|record| record.cut_off.load(Ordering::Relaxed))
    }

    async fn kill(&self, slot: SlotId, signal: i32) -> Result<(), RuntimeError> {
        container::kill(&self.shared.engine, &self.shared.readable.container(slot), signal).await
    }

    async fn remove(&self, slot: SlotId) -> Result<(), RuntimeError> {
        let name = self.shared.readable.container(slot);
        self.limiter.removal(container::remove(&self.shared.engine, &name)).await?;
        self.shared.slots.remove(&slot);
        self.shared.readable.forget(slot);
        slot_dirs::remove(&self.shared.config, slot);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Found>, RuntimeError> {
        container::list(&self.shared.engine, &self.shared.config, names::ROLE_SLOT).await
    }

    async fn name_after(&self, slot: SlotId, key: &Key) -> Result<(), RuntimeError> {
        self.shared.readable.rename(&self.shared.engine, slot, key).await
    }

    fn names_by_key(&self) -> bool {
        self.shared.config.names_by_key
    }

    async fn output_tail(&self, slot: SlotId, bytes_max: usize) -> Result<String, RuntimeError> {
        logs::tail(&self.shared.engine, &self.shared.readable.container(slot), bytes_max).await
    }

    async fn logs(
        &self,
        slot: SlotId,
        query: LogQuery,
    ) -> Result<BoxStream<'static, Result<Bytes, RuntimeError>>, RuntimeError> {
        logs::stream(&self.shared.engine, &self.shared.readable.container(slot), query).await
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

    async fn collect_images(&self, keep: &[String]) -> Result<Vec<String>, RuntimeError> {
        let Shared { engine, config, images, .. } = &*self.shared;
        let disk = collect::Disk::new(&self.facts.root, &config.data_dir, config.image_gc_percent);
        collect::collect(engine, images, &disk, keep).await
    }

    fn pull_progress(&self, executable: &Executable) -> Option<(u64, u64)> {
        let wanted = Reference::canonical(&executable.image);
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

    fn image_id(&self, name: &str) -> Option<String> {
        self.shared.images.remembered_id(name)
    }

    fn image_changes(&self) -> watch::Receiver<u64> {
        self.shared.images.generations()
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
