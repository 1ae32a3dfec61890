//! Brings an agent up: identity, server, first registration, engine, adoption, and then everybody is served.
//!
//! The server listens from the beginning, so that a controller gets "not yet" and no refused connection; it serves
//! once everything that ran before has its task again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::controller_api::{BackendEvent, Capacity, Stale};
use jetway_protocol::ids::{DroneId, InstallationId};
use jetway_protocol::secret::Purpose;
use jetway_protocol::status::{EndReason, TerminationKind};
use jetway_service::client::Client;
use jetway_service::clock;
use jetway_service::controllers::{self, BadUrl, Controllers, FirstContact};
use jetway_service::lifecycle::Lifecycle;
use jetway_service::silence::Silence;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::agent::{Agent, Parts};
use crate::config::{self, Config};
use crate::controllers::membership::Membership;
use crate::controllers::outbox;
use crate::controllers::registration::{self, Facts, Refused, Registration};
use crate::http::{self, Gate};
use crate::lease::{self, Lease, Tenure, keeper};
use crate::runtime::docker::host_paths::{self, Needed};
use crate::runtime::docker::{ConnectError, Contact, DockerConfig, DockerRuntime, EngineFacts, NetworkError};
use crate::runtime::{Runtime, RuntimeError};
use crate::store::data_dir::{DataDir, DataDirError, Identity};
use crate::store::journal::Journals;
use crate::store::last_output;
use crate::store::run_dir::{RunDir, RunDirError};
use crate::{adoption, reconcile, warm};

/// A session that was killed has ended after this, unless its engine is stuck.
const HARD_STOP_MAX: Duration = Duration::from_secs(5);
/// For the engine to take the drone's network away at the end.
const LEAVE_MAX: Duration = Duration::from_secs(3);
/// A controller that answers by then is asked whether this drone is somebody else's, before its sessions are adopted.
const ASK_FIRST_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error("cannot read this host's boot id and network namespace: mount /proc")]
    Host(#[source] std::io::Error),
    #[error("cannot listen on {address}: free the port, or choose another with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    ControllerUrl(#[from] BadUrl),
    #[error("the controller refuses this drone: {0}")]
    Refused(String),
    #[error("no controller takes this drone: {0}")]
    RefusedByAll(String),
    #[error(transparent)]
    Engine(#[from] ConnectError),
    #[error("the journal in {path} cannot be read: make it readable, or start with another --data-dir")]
    Journal { path: String, source: std::io::Error },
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error("stopped before it was registered")]
    Stopped,
}

impl From<Refused> for StartError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stale(Stale { message, .. }) => Self::Refused(message),
            Refused::ByAll(why) => Self::RefusedByAll(why),
        }
    }
}

/// A running agent. Dropping it stops nothing: its tasks belong to the lifecycle.
pub struct Drone {
    pub address: SocketAddr,
    pub id: DroneId,
    pub(crate) agent: Arc<Agent>,
    docker: Option<Arc<DockerRuntime>>,
    refused: watch::Receiver<Option<String>>,
    /// Held until the caller lets go of this.
    run_dir: Option<RunDir>,
}

impl Drone {
    /// Every status that a backend of this drone reaches from now on.
    pub fn events(&self) -> broadcast::Receiver<BackendEvent> {
        self.agent.reports.events.subscribe()
    }

    /// Returns when no controller takes this drone, and none has since its start, and it has no session: waiting
    /// changes nothing then.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        match refused.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Stops every session softly and waits; stops what is left by the deadline hard; then removes what the engine
    /// holds for this drone. Returns how many have not ended even so.
    pub async fn stop_sessions(&self, deadline: Duration) -> usize {
        self.agent.membership.close();
        let deadline = Instant::now() + deadline;
        self.stop_all(TerminationKind::Soft, deadline).await;
        self.stop_all(TerminationKind::Hard, deadline + HARD_STOP_MAX).await;
        let left = self.agent.backends.by_id.len();
        self.leave_engine().await;
        left
    }

    async fn stop_all(&self, kind: TerminationKind, until: Instant) {
        for backend in self.agent.all_backends() {
            let stopping = backend.stop(kind, EndReason::External);
            let _has_ended_or_hangs = tokio::time::timeout_at(until, stopping).await;
        }
        for backend in self.agent.all_backends() {
            let mut follow = backend.follow();
            let ended = async { while follow.changed().await.is_ok() {} };
            let _counted_below = tokio::time::timeout_at(until, ended).await;
        }
    }

    /// At the end of an agent: what was only kept ready goes. Without sessions its network, firewall table and lease directory
    /// go too, so that nothing of it is left; with sessions they stay for the next start, which adopts them. An
    /// engine that hangs is not waited for.
    pub async fn leave_engine(&self) {
        reconcile::leave::leave(&self.agent).await;
        let Some(docker) = &self.docker else { return };
        if !self.agent.backends.by_id.is_empty() || !self.agent.strays.sessions.is_empty() {
            return;
        }
        let left = tokio::time::timeout(LEAVE_MAX, docker.remove_network()).await;
        if let Some(run_dir) = &self.run_dir {
            lease::file::remove(run_dir.path());
        }
        let silent =
            || Err(NetworkError::Engine(RuntimeError::Engine(format!("no answer in {LEAVE_MAX:?}"))));
        match left.unwrap_or_else(|_| silent()) {
            Ok(()) => {}
            // It went down with the host, most likely; the next start finds the network again.
            Err(NetworkError::Engine(RuntimeError::Engine(reason) | RuntimeError::Unreachable(reason))) => {
                tracing::info!(reason, "the engine does not answer: the drone's network is left");
            }
            Err(error) => tracing::warn!(%error, "the drone's network cannot be removed"),
        }
    }
}

pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Drone, StartError> {
    let mut opening = Opening::open(config, &lifecycle).await?;
    let run_dir = RunDir::open(&opening.config.run_dir, opening.data_dir.path())?;
    // Before the first registration: what is wrong here is no controller's business.
    let contact = Contact::make(opening.config.engine_patience).await?;
    opening.note_engine(contact.facts());
    let host_paths = contact.host_paths(&opening.config.host_paths, &needed(&opening.config)).await?;
    let installation = opening.installation(&lifecycle).await?;
    let docker = docker_config(&opening.config, opening.identity.id, installation, host_paths);
    let docker = Arc::new(DockerRuntime::over(contact, docker, &lifecycle).await?);
    for warning in docker.warnings() {
        tracing::warn!("{warning}");
    }
    let mut drone = opening.run(docker.clone(), lifecycle).await?;
    drone.docker = Some(docker);
    drone.run_dir = Some(run_dir);
    Ok(drone)
}

/// The same to end what an earlier agent has left: it registers nowhere. `None`: that one never
/// registered, and so began nothing.
pub async fn start_to_leave(config: Config, lifecycle: Lifecycle) -> Result<Option<Drone>, StartError> {
    let (_, identity) = DataDir::open(&config.data_dir)?;
    if identity.installation.is_none() {
        return Ok(None);
    }
    start(Config { controllers: Vec::new(), ..config }, lifecycle).await.map(Some)
}

/// The same over an engine of the caller's.
pub async fn start_with_runtime(
    config: Config,
    lifecycle: Lifecycle,
    runtime: Arc<dyn Runtime>,
) -> Result<Drone, StartError> {
    Opening::open(config, &lifecycle).await?.run(runtime, lifecycle).await
}

/// An agent that listens, and does not serve yet.
struct Opening {
    config: Config,
    data_dir: DataDir,
    identity: Identity,
    address: SocketAddr,
    gate: Gate,
    registration: Registration,
    capacity: Capacity,
    warm: warm::Settings,
}

impl Opening {
    async fn open(config: Config, lifecycle: &Lifecycle) -> Result<Self, StartError> {
        let urls = match config.controllers.is_empty() {
            true => Vec::new(),
            false => controllers::urls(&config.controllers)?,
        };
        let (mut data_dir, identity) = DataDir::open(&config.data_dir)?;
        let boot_id = clock::boot_id().map_err(StartError::Host)?;
        data_dir.lock_identity(identity, boot_id)?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address: config.listen, source })?;
        let broken = |source| StartError::Journal { path: data_dir.path().display().to_string(), source };
        let gate = Gate::new(config.secret.clone(), Journals::open(data_dir.path()).map_err(broken)?);
        http::serve(listener, gate.clone(), lifecycle);

        let capacity = capacity(&config);
        let advertise = config.advertise.clone().unwrap_or_else(|| address.to_string());
        let facts = Facts { identity, boot_id, advertise, capacity: capacity.clone() };
        let client = Client::new(config.secret.bearer(Purpose::DroneToController));
        let registration = Registration {
            contact: FirstContact::new(&urls),
            controllers: Arc::new(Controllers::new(urls, client)),
            membership: Arc::new(Membership::default()),
            lease: Arc::new(Lease::open(&config.run_dir, boot_id, Arc::new(clock::boot_time))),
            register: registration::register(&config, facts),
            silence: Silence::default(),
            is_nearer: false,
            beats: Default::default(),
        };
        let (sandboxes, memory_bytes, calm) = (config.sandboxes, config.warm_memory_bytes, config.calm);
        let warm = warm::Settings { sandboxes, memory_bytes, calm };
        Ok(Self { config, data_dir, identity, address, gate, registration, capacity, warm })
    }

    fn note_engine(&mut self, facts: &EngineFacts) {
        self.capacity.no_disk_limit = !facts.can_limit_disk;
        self.registration.register.capacity = self.capacity.clone();
    }

    /// From the data directory, or from the first registration, which then is waited for.
    async fn installation(&mut self, lifecycle: &Lifecycle) -> Result<InstallationId, StartError> {
        if let Some(installation) = self.identity.installation {
            self.ask_first(lifecycle).await?;
            return Ok(installation);
        }
        let registered = lifecycle.token().run_until_cancelled(self.registration.first()).await;
        let registered = registered.ok_or(StartError::Stopped)?.map_err(StartError::from)?;
        self.identity.installation = Some(registered.installation);
        self.data_dir.save(self.identity)?;
        Ok(registered.installation)
    }

    /// Two agents with one identity on one engine would end each other's sessions. Not where the lease is over: those
    /// sessions must be ended before a new term is asked for.
    async fn ask_first(&mut self, lifecycle: &Lifecycle) -> Result<(), StartError> {
        if self.registration.controllers.urls().is_empty() || self.registration.lease.is_lost(Tenure::FOUND) {
            return Ok(());
        }
        let asked = lifecycle.token().run_until_cancelled(self.registration.at_once(ASK_FIRST_MAX)).await;
        asked.ok_or(StartError::Stopped)?.map_err(StartError::from)
    }

    async fn run(self, runtime: Arc<dyn Runtime>, lifecycle: Lifecycle) -> Result<Drone, StartError> {
        let path = self.data_dir.path().display().to_string();
        let parts = Parts {
            id: self.identity.id,
            boot_id: self.registration.register.boot_id,
            netns: clock::network_namespace().map_err(StartError::Host)?,
            capacity: self.capacity,
            data_dir: self.data_dir,
            runtime,
            lifecycle: lifecycle.clone(),
            membership: self.registration.membership.clone(),
            lease: self.registration.lease.clone(),
            warm: self.warm,
            process: self.registration.register.agent.unwrap_or_else(uuid::Uuid::new_v4),
        };
        let broken = |source| StartError::Journal { path: path.clone(), source };
        let agent = Arc::new(Agent::new(parts).map_err(broken)?);
        let adopted = adoption::adopt_all(&agent).map_err(broken)?;
        tracing::info!(drone = %agent.drone.id, address = %self.address, adopted, "the drone serves");
        self.gate.open(agent.clone());

        let controllers = self.registration.controllers.clone();
        let (tell_refused, refused) = watch::channel(None);
        if !controllers.urls().is_empty() {
            lifecycle.spawn_until_stopped(self.registration.keep(agent.clone(), tell_refused));
            lifecycle.spawn_until_stopped(outbox::deliver(agent.clone(), controllers));
        }
        lifecycle.spawn_until_stopped(reconcile::follow_hints(agent.clone()));
        lifecycle.spawn_until_stopped(reconcile::look_at_everything(agent.clone()));
        lifecycle.spawn_until_stopped(reconcile::ping(agent.clone()));
        lifecycle.spawn_until_stopped(reconcile::collect_images(agent.clone()));
        lifecycle.spawn_until_stopped(warm::keeper::keep(agent.clone()));
        lifecycle.spawn_until_stopped(last_output::forget_old(agent.store.last_outputs.clone()));
        lifecycle.spawn_until_stopped(keeper::follow_suspends(agent.lease.clone()));
        Ok(Drone { address: self.address, id: agent.drone.id, agent, refused, docker: None, run_dir: None })
    }
}

/// What is bound into sessions' containers.
fn needed(config: &Config) -> Vec<Needed<'_>> {
    let mut needed = vec![
        Needed { flag: "--data-dir", path: &config.data_dir },
        Needed { flag: "--run-dir", path: &config.run_dir },
    ];
    needed.extend(config.mount_base.iter().map(|path| Needed { flag: "--mount-base", path }));
    needed
}

fn docker_config(
    config: &Config,
    drone: DroneId,
    installation: InstallationId,
    host_paths: Vec<(PathBuf, PathBuf)>,
) -> DockerConfig {
    // The engine takes absolute paths only; a path that it knows by another name must be compared without links.
    let bound = |path: &Path| match host_paths.is_empty() {
        true => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        false => host_paths::real(path),
    };
    let paths = (bound(&config.data_dir), bound(&config.run_dir), config.init_executable.clone());
    DockerConfig {
        session_subnet: config.session_subnet,
        mount_base: config.mount_base.as_deref().map(bound),
        host_paths,
        allowed_networks: config.allowed_networks.clone(),
        container_runtime: config.container_runtime.clone(),
        image_gc_percent: config.image_gc_percent,
        helper_image: config.helper_image.clone(),
        names_by_key: config.names_by_key,
        ..DockerConfig::new(installation, drone, paths.0, paths.1, paths.2)
    }
}

fn capacity(config: &Config) -> Capacity {
    Capacity {
        cpus: config.cpus.unwrap_or_else(config::host_cpus),
        memory_bytes: config.memory_bytes.unwrap_or_else(config::host_memory_bytes),
        backends_max: config.backends_max,
        mounts: config.mount_base.is_some(),
        networks: config.allowed_networks.clone(),
        // Until the engine was asked.
        no_disk_limit: false,
    }
}
