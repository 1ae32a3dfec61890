//! One simulated drone: it registers, sends heartbeats, and reports what becomes of its backends. What it is told is
//! `server.rs`'s.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{
    BackendEvent, Capacity, EVENTS_MAX, Events, Heartbeat, HeartbeatReply, Load, Register, Registered,
};
use jetway_protocol::drone_api::InventoryEntry;
use jetway_protocol::ids::{BackendId, BootId, DroneId, FencingToken, Term};
use jetway_protocol::key::Key;
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
use jetway_protocol::warm::{Kind, KindLoad, Tier, WarmLoad, WarmTargets};
use jetway_service::backoff::Backoff;
use jetway_service::client::CallError;
use jetway_service::controllers::{RETRY_FIRST, RETRY_MAX};
use jetway_service::outbox::Outbox;
use tokio::net::TcpListener;

use super::{Home, POOL, lock, server};

const CALL_MAX: Duration = Duration::from_secs(10);
/// Large enough that nothing is refused for want of room.
const MEMORY_BYTES: i64 = 1 << 46;
const BACKENDS_MAX: u32 = 1_000_000;
/// What a claim of a parked slot reports.
const STATUSES: [Status; 3] = [Status::Starting, Status::Waiting, Status::Ready];

pub struct Member {
    pub id: DroneId,
    home: Home,
    agent: uuid::Uuid,
    term: Term,
    backends: Mutex<HashMap<BackendId, InventoryEntry>>,
    warm: Mutex<Warm>,
    outbox: Outbox<BackendEvent>,
    fault: Mutex<Option<String>>,
}

/// Slots that are always there again: making them takes nothing here.
#[derive(Default)]
struct Warm {
    targets: WarmTargets,
    told: bool,
    served: HashMap<Kind, u64>,
}

impl Member {
    pub async fn join(home: &Home, number: usize) -> anyhow::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (id, agent) = (DroneId::random(), uuid::Uuid::new_v4());
        let register = Register {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            drone: id,
            name: format!("simulated-{}-{number}", &id.to_string()[..8]).parse()?,
            boot_id: BootId::random(),
            uptime_ms: 3_600_000,
            cluster: None,
            pool: POOL.parse()?,
            advertise: listener.local_addr()?.to_string(),
            capacity: Capacity {
                cpus: 1024.0,
                memory_bytes: MEMORY_BYTES,
                backends_max: BACKENDS_MAX,
                mounts: false,
                networks: Vec::new(),
                no_disk_limit: false,
            },
            installation: None,
            holds_lease: true,
            replaces: None,
            agent: Some(agent),
        };
        let url = format!("{}/internal/drones/register", home.controller);
        let registered: Registered = home.client.post(&url, &register, CALL_MAX).await?;
        let member = Arc::new(Self {
            id,
            home: home.clone(),
            agent,
            term: registered.term,
            backends: Mutex::default(),
            warm: Mutex::default(),
            outbox: Outbox::default(),
            fault: Mutex::default(),
        });
        server::serve(listener, &member, &home.secret, &home.lifecycle);
        member.beat(1, &registered).await?;
        let beating = member.clone();
        home.lifecycle.spawn_until_stopped(async move { beating.beat_on(registered).await });
        let reporting = member.clone();
        home.lifecycle.spawn_until_stopped(async move { reporting.report().await });
        Ok(member)
    }

    pub fn term(&self) -> Term {
        self.term
    }

    pub fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }

    fn failed(&self, what: &str, error: &dyn std::fmt::Display) {
        lock(&self.fault).get_or_insert_with(|| format!("{what}: {error}"));
    }

    async fn beat_on(&self, registered: Registered) {
        let period = Duration::from_millis(registered.heartbeat_ms);
        // Not all of them at once, and each with its own beat from then on.
        tokio::time::sleep(period.mul_f64(rand::random::<f64>())).await;
        for renewal in 2.. {
            match self.beat(renewal, &registered).await {
                Err(error) if is_for_later(&error) => {}
                Err(error) => self.failed("a heartbeat", &error),
                Ok(()) => {}
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn beat(&self, renewal: i64, registered: &Registered) -> Result<(), CallError> {
        let backends = u32::try_from(lock(&self.backends).len()).unwrap_or(u32::MAX);
        let load = Load {
            backends,
            cpus_reserved: 0.0,
            memory_reserved_bytes: i64::from(backends) << 24,
            images: vec!["app:latest".to_owned()],
            engine_ok: true,
            warnings: Vec::new(),
            warm: self.warm_load(),
        };
        let heartbeat = Heartbeat { term: self.term, renewal, lease: registered.lease, load };
        let _draining: HeartbeatReply =
            self.home.client.post(&self.url("heartbeat"), &heartbeat, CALL_MAX).await?;
        Ok(())
    }

    fn url(&self, what: &str) -> String {
        format!("{}/internal/drones/{}/{what}", self.home.controller, self.id)
    }

    fn warm_load(&self) -> WarmLoad {
        let warm = lock(&self.warm);
        let of_target = |target: &jetway_protocol::warm::WarmTarget| {
            let kind = Kind::of(target.tier, &target.executable).ok()?;
            let served = warm.served.get(&kind).copied().unwrap_or(0);
            Some(KindLoad {
                kind,
                target: target.slots,
                ready: target.slots,
                making: 0,
                asked: served,
                claimed: served,
                make_ms: 300,
                unused_ms: 0,
                replenish_ms: 300,
                error: String::new(),
            })
        };
        WarmLoad {
            targets: if warm.told { warm.targets.fingerprint() } else { String::new() },
            agent: Some(self.agent),
            kinds: warm.targets.targets.iter().filter_map(of_target).collect(),
            sandboxes_ready: 4,
        }
    }

    pub fn set_warm(&self, targets: WarmTargets) {
        let mut warm = lock(&self.warm);
        (warm.targets, warm.told) = (targets, true);
    }

    /// It is ready at once. False: it was there before.
    pub fn start(&self, entry: InventoryEntry, kind: Option<Kind>, timeline: Vec<Stage>) -> bool {
        let (id, fencing_token) = (entry.id.clone(), entry.fencing_token);
        if lock(&self.backends).insert(id.clone(), entry).is_some() {
            return false;
        }
        if let Some(kind) = kind {
            *lock(&self.warm).served.entry(kind).or_default() += 1;
        }
        self.outbox.extend(STATUSES.map(|status| {
            let entry = StatusEntry { status, at: UnixMicros::now(), end: None };
            let (backend, timeline) = (id.clone(), timeline.clone());
            BackendEvent { backend, fencing_token, entry, timeline }
        }));
        true
    }

    /// One that runs already.
    pub fn take_over(&self, id: BackendId, fencing_token: FencingToken) {
        let name = id.to_string();
        let key = Some(Key { namespace: "fill".to_owned(), name, tag: String::new() });
        let entry = InventoryEntry { id: id.clone(), fencing_token, key, status: Status::Ready };
        lock(&self.backends).insert(id, entry);
    }

    pub fn has(&self, id: &BackendId) -> bool {
        lock(&self.backends).contains_key(id)
    }

    pub fn remove(&self, id: &BackendId) {
        lock(&self.backends).remove(id);
    }

    pub fn inventory(&self) -> Vec<InventoryEntry> {
        lock(&self.backends).values().cloned().collect()
    }

    /// As a drone does: at once, a batch is what gathered while the last one was under way.
    async fn report(&self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let events = self.outbox.batch(EVENTS_MAX).await;
            let count = events.len();
            let batch = Events { term: self.term, events };
            let stored: Result<Option<()>, _> =
                self.home.client.post(&self.url("events"), &batch, CALL_MAX).await;
            match stored {
                Ok(_) => {
                    self.outbox.drop_first(count);
                    backoff.reset();
                }
                // Not now: it keeps them, as a drone does.
                Err(error) if is_for_later(&error) => backoff.wait().await,
                Err(error) => return self.failed("events", &error),
            }
        }
    }
}

fn is_for_later(error: &CallError) -> bool {
    !matches!(error, CallError::Refused { status: ..500, .. } | CallError::Unreadable { .. })
}

/// The stage that a drone adds when it has claimed a slot.
pub fn claimed() -> Stage {
    Stage {
        stage: jetway_protocol::timeline::StageName::Claimed,
        start: UnixMicros::now(),
        length_us: 500,
        note: Tier::Parked.as_str().to_owned(),
    }
}
