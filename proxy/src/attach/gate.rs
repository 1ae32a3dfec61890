//! The way out of an admission: what everything open under one grant waits for, and the word that all of it is closed.

use std::sync::{Arc, OnceLock, Weak};
use std::task::Poll;

use jetway_protocol::attach::ToDrone;
use jetway_protocol::status::End;
use tokio_util::sync::CancellationToken;

use super::drone::Drone;
use super::ledger::BackendKey;
use crate::ending::Step;

/// Why what was open must be closed now.
#[derive(Debug, Clone, PartialEq)]
pub enum Closed {
    Ended(End),
    Revoked,
}

/// One grant's gate. Whoever carries bytes under the grant holds it and watches it.
#[derive(Debug)]
pub struct Gate {
    token: CancellationToken,
    why: OnceLock<Closed>,
    leaving: Step,
    _presence: Arc<Presence>,
}

impl Gate {
    pub(super) fn new(presence: Arc<Presence>) -> Self {
        Self {
            token: CancellationToken::new(),
            why: OnceLock::new(),
            leaving: Step::default(),
            _presence: presence,
        }
    }

    pub(super) fn close(&self, why: Closed) {
        let _first_reason_stays = self.why.set(why);
        self.token.cancel();
    }

    pub(super) fn leave(&self) {
        self.leaving.take();
    }

    /// Taken when clients should come back elsewhere, although nothing is closed yet.
    pub fn leaving(&self) -> &Step {
        &self.leaving
    }

    /// True before [`Gate::closed`] returns, and at the price of one load.
    pub fn is_closing(&self) -> bool {
        self.why.get().is_some()
    }

    pub fn why(&self) -> Option<Closed> {
        self.why.get().cloned()
    }

    /// The same as [`Gate::closed`], for a task that something else wakes when the time comes.
    pub fn closing(&self) -> impl Future<Output = Closed> {
        std::future::poll_fn(|_| self.why().map_or(Poll::Pending, Poll::Ready))
    }

    /// Returns when it must be closed.
    pub async fn closed(&self) -> Closed {
        self.token.cancelled().await;
        self.why.get().cloned().unwrap_or(Closed::Revoked)
    }
}

/// Exists as long as anything of this proxy may still send to the backend's address. When the backend has ended and
/// the last holder is gone, the drone is told that the address is free of us.
#[derive(Debug)]
pub struct Presence {
    drone: Weak<Drone>,
    key: BackendKey,
    ended: std::sync::atomic::AtomicBool,
}

impl Presence {
    pub(super) fn new(drone: Weak<Drone>, key: BackendKey) -> Self {
        Self { drone, key, ended: false.into() }
    }

    pub(super) fn set_ended(&self) {
        self.ended.store(true, std::sync::atomic::Ordering::Release);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if *self.ended.get_mut()
            && let Some(drone) = self.drone.upgrade()
        {
            drone.tell(ended_seen(&self.key));
        }
    }
}

pub(super) fn ended_seen(key: &BackendKey) -> ToDrone {
    ToDrone::EndedSeen { backend: key.backend.clone(), fencing_token: key.fencing_token }
}
