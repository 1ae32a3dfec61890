//! What the runtime and its tasks have in common: the engine, what was told of it, and what this
//! process knows of each container without asking. No call is made here.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dashmap::{DashMap, DashSet};
use jetway_protocol::ids::SlotId;
use tokio::sync::{Notify, broadcast, watch};

use super::config::DockerConfig;
use super::engine::Engine;
use super::image::Images;
use super::limiter::{Class, Turn};
use super::mount;
use super::readable::Readable;

/// What the tasks have in common.
pub struct Shared {
    pub engine: Engine,
    pub config: DockerConfig,
    pub images: Images,
    pub hints: broadcast::Sender<SlotId>,
    /// Counts event streams that broke.
    pub losses: watch::Sender<u64>,
    pub slots: DashMap<SlotId, Arc<SlotRecord>>,
    pub readable: Readable,
    /// Those that are being removed: their end is no surprise. (It may be told a little late; then one look is in vain.)
    pub sandboxes_leaving: DashSet<SlotId>,
    /// Those whose end was told, until they are removed.
    pub sandboxes_dead: DashSet<SlotId>,
    /// One ended that was not to.
    pub sandbox_died: Notify,
    /// Held while the sandboxes' image is looked for and made.
    pub sandbox_image: tokio::sync::Mutex<()>,
}

/// What this process knows of a slot's container without asking.
#[derive(Debug, Default)]
pub struct SlotRecord {
    pub made: Option<Made>,
    /// Docker forgets, on some engines, that it told of an out-of-memory kill.
    pub oom_seen: AtomicBool,
    /// Its sandbox died, and it was ended for that.
    pub cut_off: AtomicBool,
}

#[derive(Debug)]
pub struct Made {
    /// On our own network.
    pub address: Option<Ipv4Addr>,
    pub sandbox: Option<SlotId>,
    pub mount: Option<mount::Identity>,
    /// Who waits for it, and since when.
    pub queue: (Class, Turn),
    /// It is started at most once: a second start would run a container that has ended.
    pub was_started: AtomicBool,
}

impl SlotRecord {
    pub fn note_oom(&self) {
        self.oom_seen.store(true, Ordering::Relaxed);
    }

    pub fn note_cut_off(&self) {
        self.cut_off.store(true, Ordering::Relaxed);
    }
}
