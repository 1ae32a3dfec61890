//! What every part of one agent shares: its backends, its books, its engine. No task and no decision of its own.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::DashMap;
use jetway_protocol::attach::ToProxy;
use jetway_protocol::controller_api::{BackendEvent, Capacity, Load};
use jetway_protocol::ids::{BackendId, BootId, DroneId, ProxyId, SlotId};
use jetway_service::lifecycle::Lifecycle;
use jetway_service::outbox::Outbox;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::time::Instant;

use crate::backend::handle::Backend;
use crate::books::addresses::{AddressBook, NoAddress};
use crate::books::admission::Admission;
use crate::books::streams::{Stream, Streams};
use crate::books::usual::Usual;
use crate::controllers::membership::Membership;
use crate::engine::Engine;
use crate::lease::Lease;
use crate::runtime::Runtime;
use crate::store::Store;
use crate::store::data_dir::DataDir;
use crate::store::journal::Tombstones;
use crate::warm::{self, Warm};

/// Events that a slow local listener may fall behind by.
const LOCAL_EVENTS_MAX: usize = 1024;

pub struct Agent {
    pub drone: DroneFacts,
    pub engine: Arc<Engine>,
    pub lifecycle: Lifecycle,
    pub membership: Arc<Membership>,
    pub lease: Arc<Lease>,
    pub backends: Backends,
    pub holders: Holders,
    pub strays: Strays,
    /// What is ready for sessions to come.
    pub warm: Warm,
    pub admission: Admission,
    pub store: Store,
    addresses: Addresses,
    pub streams: Streams,
    pub reports: Reports,
    /// What starts take.
    pub usual: Usual,
}

/// What does not change while the agent runs.
pub struct DroneFacts {
    pub id: DroneId,
    pub boot_id: BootId,
    pub netns: String,
    pub capacity: Capacity,
    pub started: Instant,
}

/// The backends that live here.
pub struct Backends {
    pub by_id: DashMap<BackendId, Arc<Backend>>,
    /// Counts those that were put, for the streams that wait for one.
    pub arrivals: watch::Sender<u64>,
    admitting: Mutex<()>,
}

/// Which backend has what the engine holds: made or about to be made.
#[derive(Default)]
pub struct Holders {
    pub slots: DashMap<SlotId, BackendId>,
    /// Namespaces that were made ahead.
    pub sandboxes: DashMap<SlotId, BackendId>,
}

/// Sessions that run and that no journal knows.
pub struct Strays {
    /// As their inits say.
    pub sessions: DashMap<BackendId, SlotId>,
    /// Whether every container has been looked at since this agent's start: before that, any id may be a stray's.
    pub looked: AtomicBool,
    /// Wakes the look at everything.
    pub look_now: Notify,
}

struct Addresses {
    book: Mutex<AddressBook>,
    /// Held while the address book's cursor is written: one writer, and the last one writes the
    /// newest.
    keeping_cursor: Mutex<()>,
}

/// Statuses on their way out.
pub struct Reports {
    /// To controllers.
    pub outbox: Outbox<BackendEvent>,
    pub events: broadcast::Sender<BackendEvent>,
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
        let addresses = AddressBook::new(parts.runtime.subnet(), parts.data_dir.address_cursor());
        Ok(Self {
            engine: Arc::new(Engine::new(parts.runtime)),
            admission: Admission::new(&parts.capacity),
            warm: Warm::new(
                parts.warm,
                parts.process,
                parts.capacity.memory_bytes,
                parts.capacity.backends_max,
            ),
            drone: DroneFacts {
                id: parts.id,
                boot_id: parts.boot_id,
                netns: parts.netns,
                capacity: parts.capacity,
                started: Instant::now(),
            },
            lifecycle: parts.lifecycle,
            membership: parts.membership,
            lease: parts.lease,
            backends: Backends {
                by_id: DashMap::new(),
                arrivals: watch::Sender::new(0),
                admitting: Mutex::new(()),
            },
            holders: Holders::default(),
            strays: Strays {
                sessions: DashMap::new(),
                looked: AtomicBool::new(false),
                look_now: Notify::new(),
            },
            store: Store::open(parts.data_dir)?,
            addresses: Addresses { book: Mutex::new(addresses), keeping_cursor: Mutex::new(()) },
            streams: Streams::default(),
            reports: Reports { outbox: Outbox::default(), events: broadcast::Sender::new(LOCAL_EVENTS_MAX) },
            usual: Usual::default(),
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
        self.store.tombstones()
    }

    /// Held for a few lines, never across an await.
    pub fn addresses(&self) -> MutexGuard<'_, AddressBook> {
        self.addresses.book.lock()
    }

    /// The next address for a container, written down so that the next agent does not begin with it.
    pub fn take_address(&self) -> Result<Ipv4Addr, NoAddress> {
        let address = self.addresses().take(Instant::now())?;
        if let Err(error) = self.keep_address_cursor() {
            tracing::warn!(%error, "the address cursor cannot be kept");
        }
        Ok(address)
    }

    fn keep_address_cursor(&self) -> std::io::Result<()> {
        let _one_at_a_time = self.addresses.keeping_cursor.lock();
        // Read now: another start may have moved it on since, and must not be overtaken by this
        // one.
        let cursor = self.addresses().cursor();
        self.store.data_dir.save_address_cursor(cursor)
    }

    /// One put or delete at a time, from its checks to the journal: microseconds, and nothing is awaited.
    pub fn admitting(&self) -> MutexGuard<'_, ()> {
        self.backends.admitting.lock()
    }

    pub fn backend(&self, id: &BackendId) -> Option<Arc<Backend>> {
        self.backends.by_id.get(id).map(|backend| backend.clone())
    }

    pub fn all_backends(&self) -> Vec<Arc<Backend>> {
        self.backends.by_id.iter().map(|entry| entry.value().clone()).collect()
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

    pub fn load(&self) -> Load {
        // What is only kept ready gives way to any session.
        let reserved = self.admission.reserved().without(self.warm.set_aside());
        Load {
            backends: reserved.backends,
            cpus_reserved: reserved.cpus,
            memory_reserved_bytes: reserved.memory_bytes,
            images: self.engine.runtime.images(),
            engine_ok: self.engine.ok.load(Ordering::Relaxed),
            warnings: self.engine.runtime.warnings(),
            warm: self.warm.load(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use crate::harness::Harness;
    use crate::runtime::fake::Script;

    #[tokio::test]
    async fn of_many_starts_at_once_the_newest_cursor_is_kept() {
        let test = Harness::new(Script::default());
        let agent = &test.agent;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        agent.addresses().take(Instant::now()).unwrap();
                        agent.keep_address_cursor().unwrap();
                    }
                });
            }
        });
        assert_eq!(agent.store.data_dir.address_cursor(), agent.addresses().cursor());
    }
}
