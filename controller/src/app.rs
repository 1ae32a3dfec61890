//! What a controller is made of: one handle for each concern. Handlers take what they need from it,
//! tasks and connects are made from it once ([`crate::tasks`], [`Connects`]). No state here is
//! needed by another replica: the table of drones is a copy of Postgres', reservations only spread
//! placements, and the counters are of this process.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::at_rest::AtRest;
use jetway_protocol::certificates::{PENDING_READ, Pending};
use jetway_protocol::ids::{ClusterName, InstallationId};
use jetway_protocol::lease::LeaseTerms;
use jetway_protocol::secret::Secret;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::Semaphore;

use crate::acme::Acme;
use crate::coalesce::Coalesce;
use crate::connect::approvals::Approvals;
use crate::connect::context::Connects;
use crate::connect::deliver::Grants;
use crate::connect::hosts::{CONTESTS_MAX, Hosts};
use crate::connect::keys::Keys;
use crate::connect::known_hosts::KnownHosts;
use crate::connect::offer::Offers;
use crate::connect::wait::Waits;
use crate::counters::Counters;
use crate::db::Pools;
use crate::db::installation::Installation;
use crate::driver::Driver;
use crate::drone::DroneCalls;
use crate::events::Events;
use crate::fleet::Fleet;
use crate::fresh::Fresh;
use crate::lease::Leases;
use crate::owners::Owners;
use crate::return_urls::ReturnUrls;
use crate::silence::Silence;
use crate::urls::Urls;
use crate::warm::Warm;

/// Connects under way at once, the waiting ones included.
pub const CONNECTS_MAX: u32 = 4096;
/// Browsers that follow a status at once.
const STATUS_STREAMS_MAX: usize = 4096;
/// Operators that read logs at once: apart, so that browsers cannot keep them out.
const LOG_STREAMS_MAX: usize = 256;
/// Strangers poll `/pub/health`: Postgres sees four pings a second at most.
const PONG_AGE_MAX: Duration = Duration::from_millis(250);

pub type App = Arc<Shared>;

pub struct Shared {
    pub pools: Pools,
    pub lifecycle: Lifecycle,
    pub tasks: Driver,
    pub identity: Identity,
    pub access: Access,
    /// For what is kept in Postgres and must not be read there.
    pub at_rest: Arc<AtRest>,
    pub urls: Arc<Urls>,
    pub fleet: Arc<Fleet>,
    pub drones: Arc<DroneCalls>,
    pub leases: Arc<Leases>,
    pub events: Arc<Events>,
    pub warm: Arc<Warm>,
    pub connects: Arc<Connects>,
    /// Of hosts, for proxies.
    pub owners: Owners,
    pub return_urls: Arc<ReturnUrls>,
    pub certificates: Certificates,
    pub streams: Streams,
    pub silence: Arc<Silence>,
    /// Postgres' last ping, for `/pub/health`.
    pub pong: Fresh<()>,
    pub counters: Arc<Counters>,
}

/// Which installation this controller belongs to.
pub struct Identity {
    pub installation: InstallationId,
    /// The default cluster.
    pub cluster: ClusterName,
    pub secret: Secret,
}

pub struct Certificates {
    /// `None`: no certificates are ordered.
    pub acme: Option<Arc<Acme>>,
    /// The answers of orders under way, for all proxies.
    pub pending: Fresh<Pending>,
}

/// Long answers under way at once.
pub struct Streams {
    pub statuses: Arc<Semaphore>,
    pub logs: Arc<Semaphore>,
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

impl Shared {
    pub fn new(pools: Pools, installation: Installation, settings: Settings) -> App {
        let Settings { cluster, secret, access, public_url, lease, warm_learn, acme, host_hold, lifecycle } =
            settings;
        let Installation { id: installation, label_key } = installation;
        let at_rest = Arc::new(AtRest::new(&secret, installation));
        let urls = Arc::new(Urls::new(&secret, installation, public_url));
        let return_urls = Arc::<ReturnUrls>::default();
        let drones = Arc::new(DroneCalls::new(&secret));
        let (fleet, silence): (Arc<Fleet>, Arc<Silence>) = Default::default();
        let leases = Arc::new(Leases::new(lease));
        let warm = Arc::new(Warm::new(warm_learn));
        let hosts = Hosts {
            labels: label_key,
            hold: host_hold,
            cluster: cluster.clone(),
            hot: pools.hot.clone(),
            leases: leases.clone(),
            fleet: fleet.clone(),
            approvals: Approvals::new(acme.clone()),
            return_urls: return_urls.clone(),
            known: KnownHosts::default(),
            looking: Coalesce::default(),
            inserting: Coalesce::default(),
            contests: Semaphore::new(CONTESTS_MAX),
        };
        let connects = Connects {
            permits: Arc::new(Semaphore::new(CONNECTS_MAX as usize)),
            keys: Keys::new(pools.hot.clone()),
            grants: Grants::new(Offers::new(drones.clone()), fleet.clone(), lifecycle.clone()),
            waits: Waits { drones: drones.clone(), db: pools.requests.clone(), lifecycle: lifecycle.clone() },
            hosts,
            cluster: cluster.clone(),
            hot: pools.hot.clone(),
            db: pools.requests.clone(),
            at_rest: at_rest.clone(),
            urls: urls.clone(),
            fleet: fleet.clone(),
            drones: drones.clone(),
            warm: warm.clone(),
            leases: leases.clone(),
            silence: silence.clone(),
            inventory_nudge: Arc::default(),
            lifecycle: lifecycle.clone(),
        };
        let owners = Owners::new(pools.hot.clone(), host_hold);
        Arc::new(Self {
            pools,
            tasks: Driver::new(lifecycle.clone()),
            lifecycle,
            identity: Identity { installation, cluster, secret },
            access,
            at_rest,
            urls,
            fleet,
            drones,
            leases,
            events: Arc::default(),
            warm,
            connects: Arc::new(connects),
            owners,
            return_urls,
            certificates: Certificates { acme, pending: Fresh::new(PENDING_READ) },
            streams: Streams {
                statuses: Arc::new(Semaphore::new(STATUS_STREAMS_MAX)),
                logs: Arc::new(Semaphore::new(LOG_STREAMS_MAX)),
            },
            silence,
            pong: Fresh::new(PONG_AGE_MAX),
            counters: Arc::default(),
        })
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
    /// How long a host stays its key's after the end of the last session in the host form.
    pub host_hold: Duration,
    pub lifecycle: Lifecycle,
}
