//! Registration: a host that is booted anew frees what it held before, at once; a late register, or a copied data
//! directory, frees nothing that lives.
//!
//! Product: `lease::{registration, released}`. Copy: the write that follows a verdict, which
//! `controller/src/tasks/registration_tests.rs` holds in Postgres.

use std::collections::BTreeSet;
use std::time::Duration;

use jetway_protocol::ids::{BootId, Term};
use jetway_protocol::lease::{
    Claim, Evidence, Holding, Known, RegistrationVerdict, Replaces, Seat, registration, released,
};
use jetway_protocol::spec::OnIsolation;
use stateright::{Model, Property};
use uuid::Uuid;

use crate::explore::{exhaust, must_fail};

/// Milliseconds of a tick: longer than the slack in boot times.
const TICK_MS: u64 = 30_000;
/// The host with a copy of the data directory was booted long before.
const COPY: u8 = 9;
const COPY_UPTIME_TICKS: u64 = 100;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    BelievedOnArrival,
    CopyNotNoticed,
}

struct Registering {
    mistake: Mistake,
    ticks: u8,
    sends: u8,
    reboots: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Register {
    boot: u8,
    uptime_ms: u64,
    replaces: (Seat, u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    tick: u8,
    /// The host's present boot, since when, and its agent's term.
    boot: u8,
    booted_at: u8,
    term: Option<Term>,
    /// The drone's row.
    seat: Seat,
    seat_boot: u8,
    renewed_at: u8,
    /// The term of the key's row, while it has one; its process on the host; its process elsewhere.
    row: Option<Term>,
    lives: bool,
    elsewhere: bool,
    network: BTreeSet<Register>,
    sends: u8,
    reboots: u8,
    freed_by_boot: bool,
    refused_copy: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Tick,
    Reboot,
    Renew,
    Send,
    SendFromTheCopy,
    /// The message stays on its way: it may come again.
    Deliver(Register),
    Place,
    StartElsewhere,
}

impl Registering {
    fn send(&self, state: &mut State, boot: u8, uptime_ms: u64) {
        state.sends -= 1;
        let silent = u64::from(state.tick - state.renewed_at) * TICK_MS;
        state.network.insert(Register { boot, uptime_ms, replaces: (state.seat, silent) });
    }

    fn heard(&self, state: &mut State, register: &Register) {
        let boot_id = |boot: u8| BootId(Uuid::from_u128(u128::from(boot)));
        let (mut seat, mut silent_ms) = register.replaces;
        if self.mistake == Mistake::BelievedOnArrival {
            (seat, silent_ms) = (state.seat, u64::from(state.tick - state.renewed_at) * TICK_MS);
        }
        let uptime_ms = if self.mistake == Mistake::CopyNotNoticed { 0 } else { register.uptime_ms };
        let claim = Claim {
            boot_id: boot_id(register.boot),
            uptime: Duration::from_millis(uptime_ms),
            replaces: Some(Replaces { seat, silent_ms }),
        };
        let known = Known { seat: state.seat, boot_id: boot_id(state.seat_boot) };
        let term = Term(state.seat.term.0 + 1);
        match registration(Some(&known), &claim) {
            RegistrationVerdict::SameBoot => {}
            RegistrationVerdict::NewBoot => {
                let row = state.row.map(|row_term| Holding {
                    row_term,
                    drone_term: term,
                    on_isolation: OnIsolation::Keep,
                    acknowledged: true,
                    puts_sent: 1,
                    put_off: 0,
                });
                if row.is_some_and(|row| released(&row, Evidence::NewBoot { term })) {
                    (state.row, state.freed_by_boot) = (None, true);
                }
            }
            RegistrationVerdict::OtherHost => {
                state.refused_copy = true;
                return;
            }
            RegistrationVerdict::First | RegistrationVerdict::Moved { .. } => return,
        }
        state.seat = Seat { term, renewal: 0 };
        (state.seat_boot, state.renewed_at) = (register.boot, state.tick);
        if register.boot == state.boot {
            state.term = Some(term);
        }
    }
}

impl Model for Registering {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tick: 0,
            boot: 1,
            booted_at: 0,
            term: Some(Term(1)),
            seat: Seat { term: Term(1), renewal: 0 },
            seat_boot: 1,
            renewed_at: 0,
            row: None,
            lives: false,
            elsewhere: false,
            network: BTreeSet::new(),
            sends: self.sends,
            reboots: self.reboots,
            freed_by_boot: false,
            refused_copy: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.elsewhere {
            return;
        }
        if state.tick < self.ticks {
            actions.push(Action::Tick);
        }
        if state.reboots > 0 {
            actions.push(Action::Reboot);
        }
        if state.sends > 0 {
            actions.extend([Action::Send, Action::SendFromTheCopy]);
        }
        if state.term == Some(state.seat.term) {
            if state.seat.renewal < 1 {
                actions.push(Action::Renew);
            }
            if state.row.is_none() && !state.freed_by_boot {
                actions.push(Action::Place);
            }
        }
        if state.freed_by_boot && state.row.is_none() {
            actions.push(Action::StartElsewhere);
        }
        for register in &state.network {
            actions.push(Action::Deliver(register.clone()));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.tick += 1,
            Action::Reboot => {
                state.reboots -= 1;
                (state.boot, state.booted_at) = (state.boot + 1, state.tick);
                (state.term, state.lives) = (None, false);
            }
            Action::Renew => {
                state.seat.renewal += 1;
                state.renewed_at = state.tick;
            }
            Action::Send => {
                let uptime = u64::from(state.tick - state.booted_at) * TICK_MS;
                let boot = state.boot;
                self.send(&mut state, boot, uptime);
            }
            Action::SendFromTheCopy => {
                let uptime = (COPY_UPTIME_TICKS + u64::from(state.tick)) * TICK_MS;
                self.send(&mut state, COPY, uptime);
            }
            Action::Deliver(register) => self.heard(&mut state, &register),
            Action::Place => (state.row, state.lives) = (state.term, true),
            Action::StartElsewhere => state.elsewhere = true,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one process", |_, state: &State| !(state.lives && state.elsewhere)),
            Property::sometimes("a new boot frees the key", |_, state: &State| state.elsewhere),
            Property::sometimes("a copied data directory is refused", |_, state: &State| state.refused_copy),
        ]
    }
}

fn usual(mistake: Mistake) -> Registering {
    Registering { mistake, ticks: 2, sends: 3, reboots: 2 }
}

#[test]
fn a_register_frees_only_what_is_dead() {
    exhaust("register", "2 new boots, 3 registers, any of them twice, a copied host", usual(Mistake::None));
}

#[test]
fn a_late_register_believed_on_arrival_is_found() {
    must_fail("register", "a register believed on arrival", "one process", usual(Mistake::BelievedOnArrival));
}

#[test]
fn a_copied_host_that_is_not_noticed_is_found() {
    must_fail("register", "a copied data directory", "one process", usual(Mistake::CopyNotNoticed));
}
