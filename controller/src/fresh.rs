//! A read with the same result for all its callers. It runs at most once in each period; callers
//! in between share the last result, and callers during a read wait for that one.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

#[derive(Debug)]
pub struct Fresh<T> {
    /// Of a result, counted from the start of its read.
    age_max: Duration,
    last: Mutex<Option<(Instant, T)>>,
    /// One permit: for the caller that reads.
    turn: Semaphore,
}

impl<T: Clone> Fresh<T> {
    pub fn new(age_max: Duration) -> Self {
        Self { age_max, last: Mutex::default(), turn: Semaphore::new(1) }
    }

    /// The last result while it is young, else that of `read`. A failure is not kept.
    pub async fn get<E>(&self, read: impl AsyncFnOnce() -> Result<T, E>) -> Result<T, E> {
        if let Some(found) = self.young() {
            return Ok(found);
        }
        let _turn = self.turn.acquire().await;
        if let Some(found) = self.young() {
            return Ok(found);
        }
        let began = Instant::now();
        let found = read().await?;
        *self.last.lock() = Some((began, found.clone()));
        Ok(found)
    }

    fn young(&self) -> Option<T> {
        let last = self.last.lock();
        last.as_ref().filter(|(began, _)| began.elapsed() < self.age_max).map(|(_, found)| found.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_share_a_read_and_an_old_one_is_made_anew() {
        let (fresh, reads) = (Fresh::new(Duration::from_millis(250)), AtomicU32::new(0));
        let read = async || {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, ()>(reads.fetch_add(1, Ordering::Relaxed))
        };
        assert_eq!(join_all((0..100).map(|_| fresh.get(&read))).await, [Ok(0); 100]);
        // It began 100 ms ago.
        tokio::time::advance(Duration::from_millis(149)).await;
        assert_eq!(fresh.get(&read).await, Ok(0));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(fresh.get(&read).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_no_answer_for_the_next() {
        let fresh = Fresh::new(Duration::from_secs(1));
        assert_eq!(fresh.get(async || Err::<(), _>("no")).await, Err("no"));
        assert_eq!(fresh.get(async || Ok::<_, &str>(())).await, Ok(()));
    }
}
