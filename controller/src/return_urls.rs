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

    /// All that wait.
    pub fn take(&self) -> Vec<Return> {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        let of = |(host, (backend, return_url))| Return { host, backend, return_url };
        waiting.into_iter().map(of).collect()
    }

    /// Those that could not be written. One that came meanwhile is newer.
    pub fn put_back(&self, returns: impl IntoIterator<Item = Return>) {
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
        let mut taken = urls.take();
        taken.sort_by(|one, other| one.host.cmp(&other.host));
        let shown: Vec<_> = taken
            .iter()
            .map(|one| (one.host.as_str(), one.backend.as_str(), one.return_url.as_str()))
            .collect();
        assert_eq!(shown, [("a", "new", "y"), ("b", "old", "x")]);
        assert!(urls.put(vec!["a".into()], &new, "z"));
        urls.put_back(taken);
        let again = urls.take();
        assert!(again.iter().any(|one| one.host == "a" && one.return_url == "z"), "{again:?}");
        for n in 0..WAITING_MAX {
            assert!(urls.put(vec![format!("h{n}")], &new, "x"));
        }
        assert!(!urls.put(vec!["one more".into()], &new, "x"));
        assert!(urls.put(vec!["h0".into()], &new, "y"), "what is there already has room");
        assert_eq!(urls.take().len(), WAITING_MAX);
    }
}
