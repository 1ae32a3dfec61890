//! Whether Postgres answers at all. A server that was paused, or cut off without a word, leaves statements without an end:
//! their timeouts are its own to keep, and a statement in flight must not be dropped. So whoever waits stops waiting, and the
//! work goes on behind it.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use jetway_protocol::error::Code;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::db::DbError;
use crate::error::ApiError;

/// Each request waits this long, whatever is known.
const PATIENCE: Duration = Duration::from_secs(3);
/// A statement that has not been answered by then shows a silent server: it ends its own statements at 5 s, and ours are waited
/// for a little longer (`lease::Leases::patience`).
const SILENT_AFTER: Duration = Duration::from_millis(5500);
const RETRY_MS: u64 = 2000;

/// Set by the one statement that is sent again and again: the watch's.
#[derive(Debug)]
pub struct Silence {
    is_silent: watch::Sender<bool>,
}

impl Default for Silence {
    fn default() -> Self {
        Self { is_silent: watch::Sender::new(false) }
    }
}

impl Silence {
    /// Watches over one statement: while it takes too long, Postgres is silent; once it has succeeded, it is not.
    pub async fn over<T, E>(&self, statement: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::pin!(statement);
        let done = tokio::select! {
            done = &mut statement => done,
            () = sleep(SILENT_AFTER) => {
                self.prove();
                statement.await
            }
        };
        if done.is_ok() && self.is_silent.send_replace(false) {
            tracing::info!("Postgres answers again");
        }
        done
    }

    /// A statement was given up without an answer.
    pub fn prove(&self) {
        if !self.is_silent.send_replace(true) {
            tracing::warn!("Postgres does not answer; requests that need it are told to come back");
        }
    }

    #[cfg(test)]
    pub fn set(&self, is_silent: bool) {
        self.is_silent.send_replace(is_silent);
    }

    /// Returns once waiting for Postgres has no point.
    async fn is_proven(&self) {
        sleep(PATIENCE).await;
        let mut is_silent = self.is_silent.subscribe();
        // The sender lives as long as the process.
        let _proven = is_silent.wait_for(|is_silent| *is_silent).await;
    }

    /// Runs work that needs Postgres on a task of its own and waits for it, but not for a silent server.
    pub async fn bounded<F>(&self, lifecycle: &Lifecycle, work: F) -> Result<F::Output, Unfinished>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        // Moved once: a task is moved several times on its way to the runtime.
        let task = lifecycle.spawn(Box::pin(work));
        tokio::select! {
            done = task => done.map_err(|error| match error.try_into_panic() {
                Ok(panic) => Unfinished::Panicked(panic),
                Err(_cancelled) => Unfinished::Silent,
            }),
            () = self.is_proven() => Err(Unfinished::Silent),
        }
    }
}

/// Waits for a statement on a task of its own, but no longer than `limit`. A connection whose peer has gone without a word is
/// left to its statement until the kernel gives it up; the next one is sent on another.
pub async fn within<T, F>(lifecycle: &Lifecycle, limit: Duration, work: F) -> Result<T, DbError>
where
    F: Future<Output = Result<T, DbError>> + Send + 'static,
    T: Send + 'static,
{
    match timeout(limit, lifecycle.spawn(until_stopped(lifecycle.clone(), work))).await {
        Ok(Ok(Some(done))) => done,
        Ok(Ok(None) | Err(_)) | Err(_) => Err(DbError::Silent),
    }
}

async fn until_stopped<F: Future>(lifecycle: Lifecycle, work: F) -> Option<F::Output> {
    tokio::select! {
        done = work => Some(done),
        () = lifecycle.stopping() => None,
    }
}

pub enum Unfinished {
    Silent,
    Panicked(Box<dyn Any + Send + 'static>),
}

pub fn silent() -> ApiError {
    ApiError::new(Code::Database, "the database does not answer; try again").retry_after_ms(RETRY_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_silent_server_and_the_work_goes_on() {
        let (silence, lifecycle) = (Silence::default(), Lifecycle::new());
        let (done, mut finished) = watch::channel(false);
        let slow = async move {
            sleep(Duration::from_secs(30)).await;
            done.send_replace(true);
        };
        assert!(silence.bounded(&lifecycle, async { 1 }).await.is_ok_and(|one| one == 1));
        silence.set(true);
        let asked = tokio::time::Instant::now();
        assert!(matches!(silence.bounded(&lifecycle, slow).await, Err(Unfinished::Silent)));
        assert_eq!(asked.elapsed(), PATIENCE);
        finished.wait_for(|finished| *finished).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_without_an_answer_is_left_to_itself() {
        let lifecycle = Lifecycle::new();
        let limit = Duration::from_secs(6);
        let (done, mut finished) = watch::channel(false);
        let slow = async move {
            sleep(Duration::from_secs(60)).await;
            done.send_replace(true);
            Ok(())
        };
        assert!(matches!(within(&lifecycle, limit, slow).await, Err(DbError::Silent)));
        assert!(within(&lifecycle, limit, async { Ok(1) }).await.is_ok_and(|one| one == 1));
        finished.wait_for(|finished| *finished).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_statement_that_takes_too_long_is_silence_until_one_succeeds() {
        let silence = Silence::default();
        let is_silent = silence.is_silent.subscribe();
        let slow = async {
            sleep(SILENT_AFTER * 2).await;
            assert!(*is_silent.borrow());
            Err::<(), ()>(())
        };
        assert!(silence.over(slow).await.is_err());
        assert!(*is_silent.borrow(), "a failure does not end it");
        assert!(silence.over(async { Ok::<(), ()>(()) }).await.is_ok());
        assert!(!*is_silent.borrow());
    }
}
