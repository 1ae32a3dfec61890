//! The tables of [`super`], and what holds in any order of events.

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
    let [Action::SayFirst(FromInit::Taken { backend }), Action::Start(_)] =
        &state.on_message(session("a"), now)[..]
    else {
        panic!("the word comes before the start")
    };
    assert_eq!(*backend, id("a"));
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
fn a_session_that_cannot_be_taken_was_never_received() {
    let now = Instant::now();
    let stop = ToInit::Stop { signal: 15, grace_ms: 9 };
    let is_parked = |state: &State| match state.hello() {
        FromInit::Hello(hello) => hello.session.is_none() && hello.writes_ahead,
        other => panic!("{other:?}"),
    };
    let mut state = State::parked("n".into(), None);
    for id in ["a", "b"] {
        assert!(matches!(state.on_message(session(id), now)[..], [Action::SayFirst(_), Action::Start(_)]));
        assert!(!is_parked(&state));
        state.not_taken();
        assert!(is_parked(&state));
    }
    assert_eq!(state.on_message(stop.clone(), now), [Action::Exit { status: 0 }]);

    let mut state = running_ahead(now);
    state.on_message(session("a"), now);
    state.not_taken();
    assert!(is_parked(&state));
    assert_eq!(state.on_message(ahead(), now), [Action::Say(FromInit::AheadStarted { pid: 9 })]);
    assert!(matches!(state.on_message(session("a"), now)[..], [Action::SayFirst(_), Action::Bind(_)]));
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
    let exited = FromInit::Exited { backend: id("a"), code: Some(0), signal: None };
    let ends = [Action::Say(exited), Action::Exit { status: EXIT_LEASE_OVER }];
    assert_eq!(state.on_ending(9, Ending::Code(0)), ends, "its status says why, too");

    let mut state = running(now);
    let ends = [Action::KillEverything, Action::Exit { status: EXIT_LEASE_OVER }];
    assert_eq!(state.deadline_passed(), ends, "init was paused");

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
    assert_eq!(state.on_message(ToInit::Stop { signal: 15, grace_ms: 9 }, now), [Action::Exit { status: 0 }]);
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

fn ahead() -> ToInit {
    ToInit::Ahead(serde_json::from_str(r#"{"env":{},"port":8080}"#).unwrap())
}

/// The application runs, and nobody's session has come.
fn running_ahead(now: Instant) -> State {
    let mut state = State::parked("n".into(), None);
    assert!(matches!(state.on_message(ahead(), now)[..], [Action::StartAhead(_)]));
    assert_eq!(state.started(9), [Action::Say(FromInit::AheadStarted { pid: 9 })]);
    state
}

fn at() -> SocketAddr {
    "0.0.0.0:8080".parse().unwrap()
}

#[test]
fn what_runs_ahead_says_so_and_is_never_started_again() {
    let now = Instant::now();
    let mut state = running_ahead(now);
    let started = || Action::Say(FromInit::AheadStarted { pid: 9 });
    let ready = || Action::Say(FromInit::AheadReady { address: at() });
    assert_eq!(state.on_message(ahead(), now), [started()]);
    assert_eq!(state.elsewhere(vec![at()]), [], "there is no session to say it of");
    assert_eq!(state.ready(at()), [ready()]);
    assert_eq!(state.on_message(ahead(), now), [started(), ready()]);
    let FromInit::Hello(hello) = state.hello() else { panic!() };
    assert_eq!((hello.session, hello.ahead), (None, Some(AheadState { pid: 9, ready: Some(at()) })));
    assert_eq!(state.deadline(), None);
    assert_eq!(state.deadline_is_near(15, Duration::ZERO, now), [], "no lease applies");
}

#[test]
fn a_session_binds_what_runs_and_from_then_on_it_is_like_any_other() {
    let now = Instant::now();
    let (started, ready) = (
        || Action::Say(FromInit::Started { backend: id("a"), pid: 9 }),
        || Action::Say(FromInit::Ready { backend: id("a"), address: at() }),
    );
    for is_ready_before in [true, false] {
        let mut state = running_ahead(now);
        if is_ready_before {
            state.ready(at());
        }
        let actions = state.on_message(session("a"), now);
        let taken = FromInit::Taken { backend: id("a") };
        assert!(matches!(&actions[..], [Action::SayFirst(word), Action::Bind(_)] if *word == taken));
        if is_ready_before {
            assert_eq!(state.bound(), [started(), ready()]);
        } else {
            assert_eq!(state.bound(), [started()]);
            assert_eq!(state.ready(at()), [ready()]);
        }
        assert_eq!(state.on_message(session("a"), now), [started(), ready()]);
        assert_eq!(state.on_message(ahead(), now), [], "that time is over");
        let refused = FromInit::Refused { backend: id("b"), taken_by: id("a") };
        assert_eq!(state.on_message(session("b"), now), [Action::Say(refused)]);
        let FromInit::Hello(hello) = state.hello() else { panic!() };
        let taken = hello.session.unwrap();
        assert_eq!((taken.backend, taken.pid, taken.ready), (id("a"), Some(9), Some(at())));
        assert_eq!(hello.ahead, None);
        let stop = ToInit::Stop { signal: 15, grace_ms: 1000 };
        assert_eq!(state.on_message(stop, now), [Action::Signal { pid: 9, signal: 15 }]);
        let exited = FromInit::Exited { backend: id("a"), code: Some(0), signal: None };
        let ends = [Action::Say(exited), Action::Exit { status: 0 }];
        assert_eq!(state.on_ending(9, Ending::Code(0)), ends);
    }
}

#[test]
fn before_its_session_it_ends_when_asked_and_its_own_end_is_said() {
    let now = Instant::now();
    let mut state = running_ahead(now);
    let ends = [Action::Exit { status: 0 }];
    assert_eq!(state.group(), Some(9), "and takes this along");
    assert_eq!(state.on_message(ToInit::Stop { signal: 15, grace_ms: 9 }, now), ends);
    assert_eq!(state.on_signal(libc::SIGTERM), ends);
    assert_eq!(state.on_signal(libc::SIGUSR1), [Action::Signal { pid: 9, signal: libc::SIGUSR1 }]);
    for (ending, sentence, status) in [
        (Ending::Code(3), "it exited with 3 before its session came", 3),
        (Ending::Signal(9), "it was ended by signal 9 before its session came", 137),
    ] {
        let mut state = running_ahead(now);
        assert_eq!(state.on_ending(10, ending), []);
        let failed = FromInit::AheadFailed { message: sentence.into() };
        assert_eq!(state.on_ending(9, ending), [Action::Say(failed), Action::Exit { status }]);
    }
}

#[derive(Debug, Clone)]
enum Event {
    Ahead,
    Session(&'static str),
    /// One that comes while nothing can be written.
    SessionOnADeadLine(&'static str),
    Stop,
    Ready,
    Elsewhere,
    ApplicationEnds,
    Signal(i32),
    Time,
}

fn event() -> impl proptest::strategy::Strategy<Value = Event> {
    use proptest::prelude::*;
    prop_oneof![
        3 => Just(Event::Ahead),
        3 => prop_oneof![Just("a"), Just("b")].prop_map(Event::Session),
        1 => prop_oneof![Just("a"), Just("b")].prop_map(Event::SessionOnADeadLine),
        1 => Just(Event::Stop),
        2 => Just(Event::Ready),
        1 => Just(Event::Elsewhere),
        1 => Just(Event::ApplicationEnds),
        1 => prop_oneof![Just(15), Just(28)].prop_map(Event::Signal),
        1 => Just(Event::Time),
    ]
}

/// What has been seen so far of one run.
#[derive(Default)]
struct Seen {
    executions: u32,
    ran_ahead: bool,
    owner: Option<BackendId>,
    /// Whom init has said to be the owner, before it did anything for it.
    taken: Option<BackendId>,
    line_is_dead: bool,
    has_exited: bool,
}

impl Seen {
    /// Carries out what the state asked for, as the supervisor does, and looks at every word.
    fn carry_out(&mut self, state: &mut State, actions: Vec<Action>) {
        for action in actions {
            assert!(!self.has_exited, "{action:?} after the exit");
            let begins = matches!(action, Action::Start(_) | Action::Bind(_));
            assert!(
                !begins || self.taken.is_some() && self.taken == self.owner,
                "{action:?} was not said before"
            );
            match action {
                Action::SayFirst(_) if self.line_is_dead => {
                    state.not_taken();
                    self.owner = None;
                    return;
                }
                Action::SayFirst(word) => {
                    self.check(&word);
                    self.taken = word.backend().cloned();
                }
                Action::Start(_) | Action::StartAhead(_) => {
                    self.executions += 1;
                    self.ran_ahead |= matches!(action, Action::StartAhead(_));
                    let said = state.started(9);
                    self.carry_out(state, said);
                }
                Action::Bind(_) => {
                    assert!(self.ran_ahead);
                    let said = state.bound();
                    self.carry_out(state, said);
                }
                Action::Exit { .. } => self.has_exited = true,
                Action::Say(word) => self.check(&word),
                Action::Signal { pid, .. } => assert_eq!(pid, 9),
                Action::KillEverything | Action::LookAtLease => {}
            }
        }
    }

    fn check(&self, word: &FromInit) {
        match word {
            FromInit::Taken { backend }
            | FromInit::Started { backend, .. }
            | FromInit::Ready { backend, .. }
            | FromInit::ListeningElsewhere { backend, .. }
            | FromInit::Exited { backend, .. } => assert_eq!(Some(backend), self.owner.as_ref()),
            FromInit::Refused { backend, taken_by } => {
                assert_eq!(Some(taken_by), self.owner.as_ref());
                assert_ne!(backend, taken_by);
            }
            FromInit::AheadStarted { .. } | FromInit::AheadReady { .. } | FromInit::AheadFailed { .. } => {
                assert!(self.ran_ahead && self.owner.is_none(), "{word:?}");
            }
            FromInit::Hello(_)
            | FromInit::StartFailed { .. }
            | FromInit::LeaseOver { .. }
            | FromInit::Pong => {}
        }
    }
}

proptest::proptest! {
    #[test]
    fn in_any_order_one_execution_and_one_owner(events in proptest::collection::vec(event(), 0..20)) {
        let now = Instant::now();
        let (mut state, mut seen) = (State::parked("n".into(), None), Seen::default());
        for event in events {
            let runs = seen.executions > 0;
            let actions = match event {
                Event::Ahead => state.on_message(ahead(), now),
                Event::Session(backend) | Event::SessionOnADeadLine(backend) => {
                    seen.line_is_dead = matches!(event, Event::SessionOnADeadLine(_));
                    seen.owner.get_or_insert_with(|| id(backend));
                    state.on_message(session(backend), now)
                }
                Event::Stop => state.on_message(ToInit::Stop { signal: 15, grace_ms: 0 }, now),
                Event::Ready if runs => state.ready(at()),
                Event::Elsewhere if runs => state.elsewhere(vec![at()]),
                Event::ApplicationEnds if runs => state.on_ending(9, Ending::Code(0)),
                Event::Ready | Event::Elsewhere | Event::ApplicationEnds => Vec::new(),
                Event::Signal(signal) => state.on_signal(signal),
                Event::Time => state.on_time(now),
            };
            seen.carry_out(&mut state, actions);
            if seen.has_exited {
                break;
            }
            proptest::prop_assert!(seen.executions <= 1);
            let FromInit::Hello(hello) = state.hello() else { panic!() };
            proptest::prop_assert_eq!(hello.session.map(|taken| taken.backend), seen.owner.clone());
            let is_waiting = seen.ran_ahead && seen.owner.is_none();
            proptest::prop_assert_eq!(hello.ahead.is_some(), is_waiting);
        }
    }
}
