//! What every part of one agent shares: its backends, its books, its engine. No task and no decision of its own.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use jetway_protocol::attach::ToProxy;
use jetway_protocol::controller_api::{BackendEvent, Capacity, Load};
use jetway_protocol::ids::{BackendId, BootId, DroneId, ProxyId, SlotId};
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};
use tokio::time::Instant;

use crate::addresses::{AddressBook, NoAddress};
use crate::admission::Admission;
use crate::backend::Backend;
use crate::data_dir::DataDir;
use crate::journal::{Journals, Tombstones};
use crate::lease::Lease;
use crate::membership::Membership;
use crate::outbox::Outbox;
use crate::runtime::Runtime;
use crate::streams::{Stream, Streams};
use crate::teardown;
use crate::usual::Usual;
use crate::warm::{self, Warm};

/// Events that a slow local listener may fall behind by.
const LOCAL_EVENTS_MAX: usize = 1024;
/// Calls of reconcilers and ends that ask the engine at once; kills do not queue here.
const ENGINE_CALLS_MAX: usize = 32;
/// An engine that has not answered by then is taken to have failed: what happened is unknown.
pub const ENGINE_CALL_SECONDS_MAX: u64 = 30;

pub struct Agent {
    pub id: DroneId,
    pub boot_id: BootId,
    pub netns: String,
    pub capacity: Capacity,
    pub data_dir: DataDir,
    pub runtime: Arc<dyn Runtime>,
    pub lifecycle: Lifecycle,
    pub membership: Arc<Membership>,
    pub lease: Arc<Lease>,
    pub backends: DashMap<BackendId, Arc<Backend>>,
    /// Whose each slot is: made or about to be made.
    pub slots: DashMap<SlotId, BackendId>,
    /// The same for namespaces that were made ahead.
    pub sandboxes: DashMap<SlotId, BackendId>,
    /// What is ready for sessions to come.
    pub warm: Warm,
    pub admission: Admission,
    pub journals: Journals,
    pub streams: Streams,
    pub outbox: Outbox,
    pub events: broadcast::Sender<BackendEvent>,
    /// Counts backends that were put, for those who wait for one.
    pub arrivals: watch::Sender<u64>,
    pub engine_calls: Semaphore,
    pub removals: Semaphore,
    pub engine_ok: AtomicBool,
    /// Wakes the look at the engine's health.
    pub look_at_engine: Notify,
    pub started: Instant,
    /// Sessions that run and that no journal knows, as their inits say.
    pub strays: DashMap<BackendId, SlotId>,
    /// Whether every container has been looked at since this agent's start: before that, any id may be a stray's.
    pub looked: AtomicBool,
    /// Wakes the look at everything.
    pub look_now: Notify,
    /// What starts take.
    pub usual: Usual,
    tombstones: Mutex<Tombstones>,
    addresses: Mutex<AddressBook>,
    admitting: Mutex<()>,
}

/// What an agent is made of before it runs.
pub struct Parts {
    pub id: DroneId,
    pub boot_id: BootId,
    pub netns: String,
    pub capacity: Capacity,
    pub data_dir: DataDir,
    pub runtime: Arc<dyn Runtime>,
    pub lifecycle: Lifecycle,
    pub membership: Arc<Membership>,
    pub lease: Arc<Lease>,
    pub warm: warm::Settings,
    /// This process, as its registration names it.
    pub process: uuid::Uuid,
}

impl Agent {
    pub fn new(parts: Parts) -> std::io::Result<Self> {
        let tombstones = Tombstones::open(parts.data_dir.path())?;
        let journals = Journals::open(parts.data_dir.path())?;
        let addresses = AddressBook::new(parts.runtime.subnet(), parts.data_dir.address_cursor());
        Ok(Self {
            id: parts.id,
            boot_id: parts.boot_id,
            netns: parts.netns,
            admission: Admission::new(&parts.capacity),
            warm: Warm::new(
                parts.warm,
                parts.process,
                parts.capacity.memory_bytes,
                parts.capacity.backends_max,
            ),
            capacity: parts.capacity,
            data_dir: parts.data_dir,
            runtime: parts.runtime,
            lifecycle: parts.lifecycle,
            membership: parts.membership,
            lease: parts.lease,
            backends: DashMap::new(),
            slots: DashMap::new(),
            sandboxes: DashMap::new(),
            journals,
            streams: Streams::default(),
            outbox: Outbox::default(),
            events: broadcast::Sender::new(LOCAL_EVENTS_MAX),
            arrivals: watch::Sender::new(0),
            engine_calls: Semaphore::new(ENGINE_CALLS_MAX),
            removals: Semaphore::new(teardown::AT_ONCE),
            engine_ok: AtomicBool::new(true),
            look_at_engine: Notify::new(),
            started: Instant::now(),
            strays: DashMap::new(),
            looked: AtomicBool::new(false),
            look_now: Notify::new(),
            usual: Usual::default(),
            tombstones: Mutex::new(tombstones),
            admitting: Mutex::new(()),
            addresses: Mutex::new(addresses),
        })
    }

    /// Whoever has something of it open is told that it is about to be stopped, and where to go is asked anew.
    pub fn tell_to_leave(&self, backend: &Backend) {
        for proxy in self.streams.proxies() {
            let (backend, fencing_token) = (backend.id.clone(), backend.fencing_token);
            self.streams.push(proxy, ToProxy::Leave { backend, fencing_token });
        }
    }

    /// Held for a few lines, never across an await.
    pub fn tombstones(&self) -> MutexGuard<'_, Tombstones> {
        self.tombstones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held for a few lines, never across an await.
    pub fn addresses(&self) -> MutexGuard<'_, AddressBook> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next address for a container, written down so that the next agent does not begin with it.
    pub fn take_address(&self) -> Result<Ipv4Addr, NoAddress> {
        let (address, cursor) = {
            let mut addresses = self.addresses();
            (addresses.take(Instant::now())?, addresses.cursor())
        };
        if let Err(error) = self.data_dir.save_address_cursor(cursor) {
            tracing::warn!(%error, "the address cursor cannot be kept");
        }
        Ok(address)
    }

    /// One put or delete at a time, from its checks to the journal: microseconds, and nothing is awaited.
    pub fn admitting(&self) -> MutexGuard<'_, ()> {
        self.admitting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn backend(&self, id: &BackendId) -> Option<Arc<Backend>> {
        self.backends.get(id).map(|backend| backend.clone())
    }

    pub fn all_backends(&self) -> Vec<Arc<Backend>> {
        self.backends.iter().map(|entry| entry.value().clone()).collect()
    }

    /// A proxy's new stream, with what it must be told again. Under one lock with the address book, so that the end of
    /// an older stream cannot come in between and make the proxy count as silent.
    pub fn attach(&self, proxy: ProxyId, first: ToProxy) -> (Arc<Stream>, mpsc::Receiver<ToProxy>) {
        let mut addresses = self.addresses();
        let (stream, pushes) = self.streams.open(proxy, first);
        for ended in addresses.stream_back(proxy) {
            let (backend, fencing_token, end) = (ended.backend, ended.fencing_token, ended.end);
            stream.push(ToProxy::Ended { backend, fencing_token, end });
        }
        (stream, pushes)
    }

    /// True: the proxy has no stream any more. False: a newer one has taken this one's place.
    pub fn detach(&self, stream: &Stream) -> bool {
        let mut addresses = self.addresses();
        let is_lost = self.streams.remove(stream);
        if is_lost {
            addresses.stream_lost(stream.proxy, Instant::now());
        }
        is_lost
    }

    /// A call has met no engine: it is known to be down until it is looked at, which is done at once.
    pub fn engine_is_lost(&self) {
        self.engine_ok.store(false, Ordering::Relaxed);
        self.look_at_engine.notify_one();
    }

    pub fn load(&self) -> Load {
        // What is only kept ready gives way to any session.
        let reserved = self.admission.reserved().without(self.warm.set_aside());
        Load {
            backends: reserved.backends,
            cpus_reserved: reserved.cpus,
            memory_reserved_bytes: reserved.memory_bytes,
            images: self.runtime.images(),
            engine_ok: self.engine_ok.load(Ordering::Relaxed),
            warnings: self.runtime.warnings(),
            warm: self.warm.load(),
        }
    }
}
