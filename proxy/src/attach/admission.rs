//! The result of asking a drone: leave to carry a request, or the reason against it. `drone`
//! decides.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::Entry;
use jetway_protocol::status::{End, EndReason};

use super::drone::Drone;
use super::gate::Gate;
use super::ledger::BackendKey;
use crate::limits::shares::{OpenPermit, TokenKey};

/// Where bytes for the drone's backends go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialVia {
    /// The container's address, dialled from here.
    Direct,
    /// The drone's own server, `host:port`.
    Drone(String),
}

/// Why a request was not let through.
#[derive(Debug, Clone, PartialEq)]
pub enum NotAdmitted {
    Ended(End),
    Unknown,
    Revoked,
    Stopping(Option<EndReason>),
    /// The hold ran out: the backend is not ready (`drone_answers`), or its drone was not reached
    /// at all.
    TimedOut {
        drone_answers: bool,
    },
    /// Too many wait already.
    Busy,
    /// This handle was retired; take a new one.
    Retired,
}

/// Leave to carry one request or connection, and a use of the backend for as long as it lives.
#[derive(Debug)]
pub struct Admission {
    pub entry: Arc<Entry>,
    pub gate: Arc<Gate>,
    pub door: DialVia,
    pub using: Using,
}

/// A use. Dropping it is the close.
#[derive(Debug)]
pub struct Using {
    drone: Arc<Drone>,
    key: BackendKey,
    /// Set once a plain request has gone to the backend.
    pub linger: Option<Duration>,
    /// Of the token's share.
    pub place: Option<OpenPermit<TokenKey>>,
    _gate: Arc<Gate>,
}

impl Using {
    pub(super) fn new(drone: &Arc<Drone>, key: &BackendKey, gate: &Arc<Gate>) -> Self {
        Self { drone: drone.clone(), key: key.clone(), linger: None, place: None, _gate: gate.clone() }
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        self.drone.end(&self.key, self.linger);
    }
}
