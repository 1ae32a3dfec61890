//! Where keys were found last: so that a connect can offer its grant to that drone while Postgres is asked. What Postgres says
//! decides; a guess that was wrong leaves a grant that nobody was given, at a backend that is not the key's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jetway_protocol::key::Key;

use crate::db::backends::LiveBackend;

/// Twice as many are known, at most.
const GENERATION: usize = 8 * 1024;

type Known = HashMap<Key, Arc<LiveBackend>>;

#[derive(Debug, Default)]
pub struct Recent {
    generations: Mutex<Generations>,
}

/// What was noted since the younger one began, and before. When the younger one is full the older one is forgotten.
#[derive(Debug, Default)]
struct Generations {
    young: Known,
    old: Known,
}

impl Recent {
    /// The tag is part of a key here: who comes with another one has no business there.
    pub fn guess(&self, key: &Key) -> Option<Arc<LiveBackend>> {
        let generations = self.lock();
        generations.young.get(key).or_else(|| generations.old.get(key)).cloned()
    }

    pub fn note(&self, key: &Key, live: LiveBackend) {
        let mut generations = self.lock();
        if generations.young.len() >= GENERATION {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key.clone(), Arc::new(live));
    }

    pub fn forget(&self, key: &Key) {
        let mut generations = self.lock();
        generations.young.remove(key);
        generations.old.remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
