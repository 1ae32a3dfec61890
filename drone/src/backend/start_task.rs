//! The engine's part of a start: image, container, start. A task of its own, so that a stop never
//! waits for it; a container that appears after a stop is parked, runs nothing and is removed.
//!
//! A slot has one container, made once and started once, whatever is repeated: an engine that
//! failed, or that could not be reached, may have done what it was asked to. Docker with
//! `--live-restore` may even have forgotten that it did: of a container whose start it was killed
//! over it says that it was never started, fails to start it, and cannot end it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jetway_protocol::ids::BackendId;
use jetway_protocol::spec::Executable;
use jetway_protocol::status::EndReason;
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use jetway_service::backoff::Backoff;
use jetway_service::lifecycle::Lifecycle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::core::Progress;
use crate::engine::{Engine, PULL_SECONDS_MAX, bounded};
use crate::runtime::{ContainerStatus, CreateRequest, Image, ImageError, InitLine, RuntimeError};
use crate::store::journal::Place;

/// Between two calls to an engine that cannot be reached.
const AGAIN_FIRST: Duration = Duration::from_millis(100);
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// Steps that the task reports before the backend's task has read them.
const REPORTS_MAX: usize = 8;

/// What the task reports.
pub enum Report {
    /// The line itself is the loop's.
    Line(InitLine),
    Progress(Progress),
}

/// The engine's part of a start, under way.
pub struct Starting {
    stopped: CancellationToken,
    may_exist: Arc<AtomicBool>,
    init_came: Arc<AtomicBool>,
    reports: mpsc::Receiver<Report>,
}

impl Starting {
    /// `None`: the task ended without a word, and nothing more will come.
    pub async fn next(starting: &mut Option<Self>) -> Option<Report> {
        match starting {
            Some(starting) => starting.reports.recv().await,
            None => std::future::pending().await,
        }
    }

    pub fn init_came(&self) {
        self.init_came.store(true, Ordering::SeqCst);
    }

    /// Tells the task to stop; true: a container may be there or come.
    pub fn stop(&self) -> bool {
        self.stopped.cancel();
        self.may_exist.load(Ordering::SeqCst)
    }
}

/// Begins to make and start a container. `give_up`: an engine that cannot be reached is waited for
/// until then.
pub fn begin(
    engine: &Arc<Engine>,
    lifecycle: &Lifecycle,
    place: Place,
    backend: BackendId,
    executable: Executable,
    give_up: Instant,
) -> Starting {
    let (sender, reports) = mpsc::channel(REPORTS_MAX);
    let stopped = CancellationToken::new();
    let [may_exist, init_came] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let task = StartTask {
        engine: engine.clone(),
        place,
        backend,
        executable,
        give_up,
        stopped: stopped.clone(),
        may_exist: may_exist.clone(),
        init_came: init_came.clone(),
        reports: sender,
    };
    lifecycle.spawn_until_stopped(task.run());
    Starting { stopped, may_exist, init_came, reports }
}

struct StartTask {
    engine: Arc<Engine>,
    place: Place,
    backend: BackendId,
    executable: Executable,
    give_up: Instant,
    stopped: CancellationToken,
    /// Set before the container is asked for.
    may_exist: Arc<AtomicBool>,
    /// Init has been on the line.
    init_came: Arc<AtomicBool>,
    reports: mpsc::Sender<Report>,
}

impl StartTask {
    async fn run(self) {
        let Some(image) = self.image().await else { return };
        if let Err(error) = self.container(image).await {
            self.say(failed(error)).await;
        }
        if self.stopped.is_cancelled() && self.may_exist.load(Ordering::SeqCst) {
            // The stop may have removed nothing because nothing was there yet.
            let _left_to_the_reconciler = self.engine.remove(self.place.slot).await;
        }
    }

    /// A stop leaves the pull to whoever else waits for it.
    async fn image(&self) -> Option<Image> {
        let longest = Duration::from_secs(PULL_SECONDS_MAX);
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_MAX);
        loop {
            let image = timeout(longest, self.engine.runtime.ensure_image(&self.executable));
            match self.stopped.run_until_cancelled(image).await? {
                Ok(Ok(image)) => {
                    self.say(Progress::Image(image.clone())).await;
                    return Some(image);
                }
                Ok(Err(error @ ImageError::Unreachable { .. })) => {
                    if !self.may_ask_again(&error.to_string(), &mut backoff).await {
                        self.say(Progress::Unreachable(error.to_string())).await;
                        return None;
                    }
                }
                Ok(Err(error)) => {
                    let reason = match error {
                        ImageError::NotFound { .. } | ImageError::AbsentAndNever { .. } => {
                            EndReason::ImageNotFound
                        }
                        ImageError::PullFailed { .. } | ImageError::Unreachable { .. } => {
                            EndReason::PullFailed
                        }
                    };
                    self.say(Progress::Failed(reason, error.to_string())).await;
                    return None;
                }
                Err(_) => {
                    let message = format!("the pull of {} took too long", self.executable.image);
                    self.say(Progress::Failed(EndReason::PullFailed, message)).await;
                    return None;
                }
            }
        }
    }

    /// After an engine that could not be reached. False: there is no time left, or the start was
    /// stopped.
    async fn may_ask_again(&self, error: &str, backoff: &mut Backoff) -> bool {
        self.engine.note_loss();
        let wait = backoff.next_wait();
        if Instant::now() + wait > self.give_up {
            return false;
        }
        tracing::warn!(slot = %self.place.slot, error, "a start waits for the engine");
        self.stopped.run_until_cancelled(tokio::time::sleep(wait)).await.is_some()
    }

    /// A call that may be repeated, for as long as nobody answers it.
    async fn reached<T, F: Future<Output = Result<T, RuntimeError>>>(
        &self,
        call: impl Fn() -> F,
    ) -> Result<T, RuntimeError> {
        let mut backoff = Backoff::new(AGAIN_FIRST, AGAIN_MAX);
        loop {
            match call().await {
                Err(RuntimeError::Unreachable(reason)) => {
                    if !self.may_ask_again(&reason, &mut backoff).await {
                        return Err(RuntimeError::Unreachable(reason));
                    }
                }
                outcome => return outcome,
            }
        }
    }

    async fn container(&self, image: Image) -> Result<(), RuntimeError> {
        self.may_exist.store(true, Ordering::SeqCst);
        if self.stopped.is_cancelled() {
            return Ok(());
        }
        let line = bounded(self.engine.runtime.open_line(self.place.slot)).await?;
        self.report(Report::Line(line)).await;

        let start = UnixMicros::now();
        let request = CreateRequest {
            slot: self.place.slot,
            backend: Some(self.backend.clone()),
            executable: self.executable.clone(),
            image,
            address: self.place.address,
            sandbox: self.place.sandbox,
        };
        self.reached(|| self.create(&request)).await?;
        self.say(Progress::Created(since(StageName::Created, start))).await;
        if self.stopped.is_cancelled() {
            return Ok(());
        }
        let start = UnixMicros::now();
        let asked = AtomicBool::new(false);
        match self.reached(|| self.start_unless_it_ended(&asked)).await? {
            Start::Runs(address) => {
                self.say(Progress::Started(address, since(StageName::Started, start))).await;
            }
            Start::Ended => self.say(Progress::Ended).await,
            Start::Forgotten => self.say(Progress::Forgotten).await,
        }
        Ok(())
    }

    /// `asked`: an earlier call was cut off. It may have started the container, and neither what
    /// has ended since nor what the engine has forgotten must run again, under another init.
    async fn start_unless_it_ended(&self, asked: &AtomicBool) -> Result<Start, RuntimeError> {
        if asked.swap(true, Ordering::SeqCst) {
            let found = self.engine.inspect(self.place.slot).await;
            match found.map_err(|error| RuntimeError::Unreachable(error.to_string()))? {
                ContainerStatus::Exited { .. } | ContainerStatus::Absent => return Ok(Start::Ended),
                ContainerStatus::Created if self.runs_where_it_should() => {
                    tracing::warn!(slot = %self.place.slot, "the engine has forgotten a container that runs");
                    return Ok(Start::Runs(self.place.address.into()));
                }
                ContainerStatus::Created => return Ok(Start::Forgotten),
                ContainerStatus::Running { .. } => {}
            }
        }
        self.start().await.map(Start::Runs)
    }

    /// Init's word. On a network that is not ours, only the engine knows the address.
    fn runs_where_it_should(&self) -> bool {
        self.init_came.load(Ordering::SeqCst) && self.executable.network_name.is_none()
    }

    /// An engine that failed may have done what it was asked to; asked again, it says that it is
    /// done.
    async fn create(&self, request: &CreateRequest) -> Result<(), RuntimeError> {
        match bounded(self.engine.runtime.create(request)).await {
            Err(RuntimeError::Engine(reason)) => {
                tracing::warn!(slot = %self.place.slot, reason, "the engine failed to make a container; asking again");
                bounded(self.engine.runtime.create(request)).await
            }
            outcome => outcome,
        }
    }

    /// The same; but a container that does not run is not started again: its failure may come late,
    /// too.
    async fn start(&self) -> Result<IpAddr, RuntimeError> {
        let outcome = bounded(self.engine.runtime.start(self.place.slot)).await;
        let Err(RuntimeError::Engine(reason)) = outcome else { return outcome };
        match self.engine.inspect(self.place.slot).await {
            Ok(ContainerStatus::Running { .. }) => {
                tracing::warn!(slot = %self.place.slot, reason, "the engine failed to start a container, and it runs");
                bounded(self.engine.runtime.start(self.place.slot)).await
            }
            _ => Err(RuntimeError::Engine(reason)),
        }
    }

    async fn say(&self, progress: Progress) {
        self.report(Report::Progress(progress)).await;
    }

    async fn report(&self, report: Report) {
        let _nobody_waits_after_a_stop = self.reports.send(report).await;
    }
}

/// What a start came to.
enum Start {
    Runs(IpAddr),
    Ended,
    /// The engine knows of no start, which proves nothing.
    Forgotten,
}

fn failed(error: RuntimeError) -> Progress {
    let message = error.to_string();
    match error {
        RuntimeError::NotOffered(_) => Progress::Failed(EndReason::Refused, message),
        RuntimeError::Unreachable(_) => Progress::Unreachable(message),
        RuntimeError::SandboxGone => Progress::SandboxGone,
        RuntimeError::Refused(_) | RuntimeError::Engine(_) | RuntimeError::Absent => {
            Progress::Failed(EndReason::CreateFailed, message)
        }
    }
}

fn since(stage: StageName, start: UnixMicros) -> Stage {
    Stage { stage, start, length_us: UnixMicros::now().since(start), note: String::new() }
}
