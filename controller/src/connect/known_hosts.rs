//! Which hosts this process knows to be written, for which backend: so that a connect to a live key
//! needs neither a read nor a write for them. Names and URLs are kept as hashes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::time::Duration;

use jetway_protocol::ids::BackendId;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::session_hosts::Ports;
use crate::generations::Generations;

/// Twice as many backends are known, at most, at about 300 bytes each.
const GENERATION: usize = 64 * 1024;
/// Hosts of one backend that are known, at most: those of connects with different lists.
const HOSTS_MAX: usize = 32;
/// After this time a return URL is written again: another controller may have written another one
/// since.
const RETURN_URL_AGE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Entry {
    /// That Postgres wrote before it was asked. On a later one, the rows may be lost.
    timeline: Option<u32>,
    hosts: Vec<u64>,
    ports: Ports,
    return_url: Option<(u64, Instant)>,
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
        let mut entry = Entry { timeline, hosts, ports, return_url: None };
        if let Some(before) = entries.get(backend).filter(|before| before.timeline == timeline) {
            entry.return_url = before.return_url;
            let more: Vec<u64> =
                before.hosts.iter().filter(|host| !entry.hosts.contains(host)).copied().collect();
            if entry.hosts.len() + more.len() <= HOSTS_MAX {
                entry.hosts.extend(more);
            }
        }
        entries.add(backend.clone(), entry);
    }

    /// Whether this was the last return URL, a short time ago.
    pub fn is_returned(&self, backend: &BackendId, return_url: &str) -> bool {
        let hash = self.hash(return_url);
        let mut entries = self.entries.lock();
        let known = entries.get(backend).and_then(|entry| entry.return_url);
        known.is_some_and(|(known, at)| known == hash && at.elapsed() < RETURN_URL_AGE_MAX)
    }

    pub fn note_returned(&self, backend: &BackendId, return_url: &str) {
        let hash = self.hash(return_url);
        if let Some(entry) = self.entries.lock().get(backend) {
            entry.return_url = Some((hash, Instant::now()));
        }
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

    #[tokio::test(start_paused = true)]
    async fn a_return_url_is_known_for_a_minute() {
        let known = KnownHosts::default();
        known.note_returned(&id("b"), "x");
        assert!(!known.is_returned(&id("b"), "x"), "without an entry nothing is kept");
        known.note(&id("b"), None, &names(&["a"]), Ports::default());
        known.note_returned(&id("b"), "x");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(known.is_returned(&id("b"), "x") && !known.is_returned(&id("b"), "y"));
        known.note(&id("b"), None, &names(&["c"]), Ports::default());
        assert!(known.is_returned(&id("b"), "x"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!known.is_returned(&id("b"), "x"));
    }

    #[test]
    fn one_backend_and_all_of_them_have_a_bound() {
        let known = KnownHosts::default();
        for n in 0..100 {
            known.note(&id("b"), None, &names(&[&format!("h{n}")]), Ports::default());
        }
        assert!(known.entries.lock().get(&id("b")).unwrap().hosts.len() <= HOSTS_MAX);
        for n in 0..3 * GENERATION {
            known.note(&id(&format!("b{n}")), None, &[], Ports::default());
        }
        assert!(known.entries.lock().len() <= 2 * GENERATION);
    }
}
