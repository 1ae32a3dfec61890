//! The records of a backend's journal, and what they add up to. Pure; files are the parent module's business.

use std::net::Ipv4Addr;

use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, BootId, GrantId, SlotId};
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
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
    /// Written before the container is made.
    Slot {
        slot: SlotId,
        address: Ipv4Addr,
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

/// A backend as its journal tells it.
#[derive(Debug)]
pub struct Remembered {
    pub id: BackendId,
    pub put_at: UnixMicros,
    pub put: Box<PutBackend>,
    pub boot_id: Option<BootId>,
    pub slot: Option<(SlotId, Ipv4Addr)>,
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
            slot: None,
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
        match record {
            Record::Put { .. } => {}
            Record::Slot { slot, address } => {
                self.slot = Some((slot, address));
                self.nonce = None;
            }
            Record::Image { image } => self.image = Some(image),
            Record::Claiming { nonce } => self.nonce = Some(nonce),
            Record::Grant { grant, at } => self.grants.add(grant, at),
            Record::Revoked { grants } => self.grants.remove(&grants),
            Record::Used { grant } => {
                self.grants.mark_used(grant);
            }
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
