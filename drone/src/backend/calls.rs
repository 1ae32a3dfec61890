//! Calls that a backend's task has under way: futures that it polls beside everything else,
//! so that a stuck engine never keeps it from listening. What an answer means is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jetway_protocol::ids::SlotId;
use jetway_protocol::status::OUTPUT_BYTES_MAX;
use jetway_service::backoff::Backoff;
use tokio::time::{Instant, timeout};

use super::core::{Call, Done, Finish, SIGKILL};
use super::ready;
use crate::engine::{Engine, bounded};
use crate::runtime::{ContainerStatus, InitLine};

const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// A container that was told to go and is there after this is killed.
pub const EXIT_PATIENCE: Duration = Duration::from_secs(3);
/// Between looks at what the engine does not know.
const DOUBT: Duration = Duration::from_millis(100);
const OUTPUT_SECONDS_MAX: u64 = 3;

/// What a call ended in.
pub enum Answer {
    /// The line itself is the loop's.
    Line(InitLine),
    Done(Done),
}

type Job = BoxFuture<'static, Answer>;

/// What is under way, and the slot that each of it is about.
pub type Jobs = FuturesUnordered<BoxFuture<'static, (Option<SlotId>, Answer)>>;

/// Begins a call about this slot, if it is about any.
pub fn begin(jobs: &Jobs, engine: &Arc<Engine>, slot: Option<SlotId>, call: Call) {
    if let Some(job) = job(engine.clone(), slot, call) {
        jobs.push(job.map(move |answer| (slot, answer)).boxed());
    }
}

fn job(engine: Arc<Engine>, slot: Option<SlotId>, call: Call) -> Option<Job> {
    let job = match call {
        Call::AwaitPort(address) => reachable(ready::accepts_connections(address)),
        Call::AwaitHttp(address, path) => reachable(async move { ready::answers(address, &path).await }),
        Call::TellApplication { address, path, session, patience } => {
            let told = ready::tell(address, path, session, patience);
            told.map(|told| Answer::Done(Done::Told(told))).boxed()
        }
        Call::Look => look(engine, slot?),
        Call::Signal(number) => signal(engine, slot?, number),
        Call::OpenLine { nonce } => open_line(engine, slot?, nonce),
        Call::Finish { how, want_output } => finish(engine, slot?, how, want_output),
        Call::GoneLater { status, output } => gone_later(engine, slot?, status, output),
    };
    Some(job)
}

fn reachable(check: impl Future<Output = ()> + Send + 'static) -> Job {
    check.map(|()| Answer::Done(Done::Reachable)).boxed()
}

fn look(engine: Arc<Engine>, slot: SlotId) -> Job {
    Box::pin(async move { Answer::Done(Done::Looked(engine.inspect(slot).await)) })
}

fn signal(engine: Arc<Engine>, slot: SlotId, signal: i32) -> Job {
    Box::pin(async move { Answer::Done(Done::Signalled(bounded(engine.runtime.kill(slot, signal)).await)) })
}

fn open_line(engine: Arc<Engine>, slot: SlotId, nonce: Option<String>) -> Job {
    Box::pin(async move {
        match bounded(engine.runtime.open_line_of(slot, nonce)).await {
            Ok(line) => Answer::Line(line),
            Err(error) => Answer::Done(Done::LineNotOpened(error)),
        }
    })
}

/// Repeats for as long as it takes: a call that failed or timed out is not an end.
fn finish(engine: Arc<Engine>, slot: SlotId, how: Finish, want_output: bool) -> Job {
    Box::pin(async move {
        let status = match how {
            Finish::Remove => remove_until_done(&engine, slot).await,
            Finish::Kill => until_not_running(&engine, slot, Duration::ZERO).await,
            Finish::Await => until_not_running(&engine, slot, EXIT_PATIENCE).await,
        };
        let mut output = String::new();
        if want_output && matches!(status, ContainerStatus::Exited { .. }) {
            let tail = engine.runtime.output_tail(slot, OUTPUT_BYTES_MAX);
            if let Ok(Ok(tail)) = timeout(Duration::from_secs(OUTPUT_SECONDS_MAX), tail).await {
                output = tail;
            }
        }
        gone(&engine, slot, status, output)
    })
}

/// The same once more: it was not certain.
fn gone_later(engine: Arc<Engine>, slot: SlotId, status: ContainerStatus, output: String) -> Job {
    Box::pin(async move {
        tokio::time::sleep(DOUBT).await;
        gone(&engine, slot, status, output)
    })
}

fn gone(engine: &Engine, slot: SlotId, status: ContainerStatus, output: String) -> Answer {
    Answer::Done(Done::Gone { status, output, was_cut_off: engine.runtime.was_cut_off(slot) })
}

/// Only the engine's word counts: exited, absent, or never started.
async fn until_not_running(engine: &Engine, slot: SlotId, patience: Duration) -> ContainerStatus {
    let kill_from = Instant::now() + patience;
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    loop {
        if Instant::now() >= kill_from {
            // Beside the queue: a kill waits for nobody. Its own answer proves nothing, so it is
            // not looked at.
            let _what_inspect_says_counts = bounded(engine.runtime.kill(slot, SIGKILL)).await;
        }
        match engine.inspect(slot).await {
            Ok(ContainerStatus::Running { .. }) => {}
            Ok(status) => return status,
            Err(error) => tracing::warn!(%slot, %error, "the engine does not say whether the container runs"),
        }
        backoff.wait().await;
    }
}

async fn remove_until_done(engine: &Engine, slot: SlotId) -> ContainerStatus {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    while let Err(error) = engine.remove(slot).await {
        tracing::warn!(%slot, %error, "a container cannot be removed yet");
        // What does not run has ended, also where the engine cannot get rid of it; the reconciler
        // goes on trying.
        if let Ok(status @ (ContainerStatus::Absent | ContainerStatus::Exited { .. })) =
            engine.inspect(slot).await
        {
            return status;
        }
        backoff.wait().await;
    }
    ContainerStatus::Absent
}
