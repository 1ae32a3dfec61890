//! What init is and what it does next, as pure decisions: messages, signals and endings go in, [`Action`]s come out.
//! It speaks to no kernel; `supervisor` carries the actions out.
//!
//! | state | Session | Stop | a signal | the application ends |
//! |---|---|---|---|---|
//! | parked | start it | exit 0 | exit 0 if it asks for an end | – |
//! | taken | same id: answer again, else refuse | signal once, then a deadline | forward | say so, exit with its status |
//!
//! The drone's deadline ([`jetway_protocol::lease`]), where the session has one, is a stop and then an exit.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::ids::{BackendId, BootId, FencingToken};
use jetway_protocol::init::{FromInit, Hello, Session, SessionState, ToInit};

use crate::signals::Ending;

/// From killing everything to leaving although the application has not ended: only the end of PID 1 then helps.
const KILL_WAIT: Duration = Duration::from_secs(1);
/// Signals that end an init with nothing to run; any other means nothing to it.
const ENDS_THE_PARKED: [i32; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP];

/// What the supervisor is to do, in order.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    Say(FromInit),
    /// Start the application of this session; the answer comes back by [`State::started`].
    Start(Box<Session>),
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
    taken: Option<Taken>,
}

/// The one session.
#[derive(Debug)]
struct Taken {
    backend: BackendId,
    fencing_token: FencingToken,
    pid: Option<i32>,
    /// The process group that the application leads or led: others may be left in it.
    group: Option<i32>,
    ready: Option<SocketAddr>,
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
        Self { nonce, boot_id, taken: None }
    }

    /// The first line of a connection.
    pub fn hello(&self) -> FromInit {
        let session = self.taken.as_ref().map(|taken| SessionState {
            backend: taken.backend.clone(),
            fencing_token: taken.fencing_token,
            pid: taken.pid,
            ready: taken.ready,
            stopping: taken.stop.is_some(),
            lease_over: taken.lease_over,
        });
        FromInit::Hello(Hello {
            version: PROTOCOL_VERSION,
            nonce: self.nonce.clone(),
            boot_id: self.boot_id,
            session,
        })
    }

    pub fn group(&self) -> Option<i32> {
        self.taken.as_ref()?.group
    }

    pub fn on_message(&mut self, message: ToInit, now: Instant) -> Vec<Action> {
        match (message, &mut self.taken) {
            (ToInit::Ping, _) => vec![Action::Say(FromInit::Pong)],
            (ToInit::LookAtLease, _) => vec![Action::LookAtLease],
            (ToInit::Stop { .. }, None) => vec![Action::Exit { status: 0 }],
            (ToInit::Stop { signal, grace_ms }, Some(taken)) => taken.stop(signal, grace_ms, now),
            (ToInit::Session(session), Some(taken)) => taken.answer_again(&session),
            (ToInit::Session(session), none @ None) => {
                *none = Some(Taken {
                    backend: session.backend.clone(),
                    fencing_token: session.fencing_token,
                    pid: None,
                    group: None,
                    ready: None,
                    stop: None,
                    lease_over: false,
                });
                vec![Action::Start(session)]
            }
        }
    }

    /// The application runs as `pid`.
    pub fn started(&mut self, pid: i32) -> Vec<Action> {
        self.taken.as_mut().map_or_else(Vec::new, |taken| {
            taken.pid = Some(pid);
            taken.group = Some(pid);
            vec![Action::Say(FromInit::Started { backend: taken.backend.clone(), pid })]
        })
    }

    /// The application listens where it should.
    pub fn ready(&mut self, address: SocketAddr) -> Vec<Action> {
        self.taken.as_mut().map_or_else(Vec::new, |taken| {
            taken.ready = Some(address);
            vec![Action::Say(FromInit::Ready { backend: taken.backend.clone(), address })]
        })
    }

    /// The application listens, but where nobody can reach it.
    pub fn elsewhere(&self, addresses: Vec<SocketAddr>) -> Vec<Action> {
        self.taken.as_ref().map_or_else(Vec::new, |taken| {
            vec![Action::Say(FromInit::ListeningElsewhere { backend: taken.backend.clone(), addresses })]
        })
    }

    /// The drone's deadline is `left` away. A stop that is under way keeps its own end where that is sooner.
    pub fn deadline_is_near(&mut self, signal: i32, left: Duration, now: Instant) -> Vec<Action> {
        self.taken.as_mut().map_or_else(Vec::new, |taken| {
            taken.lease_over |= taken.stop.is_none();
            let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
            taken.stop(signal, left_ms, now)
        })
    }

    /// The drone's deadline has passed: nothing is waited for.
    pub fn deadline_passed(&self) -> Vec<Action> {
        vec![Action::KillEverything, Action::Exit { status: Ending::Signal(libc::SIGKILL).status() }]
    }

    /// Somebody signalled this process. Children's endings do not come here.
    pub fn on_signal(&self, signal: i32) -> Vec<Action> {
        match (&self.taken, self.taken.as_ref().and_then(|taken| taken.pid)) {
            (_, Some(pid)) => vec![Action::Signal { pid, signal }],
            (None, None) if ENDS_THE_PARKED.contains(&signal) => vec![Action::Exit { status: 0 }],
            (_, None) => Vec::new(),
        }
    }

    /// A child has been reaped: most are orphans that mean nothing, one is the application.
    pub fn on_ending(&mut self, pid: i32, ending: Ending) -> Vec<Action> {
        let Some(taken) = self.taken.as_mut().filter(|taken| taken.pid == Some(pid)) else {
            return Vec::new();
        };
        taken.pid = None;
        let (code, signal) = match ending {
            Ending::Code(code) => (Some(code), None),
            Ending::Signal(signal) => (None, Some(signal)),
        };
        let exited = FromInit::Exited { backend: taken.backend.clone(), code, signal };
        vec![Action::Say(exited), Action::Exit { status: ending.status() }]
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
                    return vec![Action::Exit { status: Ending::Signal(libc::SIGKILL).status() }];
                }
                stop.deadline = Some(now + KILL_WAIT);
                vec![Action::KillEverything]
            }
            _ => Vec::new(),
        }
    }
}

impl Taken {
    fn answer_again(&self, asked: &Session) -> Vec<Action> {
        let backend = self.backend.clone();
        if asked.backend != backend {
            return vec![Action::Say(FromInit::Refused {
                backend: asked.backend.clone(),
                taken_by: backend,
            })];
        }
        let started = self.pid.map(|pid| FromInit::Started { backend: backend.clone(), pid });
        let ready = self.ready.map(|address| FromInit::Ready { backend, address });
        started.into_iter().chain(ready).map(Action::Say).collect()
    }

    /// The signal goes out once; a repeated stop can only bring the deadline nearer.
    fn stop(&mut self, signal: i32, grace_ms: u64, now: Instant) -> Vec<Action> {
        let deadline = now.checked_add(Duration::from_millis(grace_ms));
        match &mut self.stop {
            Some(stop) if stop.killed => Vec::new(),
            Some(stop) => {
                stop.deadline = [stop.deadline, deadline].into_iter().flatten().min();
                Vec::new()
            }
            none @ None => {
                *none = Some(Stop { deadline, killed: false });
                self.pid.map(|pid| Action::Signal { pid, signal }).into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: &str) -> ToInit {
        let text = format!(r#"{{"backend":"{id}","fencing_token":7,"env":{{}},"port":8080}}"#);
        ToInit::Session(serde_json::from_str(&text).unwrap())
    }

    fn id(id: &str) -> BackendId {
        id.parse().unwrap()
    }

    fn running(now: Instant) -> State {
        let mut state = State::parked("n".into(), None);
        assert!(matches!(state.on_message(session("a"), now)[..], [Action::Start(_)]));
        let started = FromInit::Started { backend: id("a"), pid: 9 };
        assert_eq!(state.started(9), [Action::Say(started)]);
        state
    }

    #[test]
    fn one_session_ever() {
        let now = Instant::now();
        let mut state = running(now);
        let started = || Action::Say(FromInit::Started { backend: id("a"), pid: 9 });
        assert_eq!(state.on_message(session("a"), now), [started()]);
        let address = "0.0.0.0:8080".parse().unwrap();
        let ready = || Action::Say(FromInit::Ready { backend: id("a"), address });
        assert_eq!(state.ready(address), [ready()]);
        assert_eq!(state.on_message(session("a"), now), [started(), ready()]);
        let refused = FromInit::Refused { backend: id("b"), taken_by: id("a") };
        assert_eq!(state.on_message(session("b"), now), [Action::Say(refused)]);
        let FromInit::Hello(hello) = state.hello() else { panic!() };
        let taken = hello.session.unwrap();
        assert_eq!(
            (taken.backend, taken.pid, taken.ready, taken.stopping),
            (id("a"), Some(9), Some(address), false)
        );
    }

    #[test]
    fn a_stop_signals_once_and_its_grace_can_only_shrink() {
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        let mut state = running(now);
        let stop = |grace_ms| ToInit::Stop { signal: 15, grace_ms };
        assert_eq!(state.on_message(stop(1000), now), [Action::Signal { pid: 9, signal: 15 }]);
        for (grace_ms, deadline) in [(5000, 1000), (400, 400), (u64::MAX, 400)] {
            assert_eq!(state.on_message(stop(grace_ms), now), []);
            assert_eq!(state.deadline(), Some(after(deadline)));
        }
        assert_eq!(state.on_time(after(399)), []);
        assert_eq!(state.on_time(after(400)), [Action::KillEverything]);
        assert_eq!(state.on_message(stop(0), after(400)), [], "killed already");
        assert_eq!(state.on_time(after(401)), [], "it is given a moment to be reaped");
        assert_eq!(state.on_time(after(1400)), [Action::Exit { status: 137 }]);
    }

    #[test]
    fn a_near_deadline_stops_once_and_says_so() {
        let now = Instant::now();
        let mut state = running(now);
        let near = |state: &mut State, left| state.deadline_is_near(15, Duration::from_secs(left), now);
        let says = |state: &State| match state.hello() {
            FromInit::Hello(Hello { session: Some(session), .. }) => (session.stopping, session.lease_over),
            other => panic!("{other:?}"),
        };
        assert_eq!(says(&state), (false, false));
        assert_eq!(near(&mut state, 10), [Action::Signal { pid: 9, signal: 15 }]);
        assert_eq!(near(&mut state, 9), []);
        assert_eq!(says(&state), (true, true));
        assert_eq!(state.deadline(), Some(now + Duration::from_secs(9)));

        let mut state = running(now);
        state.on_message(ToInit::Stop { signal: 15, grace_ms: 3000 }, now);
        assert_eq!(near(&mut state, 10), [], "it stops already");
        assert_eq!((says(&state), state.deadline()), ((true, false), Some(now + Duration::from_secs(3))));
        assert_eq!(state.deadline_passed(), [Action::KillEverything, Action::Exit { status: 137 }]);
    }

    #[test]
    fn an_endless_grace_is_no_deadline() {
        let now = Instant::now();
        let mut state = running(now);
        state.on_message(ToInit::Stop { signal: 15, grace_ms: u64::MAX }, now);
        assert_eq!(state.on_time(now + Duration::from_secs(3600)), []);
        state.on_message(ToInit::Stop { signal: 15, grace_ms: 0 }, now);
        assert_eq!(state.on_time(now), [Action::KillEverything]);
    }

    #[test]
    fn parked_it_ends_when_asked_and_ignores_the_rest() {
        let now = Instant::now();
        let mut state = State::parked("n".into(), None);
        assert_eq!(state.on_signal(libc::SIGTERM), [Action::Exit { status: 0 }]);
        assert_eq!(state.on_signal(libc::SIGWINCH), []);
        assert_eq!(state.on_message(ToInit::Ping, now), [Action::Say(FromInit::Pong)]);
        assert_eq!(
            state.on_message(ToInit::Stop { signal: 15, grace_ms: 9 }, now),
            [Action::Exit { status: 0 }]
        );
    }

    #[test]
    fn only_the_applications_ending_is_init_s_own() {
        let check = |ending, code, signal, status| {
            let mut state = running(Instant::now());
            assert_eq!(state.on_ending(10, ending), [], "an orphan");
            let exited = FromInit::Exited { backend: id("a"), code, signal };
            assert_eq!(state.on_ending(9, ending), [Action::Say(exited), Action::Exit { status }]);
            assert_eq!(state.on_signal(15), [], "its number may be another's by now");
        };
        check(Ending::Code(3), Some(3), None, 3);
        check(Ending::Signal(15), None, Some(15), 143);
    }
}
