//! Grants whose clients are on their way, and until when each holds its backend: by grant, and the
//! same in order of time, because every connect asks for the last of these moments and a popular
//! key has hundreds of thousands of them.

use std::collections::{BTreeSet, HashMap};

use jetway_protocol::ids::GrantId;
use tokio::time::Instant;

#[derive(Debug, Default, Clone)]
pub struct Holds {
    until: HashMap<GrantId, Instant>,
    in_order: BTreeSet<(Instant, GrantId)>,
}

impl Holds {
    /// A promise is never made shorter.
    pub fn add(&mut self, grant: GrantId, until: Instant) {
        if self.until.get(&grant).is_none_or(|known| *known < until) {
            self.remove(grant);
            self.until.insert(grant, until);
            self.in_order.insert((until, grant));
        }
    }

    pub fn has(&self, grant: GrantId) -> bool {
        self.until.contains_key(&grant)
    }

    pub fn remove(&mut self, grant: GrantId) {
        if let Some(until) = self.until.remove(&grant) {
            self.in_order.remove(&(until, grant));
        }
    }

    pub fn last(&self) -> Option<Instant> {
        self.in_order.last().map(|(until, _)| *until)
    }

    pub fn forget_until(&mut self, now: Instant) {
        while let Some((_, grant)) = self.in_order.first().copied().filter(|(until, _)| *until <= now) {
            self.remove(grant);
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.until.is_empty() && self.in_order.is_empty()
    }
}
