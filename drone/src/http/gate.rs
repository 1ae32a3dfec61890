//! The way into an agent that may not serve yet: before it does, requests are put off, or refused
//! for good, and what was refused then stays so.

use std::sync::{Arc, OnceLock};

use jetway_protocol::ids::BackendId;
use jetway_protocol::secret::{Purpose, Secret};
use jetway_protocol::status::EndReason;
use parking_lot::{Mutex, MutexGuard};

use super::tunnels::Tunnels;
use crate::agent::Agent;
use crate::store::journal::{Journals, Tombstone};

/// Ids that are refused for good before there is an agent; beyond that they are put off.
const DECLINED_MAX: usize = 4096;

/// The way into an agent that may not serve yet.
#[derive(Clone)]
pub struct Gate {
    secret: Arc<Secret>,
    agent: Arc<OnceLock<Arc<Agent>>>,
    /// What the agents before this one have begun.
    journals: Journals,
    declined: Arc<Mutex<Vec<BackendId>>>,
    pub tunnels: Arc<Tunnels>,
}

impl Gate {
    pub fn new(secret: Secret, journals: Journals) -> Self {
        let tunnels = Arc::new(Tunnels::for_this_process());
        Self { secret: Arc::new(secret), agent: Arc::default(), journals, declined: Arc::default(), tunnels }
    }

    /// From here on the agent serves, and holds to what was said before.
    pub fn open(&self, agent: Arc<Agent>) {
        let mut declined = self.declined();
        for id in declined.drain(..) {
            let tombstone = Tombstone::of_what_never_ran(&id, EndReason::Refused, "the drone was starting");
            let set = agent.tombstones().set(tombstone);
            if let Err(error) = set {
                // It is known in memory all the same.
                tracing::error!(backend = %id, %error, "a tombstone cannot be written");
            }
        }
        let _opened_once = self.agent.set(agent);
    }

    /// Notes that this id will never be taken, while there is no agent to write it down. What is in memory is enough: when this
    /// process falls, the next one registers anew, and is given a term that is newer than any `PUT`'s by then. False: there
    /// is an agent by now, too much is noted, or an agent of before has begun it.
    pub fn decline(&self, id: &BackendId) -> bool {
        let mut declined = self.declined();
        if self.agent.get().is_some() || declined.len() >= DECLINED_MAX || self.journals.has(id) {
            return false;
        }
        declined.push(id.clone());
        true
    }

    fn declined(&self) -> MutexGuard<'_, Vec<BackendId>> {
        self.declined.lock()
    }

    pub fn agent(&self) -> Option<&Arc<Agent>> {
        self.agent.get()
    }

    pub fn authorizes(&self, purpose: Purpose, given: Option<&[u8]>) -> bool {
        self.secret.authorizes(purpose, given)
    }
}
