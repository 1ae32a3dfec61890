//! The records of a backend's journal, and what they add up to. Pure; files are the parent module's business.

use std::net::Ipv4Addr;

use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, BootId, GrantId, SlotId};
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
use jetway_protocol::warm::Tier;
use serde::{Deserialize, Serialize};

use crate::grants::Grants;
use crate::runtime::Image;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// Always the first.
    Put {
        id: BackendId,
        at: UnixMicros,
        put: Box<PutBackend>,
        /// Of the host. `None`: from an agent before the lease.
        #[serde(default)]
        boot_id: Option<BootId>,
    },
    /// Written before the container is made for this backend, or with its claim where it was there already.
    Slot {
        slot: SlotId,
        address: Ipv4Addr,
        /// The namespace that it joins.
        #[serde(default)]
        sandbox: Option<SlotId>,
        /// `None`: from an agent before there were any.
        #[serde(default)]
        tier: Option<Tier>,
    },
    Image {
        image: Image,
    },
    /// Written before the session is handed over: without it, the application never ran in this slot.
    Claiming {
        nonce: String,
    },
    Grant {
        grant: Grant,
        at: UnixMicros,
    },
    Revoked {
        grants: Vec<GrantId>,
    },
    /// Somebody came with this grant for the first time.
    Used {
        grant: GrantId,
    },
    Stage {
        stage: Stage,
    },
    Status {
        entry: StatusEntry,
        state: BackendState,
    },
    /// A controller has stored everything up to this status.
    Acknowledged {
        status: Status,
    },
}

impl Record {
    pub fn is_of_grants(&self) -> bool {
        matches!(self, Record::Grant { .. } | Record::Revoked { .. } | Record::Used { .. })
    }

    /// Gives back a record that says nothing of them.
    pub fn apply_to(self, grants: &mut Grants) -> Option<Record> {
        match self {
            Record::Grant { grant, at } => grants.add(grant, at),
            Record::Revoked { grants: gone } => grants.remove(&gone),
            Record::Used { grant } => {
                grants.mark_used(grant);
            }
            other => return Some(other),
        }
        None
    }
}

/// Where a backend runs, or is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub slot: SlotId,
    pub address: Ipv4Addr,
    /// The namespace that its container joins, made ahead: it goes after the container.
    pub sandbox: Option<SlotId>,
}

impl Place {
    /// Of a container that was made for its backend.
    pub fn tier(&self) -> Tier {
        if self.sandbox.is_some() { Tier::Sandbox } else { Tier::Cold }
    }
}

/// A backend as its journal tells it.
#[derive(Debug, Clone)]
pub struct Remembered {
    pub id: BackendId,
    pub put_at: UnixMicros,
    pub put: Box<PutBackend>,
    pub boot_id: Option<BootId>,
    pub place: Option<Place>,
    pub tier: Tier,
    pub image: Option<Image>,
    /// The nonce of the init that was given the session.
    pub nonce: Option<String>,
    pub grants: Grants,
    pub state: BackendState,
    pub history: Vec<StatusEntry>,
    pub timeline: Vec<Stage>,
    pub acknowledged: Option<Status>,
}

impl Remembered {
    /// `None`: a journal that does not begin with a put is none.
    pub fn first(record: Record) -> Option<Self> {
        let Record::Put { id, at, put, boot_id } = record else { return None };
        let timeline = put.timeline.clone();
        Some(Self {
            id,
            put_at: at,
            put,
            boot_id,
            place: None,
            tier: Tier::Cold,
            image: None,
            nonce: None,
            grants: Grants::default(),
            state: BackendState::Scheduled,
            history: Vec::new(),
            timeline,
            acknowledged: None,
        })
    }

    pub fn apply(&mut self, record: Record) {
        let Some(record) = record.apply_to(&mut self.grants) else { return };
        match record {
            Record::Put { .. } | Record::Grant { .. } | Record::Revoked { .. } | Record::Used { .. } => {}
            Record::Slot { slot, address, sandbox, tier } => {
                self.place = Some(Place { slot, address, sandbox });
                self.tier = tier.unwrap_or(Tier::Cold);
                self.nonce = None;
            }
            Record::Image { image } => self.image = Some(image),
            Record::Claiming { nonce } => self.nonce = Some(nonce),
            Record::Stage { stage } => self.timeline.push(stage),
            Record::Status { entry, state } => {
                self.history.push(entry);
                self.state = state;
            }
            Record::Acknowledged { status } => self.acknowledged = self.acknowledged.max(Some(status)),
        }
    }

    /// Statuses that no controller is known to have stored.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &StatusEntry> {
        self.history.iter().filter(|entry| Some(entry.status) > self.acknowledged)
    }
}
