//! What this drone keeps ready, so that nobody waits for a container: parked slots, hot slots, network namespaces. Here is the
//! state, behind one lock; [`keeper`] fills it with what `make` makes, [`take`] gives from it, and
//! [`crate::reconcile::leave`] removes what is left at the end.
//!
//! Nothing in here holds a key or a session. What is kept is noted before it is made and until it is gone or given, so
//! that the reconciler never takes it for nobody's. How many of what are wanted is a controller's business, in memory alone:
//! it says so again to an agent that says it knows of nothing.

mod allot;
mod book;
pub mod keeper;
mod make;
mod shelf;
mod slot;
pub mod take;

#[cfg(test)]
pub mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use jetway_protocol::ids::SlotId;
use jetway_protocol::warm::{Kind, WarmLoad, WarmTargets};
use jetway_service::backoff::Backoff;
use jetway_service::lifecycle::Lifecycle;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

use crate::books::admission::Reserved;
use allot::{Budget, Target, merged};
use book::{Book, Present};
use shelf::Shelf;
use slot::ReadySlot;

/// Between tries to make what could not be made.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What an operator has said.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Network namespaces to have ready.
    pub sandboxes: u32,
    /// Of memory, for slots that nobody has declared; a tenth of the drone's if `None`.
    pub memory_bytes: Option<i64>,
    pub calm: Calm,
}

/// When what was taken is made anew.
#[derive(Debug, Clone, Copy)]
pub struct Calm {
    /// Nothing is begun for so long after a session's start;
    pub after_start: Duration,
    /// but what has been owed for so long is made all the same.
    pub owed_max: Duration,
}

impl Default for Calm {
    /// The start has the processors first.
    fn default() -> Self {
        Self { after_start: Duration::from_millis(100), owed_max: Duration::from_secs(1) }
    }
}

impl Calm {
    /// For an engine on the machine of the one who looks: Chromium breaks off what a page is loading when the machine gets an interface,
    /// as it does with each namespace (`ERR_NETWORK_CHANGED`). The page has its time first.
    pub const FOR_A_BROWSER_HERE: Self =
        Self { after_start: Duration::from_secs(8), owed_max: Duration::from_secs(24) };
}

pub struct Warm {
    /// The agent process, whose counters begin with it.
    process: Uuid,
    settings: Settings,
    budget: Budget,
    inner: Mutex<Inner>,
    /// Wakes the keeper.
    changed: Notify,
    /// Returns when what is being made is done.
    made: Notify,
}

#[derive(Default)]
struct Inner {
    targets: Vec<Target>,
    /// Of what a controller said last; empty: nothing yet.
    fingerprint: String,
    shelf: Shelf,
    sandboxes: VecDeque<Sandbox>,
    /// What was made or is about to be, and belongs to no backend.
    noted: HashMap<SlotId, Noted>,
    making: HashMap<Option<Kind>, u32>,
    retries: HashMap<Option<Kind>, Retry>,
    book: Book,
    /// When a session last began to start.
    last_start: Option<Instant>,
    /// Since when something is to be made that is not.
    owed_since: Option<Instant>,
    /// Some image may be another one by now.
    images_changed: bool,
    /// The end: nothing is kept any more.
    closed: bool,
}

/// A network namespace that waits for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    pub id: SlotId,
    pub address: Ipv4Addr,
    pub since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Noted {
    Slot,
    Sandbox,
}

struct Retry {
    backoff: Backoff,
    at: Instant,
}

impl Warm {
    pub fn new(settings: Settings, process: Uuid, memory_bytes: i64, slots: u32) -> Self {
        let learned_bytes = settings.memory_bytes.unwrap_or(memory_bytes / 10);
        Self {
            process,
            settings,
            budget: Budget { memory_bytes, learned_bytes, slots },
            inner: Mutex::default(),
            changed: Notify::new(),
            made: Notify::new(),
        }
    }

    /// Held for a few lines, never across an await.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock()
    }

    /// These are the slots to keep from now on, and no others.
    pub fn set(&self, wanted: WarmTargets) {
        let fingerprint = wanted.fingerprint();
        let understood = |target| match Target::try_from(target) {
            Ok(target) => Some(target),
            Err(error) => {
                tracing::warn!(%error, "a target that no slot can be made for");
                None
            }
        };
        let targets = merged(wanted.targets.into_iter().filter_map(understood).collect());
        let mut inner = self.inner();
        if inner.fingerprint != fingerprint {
            tracing::info!(targets = targets.len(), "told what to keep ready");
        }
        inner.retries.retain(|kind, _| {
            kind.as_ref().is_none_or(|kind| targets.iter().any(|target| target.kind == *kind))
        });
        (inner.targets, inner.fingerprint) = (targets, fingerprint);
        drop(inner);
        self.changed.notify_one();
    }

    /// Whether it is kept, being made or on its way out. What leaves here for a backend is that backend's already.
    pub fn has(&self, slot: SlotId) -> bool {
        self.inner().noted.contains_key(&slot)
    }

    pub fn forget(&self, slot: SlotId) {
        self.inner().noted.remove(&slot);
    }

    fn note(&self, slot: SlotId, what: Noted) {
        self.inner().noted.insert(slot, what);
    }

    /// What is kept, being made or on its way out.
    pub fn noted(&self) -> Vec<(SlotId, Noted)> {
        self.inner().noted.iter().map(|(slot, what)| (*slot, *what)).collect()
    }

    /// From now on nothing is begun and nothing is given. Returns when nothing is being made any
    /// more, or the agent stops.
    pub async fn close(&self, lifecycle: &Lifecycle) {
        loop {
            let made = self.made.notified();
            {
                let mut inner = self.inner();
                inner.closed = true;
                drop(inner.shelf.take_all_that(|_| true));
                inner.sandboxes.clear();
                if inner.making.is_empty() || lifecycle.is_stopping() {
                    return;
                }
            }
            made.await;
        }
    }

    /// Images that slots are kept of.
    pub fn images(&self) -> Vec<String> {
        self.inner().targets.iter().map(|target| target.executable.image.clone()).collect()
    }

    /// What unused hot slots have set aside: it gives way to any session.
    pub fn set_aside(&self) -> Reserved {
        let inner = self.inner();
        let mut sum = Reserved::default();
        for share in inner.shelf.iter().filter_map(|slot| slot.reservation.as_ref()) {
            sum.add(share.share());
        }
        sum
    }

    pub fn load(&self) -> WarmLoad {
        let (inner, now) = (self.inner(), Instant::now());
        let mut present: HashMap<Kind, Present> = HashMap::new();
        for target in &inner.targets {
            present.entry(target.kind.clone()).or_default().target = target.slots;
        }
        for slot in inner.shelf.iter() {
            let present = present.entry(slot.kind.clone()).or_default();
            present.ready += 1;
            present.waited += now - slot.since;
        }
        for (kind, making) in &inner.making {
            if let Some(kind) = kind {
                present.entry(kind.clone()).or_default().making = *making;
            }
        }
        WarmLoad {
            targets: inner.fingerprint.clone(),
            agent: Some(self.process),
            kinds: inner.book.load(&present),
            sandboxes_ready: u32::try_from(inner.sandboxes.len()).unwrap_or(u32::MAX),
        }
    }
}

/// What is to be made.
enum Make {
    Slot(Box<Target>),
    Sandbox,
}

impl Make {
    fn kind(&self) -> Option<Kind> {
        match self {
            Make::Slot(target) => Some(target.kind.clone()),
            Make::Sandbox => None,
        }
    }
}

impl Inner {
    fn making(&self, what: &Option<Kind>) -> u32 {
        self.making.get(what).copied().unwrap_or(0)
    }

    fn begun(&mut self, what: Option<Kind>) {
        *self.making.entry(what).or_insert(0) += 1;
    }

    fn done(&mut self, what: &Option<Kind>) {
        if let Some(making) = self.making.get_mut(what) {
            *making = making.saturating_sub(1);
        }
        self.making.retain(|_, making| *making > 0);
    }

    fn failed(&mut self, what: Option<Kind>, error: &str, now: Instant) {
        if let Some(kind) = &what {
            self.book.failed(kind, error);
        }
        let retry = self
            .retries
            .entry(what)
            .or_insert_with(|| Retry { backoff: Backoff::new(RETRY_FIRST, RETRY_MAX), at: now });
        retry.at = now + retry.backoff.next_wait();
    }

    /// Until when nothing of this is tried.
    fn retry_at(&self, what: &Option<Kind>) -> Option<Instant> {
        self.retries.get(what).map(|retry| retry.at)
    }

    /// A slot goes unused.
    fn wasted(&mut self, slot: &ReadySlot, now: Instant) {
        self.book.unused(&slot.kind, now - slot.since);
    }
}
