//! The task of one backend: the one loop in which everything that can happen to it arrives. What
//! each thing means is decided by the [`Core`]; what it wants done is carried out in `carry_out`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use jetway_protocol::attach::GRACE_AFTER_START_SECONDS;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use jetway_protocol::time::UnixMicros;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::calls::{Answer, Jobs};
use super::core::{Core, Done, Event, Now, Progress, Snapshot};
use super::handle::Command;
use super::start_task::{Report, Starting};
use crate::agent::Agent;
use crate::books::admission::Reservation;
use crate::lease::Tenure;
use crate::runtime::{InitLine, LineEvent};
use crate::store::journal::{Journal, Remembered};
use crate::warm::take;

pub struct Actor {
    pub(super) core: Core,
    pub(super) agent: Arc<Agent>,
    /// `None`: nothing stops it for want of a lease.
    tenure: Option<Tenure>,
    nudges: watch::Receiver<u64>,
    pub(super) line: Option<InitLine>,
    pub(super) starting: Option<Starting>,
    pub(super) jobs: Jobs,
    killed: bool,
    /// The last to be dropped: another backend is admitted when all else of this one is gone.
    pub(super) handles: Handles,
}

/// A backend's ends of what joins it to the rest of its agent.
pub struct Handles {
    pub journal: Journal,
    pub outward: watch::Sender<Snapshot>,
    pub commands: mpsc::Receiver<Command>,
    pub kill: CancellationToken,
    /// Given back with the task.
    #[expect(dead_code, reason = "held")]
    pub reservation: Reservation,
}

/// How its task comes to a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    Anew,
    Found,
    FoundAfterBoot,
}

impl Actor {
    pub fn new(agent: Arc<Agent>, remembered: Remembered, tenure: Option<Tenure>, handles: Handles) -> Self {
        let now = Now { instant: Instant::now(), wall: UnixMicros::now(), lease: None };
        Self {
            core: Core::new(remembered, agent.drone.boot_id, tenure, now),
            nudges: agent.lease.nudges(),
            agent,
            tenure,
            handles,
            line: None,
            starting: None,
            jobs: Jobs::new(),
            killed: false,
        }
    }

    pub async fn run(mut self, begin: Begin) {
        self.begin(begin);
        while self.core.status() != Status::Terminated {
            let looked_at = self.do_what_is_due();
            if self.core.status() == Status::Terminated {
                return;
            }
            let wake = self.next_wake(looked_at);
            tokio::select! {
                () = self.handles.kill.cancelled(), if !self.killed => {
                    self.killed = true;
                    self.on(Event::Stop { kind: TerminationKind::Hard, reason: EndReason::External });
                }
                Ok(()) = self.nudges.changed(), if self.tenure.is_some() => {
                    self.on(Event::Nudged);
                    self.on(Event::LookAtLease);
                }
                // The agent may have been paused in this wait: the lease is looked at before
                // anything is done.
                Some(command) = self.handles.commands.recv() => if self.may_go_on() { self.command(command) },
                event = next(&mut self.line) => if self.may_go_on() { self.heard(event) },
                // A stop that the lease has just brought has ended the start with its report.
                report = Starting::next(&mut self.starting) => {
                    if self.may_go_on() && self.starting.is_some() { self.reported(report) }
                }
                Some((of, answer)) = self.jobs.next() => {
                    if self.may_go_on() && of == self.core.slot() { self.answered(answer) }
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    fn begin(&mut self, begin: Begin) {
        match begin {
            Begin::Anew => {
                take::asked(&self.agent, &self.core.put().spec.executable);
                self.on(Event::Begin);
            }
            Begin::Found => {
                let grace = Duration::from_secs(GRACE_AFTER_START_SECONDS);
                self.on(Event::Resume { proxies_back_by: self.agent.drone.started + grace });
            }
            Begin::FoundAfterBoot => self.on(Event::ResumeAfterBoot),
        }
    }

    /// Has the core decide, and carries out what it wants done.
    pub(super) fn on(&mut self, event: Event) {
        for action in self.core.on(event, self.now()) {
            self.carry_out(action);
        }
    }

    /// Returns the time at which nothing more was due.
    fn do_what_is_due(&mut self) -> Instant {
        loop {
            let now = self.now();
            let actions = self.core.on(Event::Time, now);
            if actions.is_empty() {
                return now.instant;
            }
            actions.into_iter().for_each(|action| self.carry_out(action));
        }
    }

    /// False: the lease has just ended it, and there is nothing more to do.
    fn may_go_on(&mut self) -> bool {
        self.on(Event::LookAtLease);
        self.core.status() != Status::Terminated
    }

    pub(super) fn now(&self) -> Now {
        let grace = Duration::from_secs(self.core.put().spec.stop_grace_seconds.into());
        let lease = self.tenure.map(|tenure| self.agent.lease.now_of(tenure, grace));
        Now { instant: Instant::now(), wall: UnixMicros::now(), lease }
    }

    /// A clock that has run out since `looked_at` wakes at once.
    fn next_wake(&mut self, looked_at: Instant) -> Option<Instant> {
        let now = Instant::now();
        let grace = Duration::from_secs(self.core.put().spec.stop_grace_seconds.into());
        let change = self.tenure.and_then(|tenure| self.agent.lease.changes_in(tenure, grace));
        // A deadline that is further away than the clock can say is none.
        let lease = change.and_then(|change| now.checked_add(change));
        [self.core.next_wake(looked_at), lease].into_iter().flatten().min()
    }

    /// `None`: the runtime gave the line up.
    fn heard(&mut self, event: Option<LineEvent>) {
        match event {
            Some(event) => self.on(Event::Heard(event)),
            None => {
                self.line = None;
                self.on(Event::LineLost);
            }
        }
    }

    fn reported(&mut self, report: Option<Report>) {
        match report {
            Some(Report::Line(line)) => self.line_is_there(line),
            Some(Report::Progress(progress)) => self.on(Event::Progressed(progress)),
            None => {
                let agent_stops = self.agent.lifecycle.is_stopping();
                self.on(Event::Progressed(Progress::Over { agent_stops }));
            }
        }
    }

    fn answered(&mut self, answer: Answer) {
        match answer {
            Answer::Line(line) => self.line_is_there(line),
            Answer::Done(done) => {
                if matches!(done, Done::Gone { .. }) {
                    self.hear_what_has_come();
                }
                self.on(Event::Done(done));
            }
        }
    }

    fn line_is_there(&mut self, line: InitLine) {
        self.line = Some(line);
        self.on(Event::LineOpened);
    }

    /// Of the line, before this moment.
    fn hear_what_has_come(&mut self) {
        while let Some(event) = self.line.as_mut().and_then(|line| line.events.try_recv().ok()) {
            self.on(Event::Heard(event));
        }
    }
}

/// `None`: the runtime gave the line up.
async fn next(line: &mut Option<InitLine>) -> Option<LineEvent> {
    match line {
        Some(line) => line.events.recv().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
