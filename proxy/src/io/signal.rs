//! Something that hardly ever happens, waited for beside something that happens all the time. To
//! ask a cancellation token whether it is time takes a lock that thousands of connections share; a
//! hint, which is one load, says when it is worth asking.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

/// A step that is taken once, for good. The flag, which is one load, is set before the token.
#[derive(Debug, Default)]
pub struct Signal {
    is_taken: AtomicBool,
    token: CancellationToken,
}

impl Signal {
    pub fn take(&self) {
        self.is_taken.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::Acquire)
    }

    /// Returns when it is taken.
    pub fn taken(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }
}

/// `hint` must be true before `future` is woken. Always polled by one and the same task: it is
/// registered there once.
pub struct Hinted<F, H> {
    future: Pin<Box<F>>,
    hint: H,
    is_registered: bool,
}

impl<F: Future, H: Fn() -> bool> Hinted<F, H> {
    pub fn new(future: F, hint: H) -> Self {
        Self { future: Box::pin(future), hint, is_registered: false }
    }
}

impl<F: Future, H: Fn() -> bool + Unpin> Future for Hinted<F, H> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        if self.is_registered && !(self.hint)() {
            return Poll::Pending;
        }
        self.is_registered = true;
        self.future.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn it_is_asked_once_and_then_when_there_is_a_hint() {
        let (token, hint, polls) = (CancellationToken::new(), AtomicBool::new(false), AtomicUsize::new(0));
        let (inside, asked) = (token.clone(), &polls);
        let cancelled = async move {
            let mut cancelled = std::pin::pin!(inside.cancelled());
            std::future::poll_fn(|cx| {
                asked.fetch_add(1, Ordering::Relaxed);
                cancelled.as_mut().poll(cx)
            })
            .await;
        };
        let mut seldom = Hinted::new(cancelled, || hint.load(Ordering::Relaxed));
        for _ in 0..10 {
            assert!(futures_util::poll!(&mut seldom).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        hint.store(true, Ordering::Relaxed);
        token.cancel();
        seldom.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn who_is_idle_is_woken() {
        let (token, hint) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        let (inside, seen) = (token.clone(), hint.clone());
        let waiting = Hinted::new(inside.cancelled(), || seen.load(Ordering::Relaxed));
        let happening = async {
            tokio::task::yield_now().await;
            hint.store(true, Ordering::Relaxed);
            token.cancel();
        };
        tokio::join!(waiting, happening);
    }
}
