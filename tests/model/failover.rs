//! Postgres loses its last commits (a standby that was not synchronous takes over), and with them rows, or whole drones.
//!
//! One key, two drones. What runs and has no row must be put back before its key is given away;
//! what is on its way to a drone when the row is lost must not start later. Leases are steps here:
//! `Outwait` is length and margin. Two controllers compare inventories at the same time, and
//! neither knows of the other.
//!
//! Product: `lease::{heed, put_back, number, timeline_of}`. Copies: which rows a comparison finds
//! unknown (`controller/src/tasks/inventory.rs`), and that absent keys wait for every drone to be
//! outwaited (`lease::TimelineWatch`, whose clocks the model does not have).

use std::collections::BTreeSet;

use jetway_protocol::ids::{FencingToken, Term};
use jetway_protocol::lease::{Heed, PutBack, heed, number, put_back, timeline_of};
use stateright::{Model, Property};

use crate::explore::{exhaust, must_fail};

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    GrantedAtOnce,
    KnownDronesReported,
    TermsComeAgain,
    OldTermsGoOn,
    OwnRowIsAnothers,
    RenewedUncompared,
}

/// Controllers that compare.
const COMPARISONS: usize = 2;

struct Failover {
    mistake: Mistake,
    connects: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Postgres {
    terms: [Option<Term>; 2],
    row: Option<(FencingToken, usize)>,
    /// What the sequences have given.
    last_term: i64,
    last_token: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Agent {
    term: Option<Term>,
    running: BTreeSet<FencingToken>,
    lapsed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Put {
    drone: usize,
    term: Term,
    token: FencingToken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    postgres: Postgres,
    /// Before its last commits, newest first.
    before: Vec<Postgres>,
    timeline: u32,
    agents: [Agent; 2],
    puts: BTreeSet<Put>,
    /// Since the change of timeline: which drones have reported. `None`: absent keys are granted.
    reported: Option<[bool; 2]>,
    connects: u8,
    losses: u8,
    put_back: bool,
    /// Backends that a comparison has found without a row and has not settled yet: its controller,
    /// the drone, the backend.
    unknown: BTreeSet<(usize, usize, FencingToken)>,
    /// A backend was deleted that has the key's row.
    owner_deleted: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Register(usize),
    Connect(usize),
    Deliver(Put),
    Ends(usize, FencingToken),
    LoseCommits(usize),
    Compare { by: usize, drone: usize },
    Settle { by: usize, drone: usize, found: FencingToken },
    Outwait,
    EverybodyKnownHasReported,
}

/// Commits that may be lost.
const LOST_MAX: usize = 3;

impl Failover {
    fn term(&self, state: &State, last: i64) -> Term {
        let timeline = if self.mistake == Mistake::TermsComeAgain { 0 } else { state.timeline };
        Term(number(timeline, last).expect("small numbers"))
    }

    fn is_of(&self, state: &State, term: Term) -> bool {
        let blind = self.mistake == Mistake::TermsComeAgain || self.mistake == Mistake::OldTermsGoOn;
        blind || timeline_of(term.0) == state.timeline
    }

    /// The drone's inventory, in a term of this timeline, and then the rows.
    fn compare(state: &mut State, by: usize, drone: usize) {
        let row = state.postgres.row.map(|(token, _)| token);
        let unknown = state.agents[drone].running.iter().filter(|found| row != Some(**found));
        let unknown: Vec<_> = unknown.map(|found| (by, drone, *found)).collect();
        state.unknown.extend(unknown);
        Self::has_reported(state, by, drone);
    }

    /// What the drone has and Postgres does not is put back. The rows may have changed since they
    /// were compared.
    fn settle(&self, state: &mut State, by: usize, drone: usize, found: FencingToken) {
        state.unknown.remove(&(by, drone, found));
        if state.agents[drone].running.contains(&found) && self.is_current(state, drone) {
            let holder = state.postgres.row.map(|(token, _)| token);
            match self.put_back(found, holder) {
                PutBack::Own => {}
                PutBack::Delete => {
                    state.owner_deleted |= holder == Some(found);
                    state.agents[drone].running.remove(&found);
                }
                PutBack::Insert | PutBack::Supersede => {
                    state.put_back = true;
                    state.commit(|postgres| postgres.row = Some((found, drone)));
                }
            }
        }
        Self::has_reported(state, by, drone);
    }

    fn put_back(&self, found: FencingToken, holder: Option<FencingToken>) -> PutBack {
        if self.mistake == Mistake::OwnRowIsAnothers && holder == Some(found) {
            return PutBack::Delete;
        }
        put_back(found, holder)
    }

    /// The drone counts as heard of once a comparison has settled all that it found there.
    fn has_reported(state: &mut State, by: usize, drone: usize) {
        let is_settled = !state.unknown.iter().any(|(other, at, _)| (*other, *at) == (by, drone));
        if let Some(reported) = &mut state.reported {
            reported[drone] |= is_settled;
        }
    }

    /// The drone holds the term that Postgres has for it, and that is of this timeline.
    fn is_current(&self, state: &State, drone: usize) -> bool {
        let (agent, known) = (&state.agents[drone], state.postgres.terms[drone]);
        !agent.lapsed && known == agent.term && known.is_some_and(|term| self.is_of(state, term))
    }
}

impl State {
    fn commit(&mut self, change: impl FnOnce(&mut Postgres)) {
        if self.losses > 0 {
            self.before.insert(0, self.postgres.clone());
            self.before.truncate(LOST_MAX);
        }
        change(&mut self.postgres);
    }
}

impl Model for Failover {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let agent = Agent { term: None, running: BTreeSet::new(), lapsed: false };
        vec![State {
            postgres: Postgres { terms: [None; 2], row: None, last_term: 0, last_token: 0 },
            before: Vec::new(),
            timeline: 1,
            agents: [agent.clone(), agent],
            puts: BTreeSet::new(),
            reported: None,
            connects: self.connects,
            losses: 1,
            put_back: false,
            unknown: BTreeSet::new(),
            owner_deleted: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for drone in 0..2 {
            let (agent, known) = (&state.agents[drone], state.postgres.terms[drone]);
            let current = known.is_some_and(|term| self.is_of(state, term));
            if agent.term.is_none() || known != agent.term || !current {
                actions.push(Action::Register(drone));
            } else if !agent.lapsed && state.reported.is_some() {
                actions.extend((0..COMPARISONS).map(|by| Action::Compare { by, drone }));
            }
            let granted = state.reported.is_none() || self.mistake == Mistake::GrantedAtOnce;
            if granted && state.postgres.row.is_none() && current && state.connects > 0 {
                actions.push(Action::Connect(drone));
            }
            actions.extend(agent.running.iter().map(|token| Action::Ends(drone, *token)));
        }
        actions.extend(state.puts.iter().cloned().map(Action::Deliver));
        let settle = |(by, drone, found): &_| Action::Settle { by: *by, drone: *drone, found: *found };
        actions.extend(state.unknown.iter().map(settle));
        if state.losses > 0 {
            actions.extend((0..state.before.len()).map(Action::LoseCommits));
        }
        if let Some(reported) = state.reported {
            actions.push(Action::Outwait);
            let known = |drone: usize| state.postgres.terms[drone].is_some();
            if self.mistake == Mistake::KnownDronesReported && (0..2).all(|at| reported[at] || !known(at)) {
                actions.push(Action::EverybodyKnownHasReported);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Register(drone) => {
                let last_term = state.postgres.last_term + 1;
                let term = self.term(&state, last_term);
                state.commit(|postgres| {
                    (postgres.last_term, postgres.terms[drone]) = (last_term, Some(term));
                });
                let agent = &mut state.agents[drone];
                (agent.term, agent.lapsed) = (Some(term), false);
            }
            Action::Connect(drone) => {
                state.connects -= 1;
                let last_token = state.postgres.last_token + 1;
                let token = FencingToken(number(state.timeline, last_token)?);
                let term = state.postgres.terms[drone]?;
                state.commit(|postgres| {
                    (postgres.last_token, postgres.row) = (last_token, Some((token, drone)));
                });
                state.puts.insert(Put { drone, term, token });
            }
            Action::Deliver(put) => {
                state.puts.remove(&put);
                let agent = &mut state.agents[put.drone];
                if heed(agent.term, put.term) == Heed::Yes && !agent.lapsed {
                    agent.running.insert(put.token);
                }
            }
            Action::Ends(drone, token) => {
                state.agents[drone].running.remove(&token);
                if state.postgres.row == Some((token, drone)) {
                    state.commit(|postgres| postgres.row = None);
                }
            }
            Action::LoseCommits(count) => {
                state.postgres = state.before[count].clone();
                (state.before, state.losses) = (Vec::new(), 0);
                state.timeline += 1;
                state.reported = Some([false; 2]);
                if self.mistake == Mistake::TermsComeAgain {
                    state.postgres.terms = [None; 2];
                }
            }
            Action::Compare { by, drone } => Self::compare(&mut state, by, drone),
            Action::Settle { by, drone, found } => self.settle(&mut state, by, drone, found),
            Action::Outwait => {
                let reported = state.reported.take()?;
                // Only one that was compared in its present term is renewed meanwhile.
                let is_renewed = |state: &State, drone: usize| {
                    reported[drone]
                        || self.mistake == Mistake::RenewedUncompared && self.is_current(state, drone)
                };
                for drone in 0..2 {
                    if is_renewed(&state, drone) {
                        continue;
                    }
                    state.agents[drone].running.clear();
                    state.agents[drone].lapsed = true;
                }
            }
            Action::EverybodyKnownHasReported => state.reported = None,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one process", |_, state: &State| {
                state.agents.iter().map(|agent| agent.running.len()).sum::<usize>() <= 1
            }),
            Property::always("what has its key's row is not deleted", |_, state: &State| {
                !state.owner_deleted
            }),
            Property::sometimes("what lost its row is put back", |_, state: &State| state.put_back),
            Property::sometimes("an absent key is served afterwards", |_, state: &State| {
                let new = |token: &FencingToken| timeline_of(token.0) == 2;
                state.agents.iter().any(|agent| agent.running.iter().any(new))
            }),
        ]
    }
}

#[test]
fn one_process_when_postgres_loses_commits() {
    let model = Failover { mistake: Mistake::None, connects: 4 };
    exhaust("failover", "2 drones, 4 connects, up to 3 commits lost", model);
}

fn finds(mistake: Mistake, name: &str) {
    must_fail("failover", name, "one process", Failover { mistake, connects: 4 });
}

#[test]
fn a_key_granted_at_once_is_found() {
    finds(Mistake::GrantedAtOnce, "an absent key granted at once");
}

#[test]
fn a_drone_whose_registration_was_lost_is_found() {
    finds(Mistake::KnownDronesReported, "granted when every known drone has reported");
}

#[test]
fn a_lease_renewed_without_comparison_is_found() {
    finds(Mistake::RenewedUncompared, "renewed without a comparison");
}

#[test]
fn terms_that_come_again_are_found() {
    finds(Mistake::TermsComeAgain, "terms without the timeline");
}

#[test]
fn terms_of_the_old_timeline_that_go_on_are_found() {
    finds(Mistake::OldTermsGoOn, "drones that keep their terms");
}

#[test]
fn an_own_row_taken_for_another_s_is_found() {
    let model = Failover { mistake: Mistake::OwnRowIsAnothers, connects: 4 };
    must_fail("failover", "an own row taken for another's", "what has its key's row is not deleted", model);
}
