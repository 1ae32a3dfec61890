//! Which hosts this process knows to be written, for which backend: so that a connect to a live key
//! needs neither a read nor a write for them. Names are kept as hashes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};

use jetway_protocol::ids::BackendId;
use parking_lot::Mutex;

use super::session_hosts::Ports;
use crate::generations::Generations;

/// Twice as many backends are known, at most, at about 300 bytes each.
const GENERATION: usize = 64 * 1024;
/// Hosts of one backend that are known, at most: those of connects with different lists.
const HOSTS_MAX: usize = 32;

#[derive(Debug)]
struct Entry {
    /// That Postgres wrote before it was asked. On a later one, the rows may be lost.
    timeline: Option<u32>,
    hosts: Vec<u64>,
    ports: Ports,
}

#[derive(Debug)]
pub struct KnownHosts {
    entries: Mutex<Generations<BackendId, Entry>>,
    hasher: RandomState,
}

impl Default for KnownHosts {
    fn default() -> Self {
        Self { entries: Mutex::new(Generations::new(GENERATION)), hasher: RandomState::new() }
    }
}

impl KnownHosts {
    /// The backend's ports, where it is known to have all of the hosts.
    pub fn ports(&self, backend: &BackendId, timeline: Option<u32>, hosts: &[String]) -> Option<Ports> {
        let mut entries = self.entries.lock();
        let entry = entries.get(backend).filter(|entry| entry.timeline == timeline)?;
        let is_known = |host: &String| entry.hosts.contains(&self.hash(host));
        hosts.iter().all(is_known).then(|| entry.ports.clone())
    }

    /// `timeline`: as it was before Postgres was asked.
    pub fn note(&self, backend: &BackendId, timeline: Option<u32>, hosts: &[String], ports: Ports) {
        let hosts: Vec<u64> = hosts.iter().map(|host| self.hash(host)).collect();
        let mut entries = self.entries.lock();
        let mut entry = Entry { timeline, hosts, ports };
        if let Some(before) = entries.get(backend).filter(|before| before.timeline == timeline) {
            let room = HOSTS_MAX.saturating_sub(entry.hosts.len());
            let more = before.hosts.iter().filter(|host| !entry.hosts.contains(host)).take(room);
            let more: Vec<u64> = more.copied().collect();
            entry.hosts.extend(more);
        }
        entries.add(backend.clone(), entry);
    }

    fn hash<T: Hash + ?Sized>(&self, of: &T) -> u64 {
        self.hasher.hash_one(of)
    }

    #[cfg(test)]
    pub fn forget_all(&self) {
        *self.entries.lock() = Generations::new(GENERATION);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> BackendId {
        text.parse().unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn what_was_written_on_an_earlier_timeline_is_not_known() {
        let known = KnownHosts::default();
        known.note(&id("b"), Some(1), &names(&["a", "b"]), Ports::default());
        assert!(known.ports(&id("b"), Some(1), &names(&["a"])).is_some());
        assert!(known.ports(&id("b"), Some(2), &names(&["a"])).is_none(), "it may be lost");
        assert!(known.ports(&id("b"), Some(1), &names(&["a", "c"])).is_none());
        assert!(known.ports(&id("c"), Some(1), &names(&["a"])).is_none());
        known.note(&id("b"), Some(1), &names(&["c"]), Ports::default());
        assert!(known.ports(&id("b"), Some(1), &names(&["a", "b", "c"])).is_some());
        known.note(&id("b"), Some(2), &names(&["c"]), Ports::default());
        assert!(known.ports(&id("b"), Some(2), &names(&["a"])).is_none());
    }

    #[test]
    fn one_backend_and_all_of_them_have_a_bound() {
        let known = KnownHosts::default();
        for n in 0..100 {
            known.note(&id("b"), None, &names(&[&format!("h{n}")]), Ports::default());
        }
        let newest: Vec<String> = (69..100).map(|n| format!("h{n}")).collect();
        assert!(known.ports(&id("b"), None, &newest).is_some());
        assert_eq!(known.entries.lock().get(&id("b")).unwrap().hosts.len(), HOSTS_MAX);
        for n in 0..3 * GENERATION {
            known.note(&id(&format!("b{n}")), None, &[], Ports::default());
        }
        assert!(known.entries.lock().len() <= 2 * GENERATION);
    }
}
