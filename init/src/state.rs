//! What init is and what it does next, as pure decisions: messages, signals and endings go in, [`Action`]s come out.
//! It speaks to no kernel; `supervisor` carries the actions out.
//!
//! | state | Ahead | Session | Stop | a signal | the application ends |
//! |---|---|---|---|---|---|
//! | parked | start it | start it | exit 0 | exit 0 if it asks for an end | – |
//! | ahead | answer again | bind it: nothing is executed | exit 0 | exit 0 if it asks for an end, else forward | say so, exit with its status |
//! | taken | – | same id: answer again, else refuse | signal once, then a deadline | forward | say so, exit with its status |
//!
//! Before the session, a slot that is taken away (no socket any more) is an end as well: an engine that was killed over this
//! container's start may have forgotten it, and then nobody else ends it.
//!
//! A session is begun only after the drone was told that it is taken: what runs and was never
//! mentioned would be started again elsewhere. Where the word cannot be written, the session counts
//! as never received, and the drone gives it again after the next hello.
//!
//! One application is executed ever, and one session taken. An exit takes along whatever runs. The drone's deadline
//! ([`jetway_protocol::lease`]), where the session has one, is a stop and then an exit; before the session there is none.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::ids::{BackendId, BootId, FencingToken};
use jetway_protocol::init::{
    Ahead, AheadState, EXIT_LEASE_OVER, FromInit, Hello, Session, SessionState, ToInit,
};

use crate::signals::{ENDS_WITHOUT_SESSION, Ending};

/// From killing everything to leaving although the application has not ended: only the end of PID 1 then helps.
const KILL_WAIT: Duration = Duration::from_secs(1);

/// What the supervisor is to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Say(FromInit),
    /// Write this on a living line before the next action. Where that fails, the rest is dropped
    /// and [`State::not_taken`] is told.
    SayFirst(FromInit),
    /// Start the application of this session; the answer comes back by [`State::started`].
    Start(Box<Session>),
    /// Start an application that waits for its session; the answer comes back by [`State::started`] too.
    StartAhead(Box<Ahead>),
    /// The application that runs becomes this session's, if its lease lets it; the answer comes back by [`State::bound`].
    Bind(Box<Session>),
    Signal {
        pid: i32,
        signal: i32,
    },
    KillEverything,
    /// Read the drone's deadline now.
    LookAtLease,
    Exit {
        status: i32,
    },
}

#[derive(Debug)]
pub struct State {
    nonce: String,
    boot_id: Option<BootId>,
    application: Application,
    /// Something was or is to be executed, and nothing else ever is.
    has_begun: bool,
    taken: Option<Taken>,
}

/// The one application, whoever it runs for.
#[derive(Debug, Default)]
struct Application {
    pid: Option<i32>,
    /// The process group that it leads or led: others may be left in it.
    group: Option<i32>,
    ready: Option<SocketAddr>,
}

/// The one session.
#[derive(Debug)]
struct Taken {
    backend: BackendId,
    fencing_token: FencingToken,
    stop: Option<Stop>,
    /// The drone's deadline began the stop.
    lease_over: bool,
}

#[derive(Debug)]
struct Stop {
    /// `None`: so late that the clock cannot say it.
    deadline: Option<Instant>,
    killed: bool,
}

impl State {
    pub fn parked(nonce: String, boot_id: Option<BootId>) -> Self {
        Self { nonce, boot_id, application: Application::default(), has_begun: false, taken: None }
    }

    /// The first line of a connection.
    pub fn hello(&self) -> FromInit {
        let Application { pid, ready, .. } = self.application;
        let session = self.taken.as_ref().map(|taken| SessionState {
            backend: taken.backend.clone(),
            fencing_token: taken.fencing_token,
            pid,
            ready,
            stopping: taken.stop.is_some(),
            lease_over: taken.lease_over,
        });
        let ahead = pid.filter(|_| session.is_none()).map(|pid| AheadState { pid, ready });
        FromInit::Hello(Hello {
            version: PROTOCOL_VERSION,
            nonce: self.nonce.clone(),
            boot_id: self.boot_id,
            session,
            ahead,
            writes_ahead: true,
        })
    }

    /// There is no drone's socket any more. A session has its lease.
    pub fn slot_is_gone(&self) -> Vec<Action> {
        if self.taken.is_none() { vec![Action::Exit { status: 0 }] } else { Vec::new() }
    }

    pub fn group(&self) -> Option<i32> {
        self.application.group
    }

    pub fn on_message(&mut self, message: ToInit, now: Instant) -> Vec<Action> {
        match message {
            ToInit::Ping => vec![Action::Say(FromInit::Pong)],
            ToInit::LookAtLease => vec![Action::LookAtLease],
            ToInit::Stop { signal, grace_ms } => match &mut self.taken {
                Some(taken) => taken.stop(self.application.pid, signal, grace_ms, now),
                None => vec![Action::Exit { status: 0 }],
            },
            ToInit::Ahead(ahead) => self.on_ahead(ahead),
            ToInit::Session(session) => self.on_session(session),
        }
    }

    fn on_ahead(&mut self, ahead: Box<Ahead>) -> Vec<Action> {
        if self.taken.is_some() {
            return Vec::new();
        }
        if std::mem::replace(&mut self.has_begun, true) {
            return self.answers();
        }
        vec![Action::StartAhead(ahead)]
    }

    fn on_session(&mut self, session: Box<Session>) -> Vec<Action> {
        match &self.taken {
            Some(taken) if taken.backend == session.backend => return self.answers(),
            Some(taken) => {
                let (backend, taken_by) = (session.backend, taken.backend.clone());
                return vec![Action::Say(FromInit::Refused { backend, taken_by })];
            }
            None => {}
        }
        self.taken = Some(Taken {
            backend: session.backend.clone(),
            fencing_token: session.fencing_token,
            stop: None,
            lease_over: false,
        });
        let taken = FromInit::Taken { backend: session.backend.clone() };
        let runs_ahead = std::mem::replace(&mut self.has_begun, true);
        let begin = if runs_ahead { Action::Bind(session) } else { Action::Start(session) };
        vec![Action::SayFirst(taken), begin]
    }

    /// The drone could not be told that the session is taken, and nothing was begun for it.
    pub fn not_taken(&mut self) {
        self.taken = None;
        self.has_begun = self.application.pid.is_some();
    }

    /// The application runs as `pid`.
    pub fn started(&mut self, pid: i32) -> Vec<Action> {
        (self.application.pid, self.application.group) = (Some(pid), Some(pid));
        self.answers()
    }

    /// The application that ran already is the session's now.
    pub fn bound(&self) -> Vec<Action> {
        self.answers()
    }

    /// The application listens where it should.
    pub fn ready(&mut self, address: SocketAddr) -> Vec<Action> {
        self.application.ready = Some(address);
        vec![Action::Say(self.word_of_ready(address))]
    }

    /// The application listens, but where nobody can reach it. There is no word for it before the session.
    pub fn elsewhere(&self, addresses: Vec<SocketAddr>) -> Vec<Action> {
        self.taken.as_ref().map_or_else(Vec::new, |taken| {
            vec![Action::Say(FromInit::ListeningElsewhere { backend: taken.backend.clone(), addresses })]
        })
    }

    /// The drone's deadline is `left` away. A stop that is under way keeps its own end where that is sooner.
    pub fn deadline_is_near(&mut self, signal: i32, left: Duration, now: Instant) -> Vec<Action> {
        let pid = self.application.pid;
        self.taken.as_mut().map_or_else(Vec::new, |taken| {
            taken.lease_over |= taken.stop.is_none();
            let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            taken.stop(pid, signal, left_ms, now)
        })
    }

    /// The drone's deadline has passed: nothing is waited for.
    pub fn deadline_passed(&mut self) -> Vec<Action> {
        if let Some(taken) = &mut self.taken {
            taken.lease_over |= taken.stop.is_none();
        }
        vec![Action::KillEverything, self.exit(Ending::Signal(libc::SIGKILL))]
    }

    /// An end that the lease began says so in its status: perhaps no agent is there to hear it.
    fn exit(&self, ending: Ending) -> Action {
        let lease_over = self.taken.as_ref().is_some_and(|taken| taken.lease_over);
        Action::Exit { status: if lease_over { EXIT_LEASE_OVER } else { ending.status() } }
    }

    /// Somebody signalled this process. Children's endings do not come here.
    pub fn on_signal(&self, signal: i32) -> Vec<Action> {
        match (&self.taken, self.application.pid) {
            (None, _) if ENDS_WITHOUT_SESSION.contains(&signal) => vec![Action::Exit { status: 0 }],
            (_, Some(pid)) => vec![Action::Signal { pid, signal }],
            (_, None) => Vec::new(),
        }
    }

    /// A child has been reaped: most are orphans that mean nothing, one is the application.
    pub fn on_ending(&mut self, pid: i32, ending: Ending) -> Vec<Action> {
        if self.application.pid != Some(pid) {
            return Vec::new();
        }
        self.application.pid = None;
        let (code, signal) = match ending {
            Ending::Code(code) => (Some(code), None),
            Ending::Signal(signal) => (None, Some(signal)),
        };
        let word = match &self.taken {
            Some(taken) => FromInit::Exited { backend: taken.backend.clone(), code, signal },
            None => FromInit::AheadFailed { message: format!("it {ending} before its session came") },
        };
        vec![Action::Say(word), self.exit(ending)]
    }

    /// When [`State::on_time`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.taken.as_ref()?.stop.as_ref()?.deadline
    }

    pub fn on_time(&mut self, now: Instant) -> Vec<Action> {
        let stop = self.taken.as_mut().and_then(|taken| taken.stop.as_mut());
        match stop {
            Some(stop) if stop.deadline.is_some_and(|deadline| deadline <= now) => {
                if std::mem::replace(&mut stop.killed, true) {
                    return vec![self.exit(Ending::Signal(libc::SIGKILL))];
                }
                stop.deadline = Some(now + KILL_WAIT);
                vec![Action::KillEverything]
            }
            _ => Vec::new(),
        }
    }

    /// What there is to say of the application, in the words of whoever it runs for.
    fn answers(&self) -> Vec<Action> {
        let started = self.application.pid.map(|pid| match &self.taken {
            Some(taken) => FromInit::Started { backend: taken.backend.clone(), pid },
            None => FromInit::AheadStarted { pid },
        });
        let ready = self.application.ready.map(|address| self.word_of_ready(address));
        started.into_iter().chain(ready).map(Action::Say).collect()
    }

    fn word_of_ready(&self, address: SocketAddr) -> FromInit {
        match &self.taken {
            Some(taken) => FromInit::Ready { backend: taken.backend.clone(), address },
            None => FromInit::AheadReady { address },
        }
    }
}

impl Taken {
    /// The signal goes out once; a repeated stop can only bring the deadline nearer.
    fn stop(&mut self, pid: Option<i32>, signal: i32, grace_ms: u64, now: Instant) -> Vec<Action> {
        let deadline = now.checked_add(Duration::from_millis(grace_ms));
        match &mut self.stop {
            Some(stop) if stop.killed => Vec::new(),
            Some(stop) => {
                stop.deadline = [stop.deadline, deadline].into_iter().flatten().min();
                Vec::new()
            }
            none @ None => {
                *none = Some(Stop { deadline, killed: false });
                pid.map(|pid| Action::Signal { pid, signal }).into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
