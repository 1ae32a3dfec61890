//! Whether Postgres answers at all. One request may send several statements, each with a deadline
//! of its own; once the watch has found that Postgres is silent, requests no longer wait for all of
//! them. Their work goes on behind them.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use jetway_protocol::error::Code;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::db::DbError;
use crate::error::ApiError;

/// Each request waits this long, whatever is known.
const PATIENCE: Duration = Duration::from_secs(3);
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
    /// What came of the watch's last statements: without an answer in time Postgres is silent, with
    /// a good one it is not.
    pub fn heard<T>(&self, done: &Result<T, DbError>) {
        match done {
            Ok(_) => {
                if self.is_silent.send_replace(false) {
                    tracing::info!("Postgres answers again");
                }
            }
            Err(DbError::Silent) => {
                if !self.is_silent.send_replace(true) {
                    tracing::warn!("Postgres does not answer; requests that need it are told to come back");
                }
            }
            Err(_) => {}
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

    #[test]
    fn postgres_is_silent_from_a_missing_answer_to_a_good_one() {
        let silence = Silence::default();
        let refused = || DbError::Query(sqlx::Error::RowNotFound);
        for (done, is_silent) in
            [(Err(refused()), false), (Err(DbError::Silent), true), (Err(refused()), true), (Ok(()), false)]
        {
            silence.heard(&done);
            assert_eq!(*silence.is_silent.borrow(), is_silent, "{done:?}");
        }
    }
}
