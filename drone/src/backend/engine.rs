//! Engine calls that a backend's task has under way: futures that it polls beside everything else, so that a stuck
//! engine never keeps it from listening. What an answer means is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jetway_protocol::ids::SlotId;
use jetway_protocol::status::{EndReason, OUTPUT_BYTES_MAX};
use jetway_service::backoff::Backoff;
use tokio::time::{Instant, timeout};

use crate::agent::{Agent, ENGINE_CALL_SECONDS_MAX};
use crate::runtime::{ContainerStatus, InitLine, RuntimeError};

pub const SIGKILL: i32 = 9;

const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A container that was told to go and is there after this is killed.
pub const EXIT_PATIENCE: Duration = Duration::from_secs(3);
/// Between looks at what the engine does not know.
const DOUBT: Duration = Duration::from_millis(100);
const OUTPUT_SECONDS_MAX: u64 = 3;

/// What a call ended in.
pub enum Done {
    /// Not running, for certain. What is left of it is to be removed.
    Gone {
        status: ContainerStatus,
        output: String,
    },
    Looked(Result<ContainerStatus, RuntimeError>),
    /// The stop signal went out through the engine.
    Signalled(Result<(), RuntimeError>),
    LineOpened(Result<InitLine, RuntimeError>),
    /// The backend's own check, from the host, says that it is ready.
    Reachable,
    /// What a hot application said when it was told of its session.
    Told(Result<(), (EndReason, String)>),
}

pub type Job = BoxFuture<'static, Done>;

/// How an end is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// SIGKILL now.
    Kill,
    /// It is about to exit by itself; SIGKILL when it does not.
    Await,
    /// It never ran: remove whatever there is.
    Remove,
}

pub fn look(agent: Arc<Agent>, slot: SlotId) -> Job {
    Box::pin(async move { Done::Looked(inspect(&agent, slot).await) })
}

pub fn signal(agent: Arc<Agent>, slot: SlotId, signal: i32) -> Job {
    Box::pin(async move { Done::Signalled(bounded(agent.runtime.kill(slot, signal)).await) })
}

/// `nonce`: of the init that was claimed, if one was.
pub fn open_line(agent: Arc<Agent>, slot: SlotId, nonce: Option<String>) -> Job {
    Box::pin(async move { Done::LineOpened(bounded(agent.runtime.open_line_of(slot, nonce)).await) })
}

/// Repeats for as long as it takes: a call that failed or timed out is not an end.
pub fn finish(agent: Arc<Agent>, slot: SlotId, how: Finish, want_output: bool) -> Job {
    Box::pin(async move {
        let status = match how {
            Finish::Remove => remove_until_done(&agent, slot).await,
            Finish::Kill => until_not_running(&agent, slot, Duration::ZERO).await,
            Finish::Await => until_not_running(&agent, slot, EXIT_PATIENCE).await,
        };
        let mut output = String::new();
        if want_output && matches!(status, ContainerStatus::Exited { .. }) {
            let tail = agent.runtime.output_tail(slot, OUTPUT_BYTES_MAX);
            if let Ok(Ok(tail)) = timeout(Duration::from_secs(OUTPUT_SECONDS_MAX), tail).await {
                output = tail;
            }
        }
        Done::Gone { status, output }
    })
}

/// The same once more: it was not certain.
pub fn gone_later(status: ContainerStatus, output: String) -> Job {
    Box::pin(async move {
        tokio::time::sleep(DOUBT).await;
        Done::Gone { status, output }
    })
}

/// Only the engine's word counts: exited, absent, or never started.
async fn until_not_running(agent: &Agent, slot: SlotId, patience: Duration) -> ContainerStatus {
    let kill_from = Instant::now() + patience;
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        if Instant::now() >= kill_from {
            // Beside the queue: a kill waits for nobody. Its own answer proves nothing, so it is not looked at.
            let _what_inspect_says_counts = bounded(agent.runtime.kill(slot, SIGKILL)).await;
        }
        match inspect(agent, slot).await {
            Ok(ContainerStatus::Running { .. }) => {}
            Ok(status) => return status,
            Err(error) => tracing::warn!(%slot, %error, "the engine does not say whether the container runs"),
        }
        backoff.wait().await;
    }
}

async fn remove_until_done(agent: &Agent, slot: SlotId) -> ContainerStatus {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    while let Err(error) = remove(agent, slot).await {
        tracing::warn!(%slot, %error, "a container cannot be removed yet");
        // What does not run has ended, also where the engine cannot get rid of it; the reconciler goes on trying.
        if let Ok(status @ (ContainerStatus::Absent | ContainerStatus::Exited { .. })) =
            inspect(agent, slot).await
        {
            return status;
        }
        backoff.wait().await;
    }
    ContainerStatus::Absent
}

/// Not behind other calls: the runtime has a queue of its own for it, a slow one, and whoever asks whether a container runs
/// must not stand in that.
pub async fn remove(agent: &Agent, slot: SlotId) -> Result<(), RuntimeError> {
    bounded(agent.runtime.remove(slot)).await
}

pub async fn inspect(agent: &Agent, slot: SlotId) -> Result<ContainerStatus, RuntimeError> {
    let _permit = agent.engine_calls.acquire().await.map_err(|_| closing())?;
    bounded(agent.runtime.inspect(slot)).await
}

/// A call with its deadline.
pub async fn bounded<T>(call: impl Future<Output = Result<T, RuntimeError>>) -> Result<T, RuntimeError> {
    let deadline = Duration::from_secs(ENGINE_CALL_SECONDS_MAX);
    let silent = || RuntimeError::Engine(format!("no answer in {ENGINE_CALL_SECONDS_MAX} seconds"));
    timeout(deadline, call).await.unwrap_or_else(|_| Err(silent()))
}

fn closing() -> RuntimeError {
    RuntimeError::Engine("the agent is stopping".to_owned())
}
