//! The lease against time: one drone whose session holds a key, two controllers that would give the key away, Postgres.
//!
//! A tick is 30 s of true time. The drone's clock is as slow and the controllers' as fast as is believed possible; init looks at its
//! file at each tick, whatever the agent does. Everything else happens at any time, or never: so agent and controllers are
//! stopped for any time, messages are lost, delayed, overtaken and (`copies`) delivered twice.
//!
//! Product: `lease::{DroneLease, LastWord, Deadline, LeaseTerms, Watches, registration, released}`. The
//! statements that renew and end a lease are `lease::{is_renewed, is_over}`, which
//! `controller/src/db/rule_tests.rs` compares with the SQL. Copy: a registration gives the next term.

mod runs;
mod state;

use std::collections::BTreeSet;
use std::time::Duration;

use jetway_protocol::ids::{BootId, DroneId, Term};
use jetway_protocol::lease::{
    Claim, DroneLease, Known, LastWord, LeaseTerms, Reading, RegistrationVerdict, Replaces, Seat, Standing,
    is_over, is_renewed, registration,
};
use stateright::{Model, Property};
use uuid::Uuid;

use self::state::{Action, Controller, Message, Row, State};

const BOOT: BootId = BootId(Uuid::from_u128(7));
const DRONE: DroneId = DroneId(Uuid::from_u128(8));
/// The term in which the session was placed.
const FIRST: Term = Term(1);
/// From the last renewal to the end of everything.
const TICKS_AFTER: u8 = 6;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    NoMargin,
    CountedFromArrival,
    SameNumberAgain,
    EndsWhateverTheNumber,
    LookedAtBeforeTheAnswer,
    TimelineUnnoticed,
    ShortenedAtRegistration,
    UnlimitedByInit,
}

struct Lease {
    mistake: Mistake,
    /// Milliseconds of the drone's and of each controller's clock in a tick.
    rates: (u64, [u64; 2]),
    gap_max: Duration,
    /// Controllers that do anything.
    controllers: usize,
    /// The last tick at which the drone sends anything; then it is cut off.
    cut_off: u8,
    /// Renewals and registrations that are sent, agent restarts, second copies, commits that Postgres loses.
    sends: u8,
    crashes: u8,
    copies: u8,
    losses: u8,
    /// Whether the key may come back to the drone after its session has ended there.
    again: bool,
    /// What a registration gives, after a first one that gave two minutes.
    terms: LeaseTerms,
}

impl Lease {
    fn usual(mistake: Mistake) -> Self {
        let terms = two_minutes();
        let rates = (27_500, [32_500, 32_500]);
        let gap_max = Duration::from_secs(40);
        Self {
            mistake,
            rates,
            gap_max,
            controllers: 1,
            cut_off: 2,
            sends: 2,
            crashes: 0,
            copies: 0,
            losses: 0,
            again: false,
            terms,
        }
    }

    fn drone_clock(&self, tick: u8) -> Duration {
        Duration::from_millis(1_000_000 + self.rates.0 * u64::from(tick))
    }

    fn controller_clock(&self, controller: usize, tick: u8) -> Duration {
        Duration::from_millis(5_000_000 + self.rates.1[controller] * u64::from(tick))
    }

    /// Both count 120 s.
    fn drone_terms(&self, terms: LeaseTerms) -> LeaseTerms {
        if self.mistake == Mistake::NoMargin { of(144, 24) } else { terms }
    }

    fn watched_terms(&self, terms: LeaseTerms) -> LeaseTerms {
        if self.mistake == Mistake::NoMargin { of(100, 20) } else { terms }
    }

    fn heard(&self, state: &mut State, message: &Message) {
        let counted = |sent_at: u8| {
            let late = self.mistake == Mistake::CountedFromArrival;
            self.drone_clock(if late { state.tick } else { sent_at })
        };
        match message {
            Message::Register { sent_at, replaces } => {
                let claim = Claim {
                    boot_id: BOOT,
                    uptime: self.drone_clock(*sent_at),
                    replaces: Some(Replaces { seat: *replaces, silent_ms: 0 }),
                };
                let known = Known { seat: state.row.seat, boot_id: BOOT };
                if registration(Some(&known), &claim) == RegistrationVerdict::SameBoot {
                    let term = Term(state.row.seat.term.0 + 1);
                    let shortened = self.mistake == Mistake::ShortenedAtRegistration;
                    let terms = if shortened { self.terms } else { state.row.terms.or_longer(self.terms) };
                    state.commit(Row { seat: Seat { term, renewal: 0 }, terms, over: state.row.over });
                    state.network.insert(Message::Registered { sent_at: *sent_at, term });
                }
            }
            Message::Renew { sent_at, seat, terms } => {
                let same_again = self.mistake == Mistake::SameNumberAgain && state.row.seat.term == seat.term;
                if is_renewed(state.row.seat, *seat) || same_again {
                    state.commit(Row { seat: *seat, terms: *terms, over: state.row.over });
                    state.network.insert(Message::Renewed { sent_at: *sent_at, term: seat.term });
                }
            }
            Message::Registered { sent_at, term } => {
                let at = counted(*sent_at);
                if state.lease.registered(*term, self.drone_terms(self.terms), at) {
                    state.file = state.lease.deadline(BOOT);
                }
            }
            Message::Renewed { sent_at, term } => {
                let at = counted(*sent_at);
                if state.lease.acknowledged(*term, at) {
                    state.file = state.lease.deadline(BOOT);
                }
            }
        }
    }

    fn tick(&self, state: &mut State) {
        state.tick += 1;
        if self.mistake != Mistake::UnlimitedByInit {
            let file = state.file.map(|file| file.to_string());
            state.init.read(file.as_deref());
            if state.init.standing(self.drone_clock(state.tick)) == Standing::Gone {
                state.lives = false;
            }
        }
    }

    fn look(&self, state: &mut State, at: usize) {
        let now = self.controller_clock(at, state.tick);
        let controller = &mut state.controllers[at];
        let Some((row, timeline, asked_at)) = controller.answer.take() else { return };
        let early = self.mistake == Mistake::LookedAtBeforeTheAnswer;
        let now = if early { self.controller_clock(at, asked_at) } else { now };
        let unnoticed = self.mistake == Mistake::TimelineUnnoticed;
        let reading = Reading {
            timeline: if unnoticed { 1 } else { timeline },
            drones: vec![(DRONE, row.seat, self.watched_terms(row.terms))],
        };
        let expired = controller.watches.tick(now, self.gap_max, &reading).first().map(|(_, seat)| *seat);
        controller.expired = expired.map(|seat| (seat, reading.timeline));
    }

    fn end_lease(&self, state: &mut State, at: usize) {
        let Some((seat, timeline)) = state.controllers[at].expired.take() else { return };
        let row = (state.row.seat, state.timeline);
        let seat = if self.mistake == Mistake::EndsWhateverTheNumber { row.0 } else { seat };
        let timeline = if self.mistake == Mistake::TimelineUnnoticed { row.1 } else { timeline };
        if is_over(row, (seat, timeline)) {
            let term = Term(state.row.seat.term.0 + 1);
            state.commit(Row { seat: Seat { term, renewal: 0 }, over: Some(term), ..state.row });
        }
    }
}

fn of(length: u64, margin: u64) -> LeaseTerms {
    LeaseTerms::new(Duration::from_secs(length), Duration::from_secs(margin)).expect("valid terms")
}

fn two_minutes() -> LeaseTerms {
    of(120, 20)
}

impl Model for Lease {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut lease = DroneLease::default();
        lease.registered(FIRST, self.drone_terms(two_minutes()), self.drone_clock(0));
        let seat = Seat { term: FIRST, renewal: 0 };
        let file = lease.deadline(BOOT);
        let mut init = LastWord::new(BOOT, lease.terms().grace_max());
        init.read(file.map(|file| file.to_string()).as_deref());
        vec![State {
            tick: 0,
            file,
            init,
            lease,
            placed: FIRST,
            lives: true,
            elsewhere: false,
            network: BTreeSet::new(),
            row: Row { seat, terms: two_minutes(), over: None },
            before: Vec::new(),
            timeline: 1,
            controllers: Default::default(),
            sends: self.sends,
            crashes: self.crashes,
            copies: self.copies,
            losses: self.losses,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.elsewhere {
            return;
        }
        if state.tick < self.cut_off + TICKS_AFTER {
            actions.push(Action::Tick);
        }
        if state.key_is_free() {
            actions.push(Action::StartElsewhere);
        }
        if state.lives || self.again {
            self.actions_of_the_drone(state, actions);
        }
        let admits = state.lease.admits(self.drone_clock(state.tick));
        let known = state.lease.term() == Some(state.row.seat.term);
        if self.again && !state.lives && admits && known && state.row.over.is_none() {
            actions.push(Action::StartAgain);
        }
        let watching = if state.lives || self.again { self.controllers } else { 1 };
        for at in 0..watching {
            match &state.controllers[at] {
                Controller { expired: Some(_), .. } => actions.push(Action::EndLease(at)),
                Controller { answer: Some(_), .. } => actions.push(Action::Look(at)),
                Controller { .. } if state.row.over.is_none() => {
                    actions.push(Action::Read(at));
                    if self.mistake == Mistake::LookedAtBeforeTheAnswer && state.tick > 1 {
                        actions.push(Action::ReadSlowly(at));
                    }
                }
                Controller { .. } => {}
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => self.tick(&mut state),
            Action::Register => {
                state.sends -= 1;
                state.network.insert(Message::Register { sent_at: state.tick, replaces: state.row.seat });
            }
            Action::Renew => {
                state.sends -= 1;
                let seat = Seat { term: state.lease.term()?, renewal: state.lease.next_renewal() };
                let terms = state.lease.terms();
                state.network.insert(Message::Renew { sent_at: state.tick, seat, terms });
            }
            Action::RenewUnderTheSameNumber => {
                state.sends -= 1;
                let seat = Seat { term: state.lease.term()?, renewal: 1 };
                let terms = state.lease.terms();
                state.network.insert(Message::Renew { sent_at: state.tick, seat, terms });
            }
            Action::Deliver(message) => {
                state.network.remove(&message);
                self.heard(&mut state, &message);
            }
            Action::DeliverACopy(message) => {
                state.copies -= 1;
                self.heard(&mut state, &message);
            }
            Action::AgentRestarts => {
                state.crashes -= 1;
                state.lease = DroneLease::resume(state.file, BOOT);
                state
                    .network
                    .retain(|message| matches!(message, Message::Register { .. } | Message::Renew { .. }));
            }
            Action::PostgresLosesItsLastCommits(count) => {
                state.row = state.before[count - 1];
                (state.before, state.losses) = (Vec::new(), 0);
                state.timeline += 1;
            }
            Action::Read(at) => {
                state.controllers[at].answer = Some((state.row, state.timeline, state.tick));
            }
            Action::ReadSlowly(at) => {
                state.controllers[at].answer = Some((state.row, state.timeline, state.tick - 2));
            }
            Action::Look(at) => self.look(&mut state, at),
            Action::EndLease(at) => self.end_lease(&mut state, at),
            Action::StartElsewhere => state.elsewhere = true,
            Action::StartAgain => (state.lives, state.placed) = (true, state.row.seat.term),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one process", |_, state: &State| !(state.lives && state.elsewhere)),
            Property::sometimes("a drone that is cut off loses its key", |_, state: &State| state.elsewhere),
            Property::sometimes("a renewed session outlives the first lease", |_, state: &State| {
                state.lives && state.tick >= 4
            }),
        ]
    }
}

impl Lease {
    fn actions_of_the_drone(&self, state: &State, actions: &mut Vec<Action>) {
        if state.sends > 0 && state.tick <= self.cut_off {
            actions.push(Action::Register);
            if state.lease.term().is_some() {
                let again = self.mistake == Mistake::SameNumberAgain;
                actions.push(if again { Action::RenewUnderTheSameNumber } else { Action::Renew });
            }
        }
        for message in &state.network {
            actions.push(Action::Deliver(message.clone()));
            if state.copies > 0 {
                actions.push(Action::DeliverACopy(message.clone()));
            }
        }
        if state.crashes > 0 {
            actions.push(Action::AgentRestarts);
        }
        if state.row.over.is_none() {
            let lost = 1..=state.before.len().min(usize::from(state.losses));
            actions.extend(lost.map(Action::PostgresLosesItsLastCommits));
        }
    }
}
