//! Where keys were found last: so that a connect can offer its grant there without having asked Postgres. A drone that holds the key
//! says so, and then that is enough ([`super::holder`]); otherwise Postgres is asked at the same time, and what it says decides. A
//! guess that was wrong leaves a grant that nobody was given, at a backend that is not the key's.

use std::sync::Arc;

use jetway_protocol::ids::BackendId;
use jetway_protocol::key::Key;
use parking_lot::{Mutex, MutexGuard};

use crate::db::backends::LiveBackend;
use crate::generations::Generations;

/// Twice as many are known, at most, at about 600 bytes each.
const GENERATION: usize = 64 * 1024;

/// What lived when it was found, and was acknowledged by its drone.
#[derive(Debug, Clone)]
pub struct Guess {
    pub live: Arc<LiveBackend>,
    /// Its drone has said that it holds the key.
    pub is_held: bool,
}

#[derive(Debug)]
pub struct Recent {
    generations: Mutex<Generations<Key, Guess>>,
}

impl Default for Recent {
    fn default() -> Self {
        Self { generations: Mutex::new(Generations::new(GENERATION)) }
    }
}

impl Recent {
    /// The tag is part of a key here: who comes with another one has no business there.
    pub fn guess(&self, key: &Key) -> Option<Guess> {
        self.lock().get(key).cloned()
    }

    pub fn note(&self, key: &Key, live: LiveBackend, is_held: bool) {
        self.lock().add(key.clone(), Guess { live: Arc::new(live), is_held });
    }

    pub fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Looks at each: only for what hardly ever happens.
    pub fn forget_backend(&self, id: &BackendId) {
        self.lock().retain(|guess| guess.live.id != *id);
    }

    fn lock(&self) -> MutexGuard<'_, Generations<Key, Guess>> {
        self.generations.lock()
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{DroneId, FencingToken, Term};
    use jetway_protocol::status::Status;
    use uuid::Uuid;

    use super::*;
    use crate::db::drones::DroneRef;

    fn key(n: usize) -> Key {
        Key { namespace: String::new(), name: format!("k{n}"), tag: String::new() }
    }

    fn live(n: usize) -> LiveBackend {
        LiveBackend {
            id: format!("b{n}").parse().unwrap(),
            fencing_token: FencingToken(1),
            tag: String::new(),
            status: Status::Ready,
            cluster: "localhost".parse().unwrap(),
            subdomain: None,
            use_static_token: false,
            stop_requested: false,
            acknowledged: true,
            is_released: false,
            drone: DroneRef {
                id: DroneId(Uuid::nil()),
                name: "one".parse().unwrap(),
                term: Term(1),
                advertise: "127.0.0.1:1".to_owned(),
            },
        }
    }

    #[test]
    fn who_is_asked_for_stays_known_and_there_is_an_end_to_the_others() {
        let recent = Recent::default();
        assert!(recent.guess(&key(0)).is_none());
        for n in 0..3 * GENERATION {
            recent.note(&key(n), live(n), false);
            assert!(recent.guess(&key(0)).is_some_and(|guess| guess.live.is_same_as(&live(0))), "{n}");
        }
        assert!(recent.guess(&key(1)).is_none());
        assert!(recent.guess(&key(3 * GENERATION - 1)).is_some());
        assert!(recent.lock().len() <= 131_072);
    }

    #[test]
    fn another_tag_is_another_key_and_what_is_forgotten_is_unknown() {
        let recent = Recent::default();
        (1..=3).for_each(|n| recent.note(&key(n), live(n), true));
        assert!(recent.guess(&key(1)).unwrap().is_held);
        assert!(recent.guess(&Key { tag: "other".to_owned(), ..key(1) }).is_none());
        recent.forget(&key(1));
        recent.forget_backend(&live(2).id);
        assert!(recent.guess(&key(1)).is_none() && recent.guess(&key(2)).is_none());
        assert!(recent.guess(&key(3)).is_some());
    }
}
