//! The way out of an admission: everything open under one grant waits for its gate, and the last of
//! it to go says that all is closed.

use std::sync::{Arc, OnceLock};
use std::task::Poll;

use jetway_protocol::attach::ToDrone;
use jetway_protocol::status::{End, EndReason};
use tokio_util::sync::CancellationToken;

use super::ledger::BackendKey;
use super::outbox::Notices;
use crate::io::signal::Signal;

/// Why all uses must be closed now.
#[derive(Debug, Clone, PartialEq)]
pub enum Closed {
    Ended(End),
    Revoked,
}

/// One grant's gate. Every carrier of bytes under the grant holds it and watches it.
#[derive(Debug)]
pub struct Gate {
    token: CancellationToken,
    why: OnceLock<Closed>,
    leaving: Signal,
    ending: CancellationToken,
    end_reason: OnceLock<Option<EndReason>>,
    _presence: Arc<Presence>,
}

impl Gate {
    pub(super) fn new(presence: Arc<Presence>) -> Self {
        Self {
            token: CancellationToken::new(),
            why: OnceLock::new(),
            leaving: Signal::default(),
            ending: CancellationToken::new(),
            end_reason: OnceLock::new(),
            _presence: presence,
        }
    }

    pub(super) fn close(&self, why: Closed) {
        let _first_reason_stays = self.why.set(why);
        self.token.cancel();
    }

    pub(super) fn ends(&self, reason: Option<EndReason>) {
        let _first_reason_stays = self.end_reason.set(reason);
        self.ending.cancel();
    }

    /// Returns when it is known that the backend will end; with the reason, where it is known
    /// already.
    pub async fn ending(&self) -> Option<EndReason> {
        self.ending.cancelled().await;
        self.end_reason.get().copied().flatten()
    }

    pub(super) fn leave(&self) {
        self.leaving.take();
    }

    /// Taken when clients should come back elsewhere, although nothing is closed yet.
    pub fn leaving(&self) -> &Signal {
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

/// Exists as long as anything of this proxy may still send to the backend's address. When the
/// backend has ended and the last holder is gone, the drone is told that the address is free of us.
#[derive(Debug)]
pub struct Presence {
    notices: Arc<Notices>,
    key: BackendKey,
    ended: std::sync::atomic::AtomicBool,
}

impl Presence {
    pub(super) fn new(notices: Arc<Notices>, key: BackendKey) -> Self {
        Self { notices, key, ended: false.into() }
    }

    pub(super) fn set_ended(&self) {
        self.ended.store(true, std::sync::atomic::Ordering::Release);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if *self.ended.get_mut() {
            self.notices.tell(ended_seen(&self.key));
        }
    }
}

pub(super) fn ended_seen(key: &BackendKey) -> ToDrone {
    ToDrone::EndedSeen { backend: key.backend.clone(), fencing_token: key.fencing_token }
}

#[cfg(test)]
impl Gate {
    /// One of no drone.
    pub fn alone() -> Arc<Self> {
        let key = BackendKey {
            backend: jetway_protocol::ids::BackendId::random(),
            fencing_token: jetway_protocol::ids::FencingToken(1),
        };
        Arc::new(Self::new(Arc::new(Presence::new(Arc::default(), key))))
    }
}
