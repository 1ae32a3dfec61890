//! What the controllers last said of this drone: its term, its installation, whether it drains. The registration
//! task writes it, everything else reads it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jetway_protocol::controller_api::Registered;
use jetway_protocol::ids::Term;
use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Debug)]
pub struct Membership {
    registered: watch::Sender<Option<Registered>>,
    /// `draining`, and a count of direct orders: an order that came while a heartbeat was under way outranks its reply.
    draining: Mutex<bool>,
    orders: AtomicU64,
    /// The agent ends for good: nobody's word makes it take backends again.
    closing: AtomicBool,
    /// The term that somebody was told is over.
    stale: watch::Sender<Option<Term>>,
}

impl Default for Membership {
    fn default() -> Self {
        Self {
            registered: watch::Sender::new(None),
            draining: Mutex::new(false),
            orders: AtomicU64::new(0),
            closing: AtomicBool::new(false),
            stale: watch::Sender::new(None),
        }
    }
}

impl Membership {
    pub fn term(&self) -> Option<Term> {
        self.registered.borrow().as_ref().map(|registered| registered.term)
    }

    /// What the controllers ask for as the time between heartbeats.
    pub fn heartbeat_ms(&self) -> u64 {
        self.registered.borrow().as_ref().map_or(0, |registered| registered.heartbeat_ms)
    }

    /// The term, as soon as there is one that `is_fresh` accepts.
    pub async fn term_that(&self, is_fresh: impl Fn(Term) -> bool) -> Term {
        let mut registered = self.registered.subscribe();
        loop {
            let term = registered.borrow_and_update().as_ref().map(|registered| registered.term);
            if let Some(term) = term.filter(|term| is_fresh(*term)) {
                return term;
            }
            if registered.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub fn set_registered(&self, registered: Registered) {
        self.set_draining(registered.draining);
        self.registered.send_replace(Some(registered));
    }

    pub fn is_draining(&self) -> bool {
        self.closing.load(Ordering::SeqCst) || *self.draining.lock()
    }

    /// From now on it drains, whatever controllers say.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
    }

    /// A controller's direct order.
    pub fn order_draining(&self, draining: bool) {
        self.orders.fetch_add(1, Ordering::SeqCst);
        self.set_draining(draining);
    }

    pub fn orders(&self) -> u64 {
        self.orders.load(Ordering::SeqCst)
    }

    /// What a heartbeat's reply says, unless an order came since it was sent.
    pub fn heard_draining(&self, draining: bool, orders_when_sent: u64) {
        if self.orders() == orders_when_sent {
            self.set_draining(draining);
        }
    }

    pub fn report_stale(&self, term: Term) {
        self.stale.send_replace(Some(term));
    }

    /// Returns once `term` was reported to be over.
    pub async fn stale(&self, term: Term) {
        let mut stale = self.stale.subscribe();
        let _never_closed_while_self_lives = stale.wait_for(|stale| *stale == Some(term)).await;
    }

    fn set_draining(&self, draining: bool) {
        *self.draining.lock() = draining;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_outranks_the_reply_to_an_older_heartbeat() {
        let membership = Membership::default();
        let sent = membership.orders();
        membership.order_draining(true);
        membership.heard_draining(false, sent);
        assert!(membership.is_draining());
        membership.heard_draining(false, membership.orders());
        assert!(!membership.is_draining());
        membership.close();
        membership.heard_draining(false, membership.orders());
        membership.order_draining(false);
        assert!(membership.is_draining(), "the end is final");
    }
}
