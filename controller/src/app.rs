//! What every request and task of a controller shares. No state here is needed by another replica: the table of drones
//! is a copy of Postgres', reservations only spread placements, and the counters are of this process.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jetway_protocol::at_rest::AtRest;
use jetway_protocol::ids::{BackendId, ClusterName, DroneId, FencingToken, GrantId, InstallationId};
use jetway_protocol::key::Key;
use jetway_protocol::lease::LeaseTerms;
use jetway_protocol::secret::Secret;
use jetway_protocol::token::{STATIC_PREFIX, TokenContent, TokenSealer};
use jetway_service::lifecycle::Lifecycle;
use sqlx::PgPool;
use tokio::sync::{Notify, Semaphore};

use crate::acme::Acme;
use crate::connect::deliver::Deliveries;
use crate::connect::offer::Offers;
use crate::connect::recent::Recent;
use crate::db::Pools;
use crate::db::backends::FoundTogether;
use crate::db::hot::Hot;
use crate::drone::DroneCalls;
use crate::events::Events;
use crate::fleet::Fleet;
use crate::gather::Gather;
use crate::lease::Leases;
use crate::silence::Silence;
use crate::warm::Warm;

/// Connects under way at once, the waiting ones included.
pub const CONNECTS_MAX: u32 = 4096;
/// Browsers that follow a status at once.
const STATUS_STREAMS_MAX: usize = 4096;
/// Operators that read logs at once: apart, so that browsers cannot keep them out.
const LOG_STREAMS_MAX: usize = 256;

pub type App = Arc<Shared>;

pub struct Shared {
    /// For the statements of connects.
    pub hot: Arc<Hot>,
    /// Keys that connects look up now.
    pub reads: Arc<Gather<Key, FoundTogether>>,
    /// For other requests of applications, operators and browsers.
    pub db: PgPool,
    /// For what drones and proxies report.
    pub internal: PgPool,
    pub housekeeping: PgPool,
    /// For renewals and the watch, and nothing else.
    pub lease_db: PgPool,
    pub leases: Leases,
    pub events: Events,
    pub silence: Silence,
    pub installation: InstallationId,
    pub cluster: ClusterName,
    pub secret: Secret,
    pub sealer: TokenSealer,
    /// For what is kept in Postgres and must not be read there.
    pub at_rest: AtRest,
    /// `None`: no certificates are ordered.
    pub acme: Option<Arc<Acme>>,
    pub access: Access,
    /// Without a slash at its end; `status_url` begins with it.
    pub public_url: String,
    pub fleet: Fleet,
    pub warm: Warm,
    pub drones: DroneCalls,
    pub lifecycle: Lifecycle,
    /// "Look now" for the task that compares inventories.
    pub inventory_nudge: Notify,
    pub connects: Arc<Semaphore>,
    pub recent: Recent,
    pub offers: Offers,
    pub deliveries: Deliveries,
    pub status_streams: Arc<Semaphore>,
    pub log_streams: Arc<Semaphore>,
    /// Of each drone: the backends with a live row that it said had ended, when it was last asked.
    pub ended_unreported: Mutex<HashMap<DroneId, HashSet<BackendId>>>,
    pub counters: Counters,
}

/// Who may use `/ctrl`.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody who presents this key.
    Key(String),
    /// Programs of this machine: a known Host and no foreign Origin. `public_host` is known, too: the host and port of a
    /// public URL that means this machine, or that an operator who said `--insecure` has named.
    Loopback { public_host: Option<String> },
    /// Everybody; the operator has said so.
    Open,
}

#[derive(Debug, Default)]
pub struct Counters {
    pub connects_spawned: AtomicU64,
    pub connects_joined: AtomicU64,
    pub connects_refused: AtomicU64,
    pub connects_failed: AtomicU64,
    pub events: AtomicU64,
    pub rows_lost: AtomicU64,
}

impl Counters {
    pub fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

impl Shared {
    pub fn new(pools: Pools, installation: InstallationId, settings: Settings) -> App {
        let Pools { hot, requests: db, internal, housekeeping, leases: lease_db } = pools;
        let Settings { cluster, secret, access, public_url, lease, warm_learn, acme, lifecycle } = settings;
        Arc::new(Self {
            hot,
            reads: Arc::default(),
            db,
            internal,
            housekeeping,
            lease_db,
            leases: Leases::new(lease),
            events: Events::default(),
            silence: Silence::default(),
            installation,
            cluster,
            sealer: TokenSealer::new(&secret, installation),
            at_rest: AtRest::new(&secret, installation),
            acme,
            drones: DroneCalls::new(&secret),
            secret,
            access,
            public_url,
            fleet: Fleet::default(),
            warm: Warm::new(warm_learn),
            lifecycle,
            inventory_nudge: Notify::new(),
            connects: Arc::new(Semaphore::new(CONNECTS_MAX as usize)),
            recent: Recent::default(),
            offers: Offers::default(),
            deliveries: Deliveries::default(),
            status_streams: Arc::new(Semaphore::new(STATUS_STREAMS_MAX)),
            log_streams: Arc::new(Semaphore::new(LOG_STREAMS_MAX)),
            ended_unreported: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// The token that a URL carries for a grant; a static one is the same from every controller.
    pub fn token(
        &self,
        backend: &BackendId,
        fencing_token: FencingToken,
        drone: DroneId,
        drone_address: &str,
        grant: GrantId,
    ) -> String {
        let sealed = self.sealer.seal(&TokenContent {
            backend: backend.clone(),
            fencing_token,
            drone,
            drone_address: drone_address.to_owned(),
            grant,
            expires_at: None,
        });
        if grant == GrantId::STATIC { format!("{STATIC_PREFIX}{sealed}") } else { sealed }
    }

    pub fn status_url(&self, backend: &BackendId) -> String {
        format!("{}/pub/b/{backend}/status", self.public_url)
    }
}

/// What [`Shared::new`] takes over from the configuration.
pub struct Settings {
    pub cluster: ClusterName,
    pub secret: Secret,
    pub access: Access,
    pub public_url: String,
    pub lease: Option<LeaseTerms>,
    pub warm_learn: bool,
    pub acme: Option<Arc<Acme>>,
    pub lifecycle: Lifecycle,
}
