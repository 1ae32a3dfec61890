//! Postgres loses its last commits (a standby that was not synchronous takes over), and with them rows, or whole drones.
//!
//! One key, two drones. What runs and has no row must be put back before its key is given away; what is on its way
//! to a drone when the row is lost must not start later. Leases are steps here: `Outwait` is length and margin.

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
}

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
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Register(usize),
    Connect(usize),
    Deliver(Put),
    Ends(usize, FencingToken),
    LoseCommits(usize),
    Report(usize),
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

    /// The drone's inventory, in a term of this timeline: what it has and Postgres does not is put back.
    fn report(&self, state: &mut State, drone: usize) {
        if let Some(reported) = &mut state.reported {
            reported[drone] = true;
        }
        for found in state.agents[drone].running.clone() {
            let holder = state.postgres.row.map(|(token, _)| token);
            if holder == Some(found) {
                continue;
            }
            match put_back(found, holder) {
                PutBack::Delete => {
                    state.agents[drone].running.remove(&found);
                }
                PutBack::Insert | PutBack::Supersede => {
                    state.put_back = true;
                    state.commit(|postgres| postgres.row = Some((found, drone)));
                }
            }
        }
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
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for drone in 0..2 {
            let (agent, known) = (&state.agents[drone], state.postgres.terms[drone]);
            let current = known.is_some_and(|term| self.is_of(state, term));
            if agent.term.is_none() || known != agent.term || !current {
                actions.push(Action::Register(drone));
            } else if !agent.lapsed && state.reported.is_some() {
                actions.push(Action::Report(drone));
            }
            let granted = state.reported.is_none() || self.mistake == Mistake::GrantedAtOnce;
            if granted && state.postgres.row.is_none() && current && state.connects > 0 {
                actions.push(Action::Connect(drone));
            }
            actions.extend(agent.running.iter().map(|token| Action::Ends(drone, *token)));
        }
        actions.extend(state.puts.iter().cloned().map(Action::Deliver));
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
            Action::Report(drone) => self.report(&mut state, drone),
            Action::Outwait => {
                let reported = state.reported.take()?;
                for drone in (0..2).filter(|drone| !reported[*drone]) {
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
fn terms_that_come_again_are_found() {
    finds(Mistake::TermsComeAgain, "terms without the timeline");
}

#[test]
fn terms_of_the_old_timeline_that_go_on_are_found() {
    finds(Mistake::OldTermsGoOn, "drones that keep their terms");
}
