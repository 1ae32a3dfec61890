//! What is known of one drone's backends: who was admitted on which stream, who waits. Only ever touched under
//! `drone.rs`' lock; nothing here waits or talks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jetway_protocol::attach::{Entry, ToDrone};
use jetway_protocol::ids::GrantId;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::drone::{Admission, Door, Drone, NotAdmitted, Using};
use super::gate::{Gate, Presence};
use super::ledger::{BackendKey, Ledger};

#[derive(Debug)]
pub(super) struct State {
    pub(super) ledger: Ledger,
    pub(super) backends: HashMap<BackendKey, Backend>,
    pub(super) asks: HashMap<u64, Ask>,
    pub(super) next_ask: u64,
    /// The stream that stands, if one does.
    pub(super) stream: Option<Stream>,
    /// Counts streams, so that a grant seen on an earlier one is known to need a new ask.
    pub(super) generation: u64,
    /// Where the newest token said the drone is.
    pub(super) address: String,
    pub(super) first_bytes: HashSet<BackendKey>,
    pub(super) last_used: Instant,
    /// News that cannot wait for others to go with them.
    pub(super) urgent: bool,
    pub(super) retired: bool,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) door: Door,
}

#[derive(Debug)]
pub(super) struct Backend {
    pub(super) presence: Arc<Presence>,
    pub(super) grants: HashMap<GrantId, Admitted>,
}

#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) entry: Arc<Entry>,
    pub(super) gate: Arc<Gate>,
    pub(super) generation: u64,
}

#[derive(Debug)]
pub(super) struct Ask {
    pub(super) key: BackendKey,
    pub(super) grant: GrantId,
    /// Absent: nobody waits; it is asked whether what is open may stay open.
    pub(super) reply: Option<oneshot::Sender<Result<Admission, NotAdmitted>>>,
}

impl State {
    pub(super) fn new(address: String) -> Self {
        Self {
            ledger: Ledger::default(),
            backends: HashMap::new(),
            asks: HashMap::new(),
            next_ask: 0,
            stream: None,
            generation: 0,
            address,
            first_bytes: HashSet::new(),
            last_used: Instant::now(),
            urgent: false,
            retired: false,
        }
    }

    /// The way without a question: the stream stands, the backend is in use, the grant was seen on this stream.
    pub(super) fn admit_again(
        &mut self,
        drone: &Arc<Drone>,
        key: &BackendKey,
        grant: GrantId,
        now: Instant,
    ) -> Option<Admission> {
        let door = self.stream.as_ref()?.door.clone();
        if self.ledger.uses(key, now).0 == 0 {
            return None;
        }
        let admitted = self.backends.get(key)?.grants.get(&grant)?;
        if admitted.generation != self.generation {
            return None;
        }
        let (entry, gate) = (admitted.entry.clone(), admitted.gate.clone());
        self.ledger.begin(key);
        let using = Using::new(drone, key, &gate);
        Some(Admission { entry, gate, door, using })
    }

    pub(super) fn ask(
        &mut self,
        key: &BackendKey,
        grant: GrantId,
        reply: Option<oneshot::Sender<Result<Admission, NotAdmitted>>>,
    ) -> u64 {
        let ask = self.next_ask;
        self.next_ask += 1;
        self.ledger.ask_begins(key);
        self.asks.insert(ask, Ask { key: key.clone(), grant, reply });
        ask
    }

    /// Notes what a `ready` said; `for_client`: and begins the use that it was asked for.
    pub(super) fn admit(
        &mut self,
        drone: &Arc<Drone>,
        key: &BackendKey,
        grant: GrantId,
        entry: Entry,
        for_client: bool,
    ) -> Option<Admission> {
        let backend = self.backends.entry(key.clone()).or_insert_with(|| Backend {
            presence: Arc::new(Presence::new(Arc::downgrade(drone), key.clone())),
            grants: HashMap::new(),
        });
        let entry = Arc::new(entry);
        let generation = self.generation;
        let admitted = backend.grants.entry(grant).or_insert_with(|| Admitted {
            entry: entry.clone(),
            gate: Arc::new(Gate::new(backend.presence.clone())),
            generation,
        });
        (admitted.entry, admitted.generation) = (entry.clone(), generation);
        let gate = admitted.gate.clone();
        if !for_client {
            return None;
        }
        let door = self.stream.as_ref()?.door.clone();
        self.ledger.begin(key);
        let using = Using::new(drone, key, &gate);
        Some(Admission { entry, gate, door, using })
    }
}

pub(super) fn ask_message(ask: u64, key: &BackendKey, grant: GrantId) -> ToDrone {
    ToDrone::Ask { ask, backend: key.backend.clone(), fencing_token: key.fencing_token, grant }
}
