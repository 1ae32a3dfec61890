//! Messages that wait to be sent, in order. A batch is made of those that gathered while the last
//! one was under way. It stays here until its sender drops it, so that a call that failed loses
//! nothing.
//!
//! Not here: the limit of the queue, and retries. Both belong to the sender.

use std::collections::VecDeque;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

#[derive(Debug)]
pub struct Outbox<T> {
    queue: Mutex<VecDeque<T>>,
    filled: Notify,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { queue: Mutex::default(), filled: Notify::new() }
    }
}

impl<T: Clone> Outbox<T> {
    pub fn push(&self, message: T) {
        self.extend([message]);
    }

    /// Nothing else comes between these messages.
    pub fn extend(&self, messages: impl IntoIterator<Item = T>) {
        self.lock().extend(messages);
        self.filled.notify_one();
    }

    /// The oldest messages, as soon as there are some. They stay until [`Outbox::drop_first`].
    pub async fn batch(&self, max: usize) -> Vec<T> {
        loop {
            let filled = self.filled.notified();
            let batch: Vec<_> = self.lock().iter().take(max).cloned().collect();
            if !batch.is_empty() {
                return batch;
            }
            filled.await;
        }
    }

    pub fn drop_first(&self, count: usize) {
        self.lock().drain(..count);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<T>> {
        self.queue.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_batch_stays_until_it_is_dropped() {
        let outbox = Outbox::default();
        let (batch, ()) = tokio::join!(outbox.batch(2), async { (1..=3).for_each(|n| outbox.push(n)) });
        assert_eq!(batch, [1, 2], "it waited for them");
        assert_eq!(outbox.batch(2).await, [1, 2], "sent again");
        outbox.drop_first(2);
        assert_eq!(outbox.batch(2).await, [3]);
    }
}
