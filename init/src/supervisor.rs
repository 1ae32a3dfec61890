//! The loop of PID 1: waits for the line, for signals and for the nearest deadline, and carries out what `state`
//! decides. It decides nothing itself.

use std::ffi::OsString;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jetway_protocol::ids::{BackendId, BootId};
use jetway_protocol::init::{Ahead, EXIT_LEASE_OVER, FromInit, Session};
use jetway_protocol::lease::Standing;
use jetway_protocol::spec::InitMode;

use crate::application::{self, CannotStart, Environment, Plan, Wish};
use crate::arguments::Arguments;
use crate::exec::{self, SpawnError};
use crate::kernel;
use crate::lease::Lease;
use crate::line::Line;
use crate::listening::{Finding, Search};
use crate::signals::{self, Signals};
use crate::state::{Action, State};

/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(100);
const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";

pub struct Supervisor {
    command: Vec<OsString>,
    signals: Signals,
    line: Line,
    state: State,
    search: Option<Search>,
    boot_id: Option<BootId>,
    lease_directory: PathBuf,
    lease: Option<Lease>,
}

impl Supervisor {
    pub fn new(arguments: Arguments) -> io::Result<Self> {
        let signals = Signals::take_over()?;
        if !kernel::is_pid_1() {
            kernel::adopt_orphans();
        }
        let nonce = u128::from_ne_bytes(kernel::random_bytes()?);
        let boot_id = std::fs::read_to_string(BOOT_ID_PATH).ok().and_then(|text| text.trim().parse().ok());
        let Arguments { socket, lease: lease_directory, command } = arguments;
        let state = State::parked(format!("{nonce:032x}"), boot_id);
        let line = Line::new(socket, Instant::now());
        Ok(Self { command, signals, line, state, search: None, boot_id, lease_directory, lease: None })
    }

    /// Until there is a status to exit with.
    pub fn run(&mut self) -> i32 {
        loop {
            let now = Instant::now();
            let state = &self.state;
            if self.line.dial(now, || state.hello())
                && let Some(search) = &mut self.search
            {
                search.tell_again();
            }
            if self.line.is_gone(now) {
                let actions = self.state.slot_is_gone();
                if let Some(status) = self.carry_out_all(actions) {
                    return status;
                }
            }
            if let Err(error) = self.wait(now) {
                // Cannot happen with valid descriptors. Without waiting init cannot work, and its end is safe.
                kernel::tell(&format!("cannot wait: {error}"));
                return self.leave(libc::EXIT_FAILURE);
            }
            if let Some(status) = self.react(Instant::now()) {
                return status;
            }
        }
    }

    fn wait(&self, now: Instant) -> io::Result<()> {
        let deadlines = [self.line.dial_at(), self.state.deadline(), self.search.as_ref().map(Search::next)];
        let nearest = deadlines.into_iter().flatten().min();
        let on_signals = libc::pollfd { fd: self.signals.raw_descriptor(), events: libc::POLLIN, revents: 0 };
        // A negative descriptor is passed over (poll(2)).
        let (fd, events) = self.line.interest().unwrap_or((-1, 0));
        let timer = self.lease.as_ref().map_or(-1, Lease::raw_descriptor);
        let on_lease = libc::pollfd { fd: timer, events: libc::POLLIN, revents: 0 };
        let mut descriptors = [on_signals, libc::pollfd { fd, events, revents: 0 }, on_lease];
        kernel::wait(&mut descriptors, nearest.map(|deadline| deadline.saturating_duration_since(now)))
    }

    /// Takes in everything that has happened, each thing's actions carried out before the next is looked at: a stop
    /// right behind its session finds the application started. Each source is asked without waiting, so what `wait`
    /// saw does not matter. The lease comes first, because init may have been paused; then the line: its stop must not stand
    /// behind anything.
    fn react(&mut self, now: Instant) -> Option<i32> {
        let found = self.lease.as_mut().and_then(Lease::look_if_due);
        if let Some(status) = self.stand(found, now) {
            return Some(status);
        }
        self.line.write(now);
        for message in self.line.read(now) {
            let actions = self.state.on_message(message, now);
            if let Some(status) = self.carry_out_all(actions) {
                return Some(status);
            }
        }
        let mut child_ended = false;
        while let Some(signal) = self.signals.next() {
            if signal == libc::SIGCHLD {
                child_ended = true;
                continue;
            }
            let actions = self.state.on_signal(signal);
            if let Some(status) = self.carry_out_all(actions) {
                return Some(status);
            }
        }
        // One SIGCHLD can stand for many children.
        while child_ended && let Some((pid, ending)) = signals::reap() {
            let actions = self.state.on_ending(pid, ending);
            if let Some(status) = self.carry_out_all(actions) {
                return Some(status);
            }
        }
        let mut actions = self.state.on_time(now);
        match self.search.as_mut().and_then(|search| search.look(now)) {
            Some(Finding::Ready(address)) => {
                self.search = None;
                actions.extend(self.state.ready(address));
            }
            Some(Finding::Elsewhere(addresses)) => actions.extend(self.state.elsewhere(addresses)),
            None => {}
        }
        self.carry_out_all(actions)
    }

    /// In order, up to the first that drops the rest. The status to exit with, if that is what they
    /// came to.
    fn carry_out_all(&mut self, actions: Vec<Action>) -> Option<i32> {
        actions.into_iter().try_for_each(|action| self.carry_out(action)).break_value().flatten()
    }

    /// Breaks with the status to exit with, or with none where only the actions after it are
    /// dropped.
    fn carry_out(&mut self, action: Action) -> ControlFlow<Option<i32>> {
        let status = match action {
            Action::Say(message) => {
                self.line.say(&message, Instant::now());
                None
            }
            Action::SayFirst(message) => {
                if !self.line.say_for_certain(&message, LAST_WORDS) {
                    kernel::tell("the drone cannot be told that its session is taken: nothing is begun");
                    self.state.not_taken();
                    return ControlFlow::Break(None);
                }
                None
            }
            Action::Signal { pid, signal } => {
                if let Err(error) = signals::send(pid, signal) {
                    kernel::tell(&format!("signal {signal} could not be sent to the application: {error}"));
                }
                None
            }
            Action::KillEverything => {
                signals::kill_everything(self.state.group());
                None
            }
            Action::Start(session) => self.start(&session),
            Action::StartAhead(ahead) => self.start_ahead(&ahead),
            Action::Bind(session) => self.bind(&session),
            Action::LookAtLease => {
                let found = self.lease.as_mut().map(Lease::look);
                self.stand(found, Instant::now())
            }
            Action::Exit { status } => Some(self.leave(status)),
        };
        status.map_or(ControlFlow::Continue(()), |status| ControlFlow::Break(Some(status)))
    }

    /// What the drone's deadline asks for.
    fn stand(&mut self, found: Option<(Standing, Duration)>, now: Instant) -> Option<i32> {
        let actions = match (found, &self.lease) {
            (Some((Standing::Stop, left)), Some(lease)) => {
                self.state.deadline_is_near(lease.stop_signal, left, now)
            }
            (Some((Standing::Gone, _)), _) => self.state.deadline_passed(),
            (Some((Standing::Held | Standing::Stop, _)) | None, _) => Vec::new(),
        };
        self.carry_out_all(actions)
    }

    /// False: the session may not begin.
    fn open_lease(&mut self, session: &Session) -> bool {
        let Some(terms) = &session.lease else { return true };
        match Lease::open(&self.lease_directory, terms) {
            Ok(lease) => self.lease = Some(lease),
            Err(error) => {
                kernel::tell(&format!("cannot keep the lease: {error}"));
                return false;
            }
        }
        true
    }

    /// Otherwise this process could not keep the lease, and nobody would while the agent is dead. The drone hands no such session
    /// over.
    fn has_agents_clock(&self, session: &Session) -> bool {
        session.lease.as_ref().is_none_or(|terms| self.boot_id == Some(terms.boot_id))
    }

    /// Right before the execution, or the session's taking over of what runs: an agent that was stopped between its own look and the session must start nothing.
    fn is_admitted(&mut self) -> bool {
        self.lease.as_mut().is_none_or(Lease::admits)
    }

    fn lease_is_over(&mut self, backend: &BackendId) -> i32 {
        kernel::tell("the drone's lease is over: this session does not begin");
        self.line.say(&FromInit::LeaseOver { backend: backend.clone() }, Instant::now());
        self.leave(EXIT_LEASE_OVER)
    }

    fn start(&mut self, session: &Session) -> Option<i32> {
        if !self.has_agents_clock(session) {
            return Some(self.cannot_start(&session.backend, &CannotStart::OwnKernel));
        }
        if !self.open_lease(session) {
            return Some(self.lease_is_over(&session.backend));
        }
        let environment = application::merged(std::env::vars_os(), session.into());
        let plan = match Plan::new(session.into(), &self.command, &environment) {
            Ok(plan) => plan,
            Err(cannot) => return Some(self.cannot_start(&session.backend, &cannot)),
        };
        if session.mode == InitMode::Exec {
            return Some(self.become_application(session, &plan, &environment));
        }
        self.search = session.port.map(|port| Search::before(port, &session.addresses, Instant::now()));
        if !self.is_admitted() {
            return Some(self.lease_is_over(&session.backend));
        }
        match spawn(&plan, &environment) {
            Ok(pid) => {
                let actions = self.state.started(pid);
                self.carry_out_all(actions)
            }
            Err(cannot) => Some(self.cannot_start(&session.backend, &cannot)),
        }
    }

    /// It holds no key, so no lease is asked.
    fn start_ahead(&mut self, ahead: &Ahead) -> Option<i32> {
        let wish = Wish::from(ahead);
        let environment = application::merged(std::env::vars_os(), wish);
        let plan = Plan::new(wish, &self.command, &environment);
        self.search = Some(Search::before(ahead.port, &ahead.addresses, Instant::now()));
        match plan.and_then(|plan| spawn(&plan, &environment)) {
            Ok(pid) => {
                let actions = self.state.started(pid);
                self.carry_out_all(actions)
            }
            Err(cannot) => {
                let message = cannot.to_string();
                kernel::tell(&message);
                self.line.say(&FromInit::AheadFailed { message }, Instant::now());
                Some(self.leave(cannot.status()))
            }
        }
    }

    /// Everything that a start asks for, but for the execution. Where it may not begin, what runs ends with this process.
    fn bind(&mut self, session: &Session) -> Option<i32> {
        if session.mode == InitMode::Exec {
            return Some(self.cannot_start(&session.backend, &CannotStart::RunsAlready));
        }
        if !self.has_agents_clock(session) {
            return Some(self.cannot_start(&session.backend, &CannotStart::OwnKernel));
        }
        if !self.open_lease(session) || !self.is_admitted() {
            return Some(self.lease_is_over(&session.backend));
        }
        if let Some(search) = &mut self.search {
            // Where it listened without being reachable was nobody's business before.
            search.tell_again();
        }
        let actions = self.state.bound();
        self.carry_out_all(actions)
    }

    /// The last words are written before, because there is no after.
    fn become_application(&mut self, session: &Session, plan: &Plan, environment: &Environment) -> i32 {
        if !self.is_admitted() {
            return self.lease_is_over(&session.backend);
        }
        let pid = std::process::id() as i32;
        let backend = session.backend.clone();
        self.line.say(&FromInit::Started { backend, pid }, Instant::now());
        self.line.flush(LAST_WORDS);
        // The words may have taken a while.
        if !self.is_admitted() {
            return self.lease_is_over(&session.backend);
        }
        let failure = exec::replace(plan);
        self.cannot_start(&session.backend, &plan.explain(failure, environment))
    }

    fn cannot_start(&mut self, backend: &BackendId, cannot: &CannotStart) -> i32 {
        let message = cannot.to_string();
        kernel::tell(&message);
        self.line.say(&FromInit::StartFailed { backend: backend.clone(), message }, Instant::now());
        self.leave(cannot.status())
    }

    fn leave(&mut self, status: i32) -> i32 {
        self.line.flush(LAST_WORDS);
        signals::kill_everything(self.state.group());
        status
    }
}

fn spawn(plan: &Plan, environment: &Environment) -> Result<i32, CannotStart> {
    exec::spawn(plan).map_err(|error| match error {
        SpawnError::NoProcess(error) => CannotStart::NoProcess(error),
        SpawnError::Failed(failure) => plan.explain(failure, environment),
    })
}
