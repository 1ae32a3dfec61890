//! One process's tasks: started through [`Lifecycle`], stopped by its token, waited for at the end.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a stop waits for tasks that have been told to end: less than the 10 s after which container engines kill, so
/// that a process that cannot end in order still says so.
pub const STOP_SECONDS_MAX: u64 = 8;

/// A handle that every part of a component shares. Cloning it is cheap.
#[derive(Debug, Clone, Default)]
pub struct Lifecycle {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Lifecycle {
    pub fn new() -> Self {
        Self::default()
    }

    /// A part that can be stopped by itself, and is stopped with the whole. Its tasks are counted with the whole's.
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tasks: self.tasks.clone() }
    }

    /// A task that shutdown waits for. It must watch [`Lifecycle::stopping`] or end by itself.
    pub fn spawn<F>(&self, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(future)
    }

    /// The same on another runtime.
    pub fn spawn_on<F>(&self, future: F, runtime: &Handle) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn_on(future, runtime)
    }

    /// A task that is dropped where it stands when the stop comes: for work that needs no ending.
    pub fn spawn_until_stopped<F>(&self, future: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let token = self.token.clone();
        self.tasks.spawn(async move {
            token.run_until_cancelled(future).await;
        })
    }

    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    pub fn is_stopping(&self) -> bool {
        self.token.is_cancelled()
    }

    pub async fn stopping(&self) {
        self.token.cancelled().await;
    }

    /// Returns when a stop has come and the last task has ended. For what is no task of this process's work itself.
    pub async fn ended(&self) {
        self.stopping().await;
        self.tasks.wait().await;
    }

    /// Tells every task to end and waits, at most [`STOP_SECONDS_MAX`]. False: some did not end.
    pub async fn stop(&self) -> bool {
        self.stop_after(Duration::ZERO).await
    }

    /// The same where tasks may take `longer`.
    pub async fn stop_after(&self, longer: Duration) -> bool {
        self.token.cancel();
        self.tasks.close();
        let wait = longer + Duration::from_secs(STOP_SECONDS_MAX);
        tokio::time::timeout(wait, self.tasks.wait()).await.is_ok()
    }
}
