//! Return URLs of sessions that live, on their way to Postgres. Connects put them here; the task
//! `return-urls` writes them together, once a second at most. So an application that gives each
//! visit another one costs a statement a second, and no connect waits for it.

use std::collections::HashMap;
use std::time::Duration;

use jetway_protocol::ids::BackendId;
use jetway_service::lines::Lines;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::db::hosts::Return;

/// Hosts whose URL waits, at most: 2 KiB each.
const WAITING_MAX: usize = 10_000;
static LEFT_OUT: Lines = Lines::new(1, Duration::from_secs(30));

#[derive(Debug, Default)]
pub struct ReturnUrls {
    /// By host: the last one counts.
    waiting: Mutex<HashMap<String, (BackendId, String)>>,
    /// "Look now" for the task that writes.
    pub nudge: Notify,
}

impl ReturnUrls {
    /// False: too many wait, and this one is left out.
    pub fn put(&self, hosts: Vec<String>, backend: &BackendId, return_url: &str) -> bool {
        let mut waiting = self.waiting.lock();
        for host in hosts {
            if waiting.len() >= WAITING_MAX && !waiting.contains_key(&host) {
                if let Some(left_out) = LEFT_OUT.tell() {
                    tracing::warn!(left_out, "return URLs come faster than Postgres takes them");
                }
                return false;
            }
            waiting.insert(host, (backend.clone(), return_url.to_owned()));
        }
        drop(waiting);
        self.nudge.notify_one();
        true
    }

    /// Some of those that wait, at most `limit`.
    pub fn take(&self, limit: usize) -> Vec<Return> {
        let mut waiting = self.waiting.lock();
        let hosts: Vec<String> = waiting.keys().take(limit).cloned().collect();
        hosts
            .into_iter()
            .filter_map(|host| {
                let (backend, return_url) = waiting.remove(&host)?;
                Some(Return { host, backend, return_url })
            })
            .collect()
    }

    /// Those that could not be written. One that came meanwhile is newer.
    pub fn put_back(&self, returns: Vec<Return>) {
        let mut waiting = self.waiting.lock();
        for Return { host, backend, return_url } in returns {
            waiting.entry(host).or_insert((backend, return_url));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_url_of_a_host_counts_and_their_number_has_a_bound() {
        let urls = ReturnUrls::default();
        let (old, new): (BackendId, BackendId) = ("old".parse().unwrap(), "new".parse().unwrap());
        assert!(urls.put(vec!["a".into(), "b".into()], &old, "x"));
        assert!(urls.put(vec!["a".into()], &new, "y"));
        let mut taken = urls.take(10);
        taken.sort_by(|one, other| one.host.cmp(&other.host));
        let shown: Vec<_> = taken
            .iter()
            .map(|one| (one.host.as_str(), one.backend.as_str(), one.return_url.as_str()))
            .collect();
        assert_eq!(shown, [("a", "new", "y"), ("b", "old", "x")]);
        assert!(urls.put(vec!["a".into()], &new, "z"));
        urls.put_back(taken);
        let again = urls.take(10);
        assert!(again.iter().any(|one| one.host == "a" && one.return_url == "z"), "{again:?}");
        for n in 0..WAITING_MAX {
            assert!(urls.put(vec![format!("h{n}")], &new, "x"));
        }
        assert!(!urls.put(vec!["one more".into()], &new, "x"));
        assert!(urls.put(vec!["h0".into()], &new, "y"), "what is there already has room");
        assert_eq!(urls.take(500).len(), 500);
    }
}
