//! One piece of work for all callers that need it at the same time. The first caller does it;
//! callers that come meanwhile wait for its outcome, a failure included. Nothing is remembered
//! after the last of them.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

#[derive(Debug)]
pub struct Coalesce<K, V> {
    under_way: Mutex<HashMap<K, UnderWay<V>>>,
}

#[derive(Debug)]
struct UnderWay<V> {
    outcome: Arc<OnceCell<V>>,
    callers: usize,
}

impl<K, V> Default for Coalesce<K, V> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Coalesce<K, V> {
    /// Where the caller that works is dropped, another one that waits begins anew.
    pub async fn share(&self, key: K, work: impl AsyncFnOnce() -> V) -> V {
        let part = self.join(key);
        part.outcome.get_or_init(|| work()).await.clone()
    }

    fn join(&self, key: K) -> Part<'_, K, V> {
        let mut all = self.under_way.lock();
        let found = all.entry(key.clone());
        let found = found.or_insert_with(|| UnderWay { outcome: Arc::default(), callers: 0 });
        found.callers += 1;
        Part { of: self, key, outcome: found.outcome.clone() }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.under_way.lock().len()
    }
}

/// One caller's share in the work. Dropped, it makes room: after an outcome at once, else with the
/// last caller.
struct Part<'a, K: Eq + Hash, V> {
    of: &'a Coalesce<K, V>,
    key: K,
    outcome: Arc<OnceCell<V>>,
}

impl<K: Eq + Hash, V> Drop for Part<'_, K, V> {
    fn drop(&mut self) {
        let mut all = self.of.under_way.lock();
        let Some(found) = all.get_mut(&self.key) else { return };
        // Another piece of work by now.
        if !Arc::ptr_eq(&found.outcome, &self.outcome) {
            return;
        }
        found.callers -= 1;
        if found.callers == 0 || self.outcome.initialized() {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn callers_at_one_time_share_one_outcome() {
        let (coalesce, count) = (Coalesce::<u8, Result<u32, &str>>::default(), AtomicU32::new(0));
        let work = async || {
            yield_now().await;
            let n = count.fetch_add(1, Ordering::Relaxed);
            if n == 0 { Err("no") } else { Ok(n) }
        };
        let all = join_all((0..100).map(|_| coalesce.share(1, &work))).await;
        assert_eq!(all, [Err("no"); 100], "a failure is shared, too");
        assert_eq!(coalesce.len(), 0);
        assert_eq!(coalesce.share(1, &work).await, Ok(1), "and not remembered");
        let (one, other) = tokio::join!(coalesce.share(1, &work), coalesce.share(2, &work));
        assert_ne!(one, other, "another key is another piece of work");
    }

    #[tokio::test]
    async fn work_that_is_dropped_is_done_by_the_next() {
        let coalesce = Coalesce::<u8, u8>::default();
        let mut first = Box::pin(coalesce.share(1, async || std::future::pending().await));
        let mut second = Box::pin(coalesce.share(1, async || 2));
        assert!(futures_util::poll!(first.as_mut()).is_pending());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        assert_eq!(second.await, 2);
        let mut alone = Box::pin(coalesce.share(3, async || std::future::pending().await));
        assert!(futures_util::poll!(alone.as_mut()).is_pending());
        assert_eq!(coalesce.len(), 1);
        drop(alone);
        assert_eq!(coalesce.len(), 0);
    }
}
