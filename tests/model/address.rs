//! A token never reaches another session's process: one address of a drone's network, the session that had it, the next
//! one, and a proxy that was told of the first.
//!
//! The proxy dials for the old token as long as its attach stream stands and nobody has told it of the end. A tick is two seconds;
//! the proxy's clock is as slow, and the drone's as fast, as clocks are believed to be.
//! What is sent on a stream may be late, or never arrive; the stream may break at any time, for one side first.
//!
//! Product: `attach::{stands, is_silent}`, which `proxy/src/attach/state.rs` and
//! `drone/src/books/addresses.rs` call. Copies: an answer counts from the sending of its question
//! (`proxy/src/attach/pings.rs`), a new stream needs a new admission. The product also rests each
//! address for the silent time after its session's end; the model may use it again at once.

use std::collections::BTreeSet;
use std::time::Duration;

use jetway_protocol::attach::{is_silent, stands};
use jetway_protocol::lease::CLOCK_RATE_PARTS;
use stateright::{Model, Property};

use crate::explore::{exhaust, must_fail};

const TICK_SECONDS: u64 = 2;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    ReusedAtOnce,
    ReusedWhenTheStreamBreaks,
    HeardCountsFromArrival,
    OneClock,
    AdmittedOnAnOlderStream,
}

struct Address {
    mistake: Mistake,
    ticks: u8,
    pings: u8,
    reconnects: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Session {
    First,
    Nobody,
    Second,
}

/// On one stream; those of an earlier one are lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Message {
    Ping {
        sent_at: u8,
    },
    Hello {
        sent_at: u8,
    },
    /// Answers a ping or a hello.
    Echo {
        sent_at: u8,
    },
    Admitted,
    Ended,
    EndedSeen,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    tick: u8,
    at_the_address: Session,
    /// The drone's side: since when the proxy has no stream, and whether it has acknowledged the end.
    lost_at: Option<u8>,
    seen: bool,
    /// The proxy's side: until when its stream stands if nothing more comes, and whether the old token is admitted on it.
    stands_from: Option<u8>,
    admitted: bool,
    /// It was told of the end, which is final whatever else arrives.
    told: bool,
    network: BTreeSet<Message>,
    pings: u8,
    reconnects: u8,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Tick,
    ProxyPings,
    ProxyLosesItsStream,
    ProxyReconnects,
    DroneLosesTheStream,
    FirstEnds,
    SecondGetsTheAddress,
    Deliver(Message),
}

/// What a clock shows that runs at `parts` of [`CLOCK_RATE_PARTS`].
fn clock(ticks: u8, parts: u32) -> Duration {
    Duration::from_secs(u64::from(ticks) * TICK_SECONDS) * parts / CLOCK_RATE_PARTS
}

impl Address {
    /// Whether the proxy would dial for the old token.
    fn dials(&self, state: &State) -> bool {
        // Its clock is slow.
        let since = |from: u8| clock(state.tick - from, CLOCK_RATE_PARTS - 1);
        state.admitted && state.stands_from.is_some_and(|from| stands(since(from)))
    }

    fn is_free(&self, state: &State) -> bool {
        // Its clock is fast.
        let is_over = |lost_at: u8| {
            let since = clock(state.tick - lost_at, CLOCK_RATE_PARTS + 1);
            match self.mistake {
                Mistake::ReusedWhenTheStreamBreaks => true,
                Mistake::OneClock => !stands(since),
                _ => is_silent(since),
            }
        };
        state.seen || state.lost_at.is_some_and(is_over) || self.mistake == Mistake::ReusedAtOnce
    }

    fn heard(&self, state: &mut State, message: &Message) {
        match message {
            Message::Ping { sent_at } if state.lost_at.is_none() => {
                state.network.insert(Message::Echo { sent_at: *sent_at });
            }
            Message::Hello { sent_at } => {
                state.lost_at = None;
                state.network.insert(Message::Echo { sent_at: *sent_at });
                let lives = state.at_the_address == Session::First;
                state.network.insert(if lives { Message::Admitted } else { Message::Ended });
            }
            Message::Echo { sent_at } if state.stands_from.is_some() => {
                let arrival = self.mistake == Mistake::HeardCountsFromArrival;
                let from = if arrival { state.tick } else { *sent_at };
                state.stands_from = state.stands_from.max(Some(from));
            }
            Message::Admitted => state.admitted = !state.told,
            Message::Ended => {
                (state.admitted, state.told) = (false, true);
                state.network.insert(Message::EndedSeen);
            }
            Message::EndedSeen => state.seen = true,
            Message::Ping { .. } | Message::Echo { .. } => {}
        }
    }
}

impl Model for Address {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            tick: 0,
            at_the_address: Session::First,
            lost_at: None,
            seen: false,
            stands_from: Some(0),
            admitted: true,
            told: false,
            network: BTreeSet::new(),
            pings: self.pings,
            reconnects: self.reconnects,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.tick < self.ticks {
            actions.push(Action::Tick);
        }
        match state.stands_from {
            Some(_) => {
                actions.push(Action::ProxyLosesItsStream);
                if state.pings > 0 {
                    actions.push(Action::ProxyPings);
                }
            }
            None if state.reconnects > 0 => actions.push(Action::ProxyReconnects),
            None => {}
        }
        if state.lost_at.is_none() {
            actions.push(Action::DroneLosesTheStream);
        }
        match state.at_the_address {
            Session::First => actions.push(Action::FirstEnds),
            Session::Nobody if self.is_free(state) => actions.push(Action::SecondGetsTheAddress),
            Session::Nobody | Session::Second => {}
        }
        actions.extend(state.network.iter().cloned().map(Action::Deliver));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => state.tick += 1,
            Action::ProxyPings => {
                state.pings -= 1;
                state.network.insert(Message::Ping { sent_at: state.tick });
            }
            Action::ProxyLosesItsStream => {
                state.stands_from = None;
                state.network.clear();
            }
            Action::ProxyReconnects => {
                state.reconnects -= 1;
                state.stands_from = Some(state.tick);
                // What was admitted on an earlier stream must be asked for again.
                state.admitted &= self.mistake == Mistake::AdmittedOnAnOlderStream;
                state.network.insert(Message::Hello { sent_at: state.tick });
            }
            Action::DroneLosesTheStream => state.lost_at = Some(state.tick),
            Action::FirstEnds => {
                state.at_the_address = Session::Nobody;
                if state.lost_at.is_none() {
                    state.network.insert(Message::Ended);
                }
            }
            Action::SecondGetsTheAddress => state.at_the_address = Session::Second,
            Action::Deliver(message) => {
                state.network.remove(&message);
                self.heard(&mut state, &message);
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no token reaches another backend", |model: &Self, state: &State| {
                !(model.dials(state) && state.at_the_address == Session::Second)
            }),
            Property::sometimes(
                "an address is used again at once, on the proxy's word",
                |_, state: &State| state.at_the_address == Session::Second && state.tick == 0,
            ),
            Property::sometimes("an address is used again although a proxy is gone", |_, state: &State| {
                state.at_the_address == Session::Second && !state.seen
            }),
        ]
    }
}

fn usual(mistake: Mistake) -> Address {
    Address { mistake, ticks: 8, pings: 2, reconnects: 1 }
}

#[test]
fn no_token_reaches_another_backend() {
    exhaust("address", "a proxy, 2 sessions, 2 pings, a new stream", usual(Mistake::None));
}

fn finds(mistake: Mistake, name: &str) {
    must_fail("address", name, "no token reaches another backend", usual(mistake));
}

#[test]
fn an_address_used_again_at_once_is_found() {
    finds(Mistake::ReusedAtOnce, "an address used again at once");
}

#[test]
fn an_address_used_again_when_the_stream_breaks_is_found() {
    finds(Mistake::ReusedWhenTheStreamBreaks, "an address used again as soon as the stream has broken");
}

#[test]
fn a_deadline_counted_from_arrival_is_found() {
    finds(Mistake::HeardCountsFromArrival, "a stream that stands from when something arrived");
}

#[test]
fn two_clocks_taken_for_one_are_found() {
    finds(Mistake::OneClock, "an address used again as soon as the deadline has passed on the drone's clock");
}

#[test]
fn an_admission_of_an_older_stream_is_found() {
    finds(Mistake::AdmittedOnAnOlderStream, "an admission that outlives its stream");
}
