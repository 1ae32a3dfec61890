//! The drone of the dispatch model: which commands it heeds, and what may happen to it.

use jetway_protocol::ids::Term;
use jetway_protocol::lease::{Denial, Heed, Objection, denial, heed};

use super::state::{Action, Message, Put, Sender, State, Step};
use super::{Dispatch, Mistake};

/// The end of the model: the registration that gives it is not lost.
pub const LAST_TERM: Term = Term(4);

impl Dispatch {
    fn heeds(&self, own: Option<Term>, word: Term) -> Heed {
        if self.mistake == Mistake::AnyTermIsHeeded && own.is_some() { Heed::Yes } else { heed(own, word) }
    }

    fn bury(&self, state: &mut State, drone: usize, id: u8) {
        if self.mistake != Mistake::NoTombstones {
            state.agents[drone].tombstones |= 1 << id;
        }
    }

    /// A final refusal: a second copy of the same `PUT` must be refused, too.
    fn refuse(&self, state: &mut State, drone: usize, id: u8, by: Sender) {
        if self.mistake != Mistake::NoTombstoneAtRefusal && self.mistake != Mistake::RefusalOfAnyPut {
            self.bury(state, drone, id);
        }
        state.send(Message::Answer { id, by, taken: false });
    }

    /// `refuse`: the drone drains, or has no room.
    pub fn put(&self, state: &mut State, put: Put, refuse: bool) {
        let Put { id, drone, term, by, .. } = put;
        let agent = &mut state.agents[drone];
        let bit = 1 << id;
        match self.heeds(agent.term, term) {
            Heed::NotYet if self.mistake == Mistake::UnknownTermIsFinal => {
                state.send(Message::Answer { id, by, taken: false });
            }
            Heed::NotYet => self.object(state, put, false),
            Heed::Over => self.object(state, put, true),
            Heed::Yes if agent.running & bit != 0 => state.send(Message::Answer { id, by, taken: true }),
            Heed::Yes if (agent.tombstones | agent.declined) & bit != 0 => {
                state.send(Message::Answer { id, by, taken: false });
            }
            Heed::Yes if agent.lapsed && self.mistake != Mistake::LapsedDroneAdmits => {
                self.object(state, put, false);
            }
            Heed::Yes if refuse => self.object(state, put, true),
            Heed::Yes => {
                agent.running |= bit;
                state.send(Message::Answer { id, by, taken: true });
            }
        }
    }

    /// It takes nothing, and says so; `unavailable` it says a few times, and then nothing.
    fn object(&self, state: &mut State, put: Put, is_final: bool) {
        let Put { id, drone, by, or_never, .. } = put;
        let agent = &state.agents[drone];
        let bit = 1 << id;
        let word = denial(Objection {
            is_final,
            or_never,
            lives: agent.running & bit != 0 && self.mistake != Mistake::FinalWhileItRuns,
            is_buried: agent.tombstones & bit != 0,
        });
        if agent.running & bit != 0 && word == Denial::PutOff {
            return;
        }
        if !is_final {
            if state.put_offs == 0 {
                return;
            }
            state.put_offs -= 1;
        }
        let has_term = state.agents[drone].term.is_some();
        match word {
            Denial::PutOff => state.send(Message::PutOff { id }),
            Denial::Refuse => state.send(Message::Answer { id, by, taken: false }),
            Denial::BuryAndRefuse if is_final => self.refuse(state, drone, id, by),
            Denial::BuryAndRefuse if self.mistake == Mistake::DeclinesAndForgets => {
                state.send(Message::Answer { id, by, taken: false });
            }
            Denial::BuryAndRefuse if has_term => self.refuse(state, drone, id, by),
            // An agent that has no term yet remembers it in memory only.
            Denial::BuryAndRefuse => {
                state.agents[drone].declined |= bit;
                state.send(Message::Answer { id, by, taken: false });
            }
        }
    }

    pub fn deleted(&self, state: &mut State, id: u8, drone: usize, term: Term) {
        let own = state.agents[drone].term;
        if self.heeds(own, term) == Heed::Yes {
            state.agents[drone].running &= !(1 << id);
            self.bury(state, drone, id);
            state.send(Message::Gone { id, term: own.unwrap_or(term) });
        }
    }

    pub fn actions_of_a_drone(&self, state: &State, drone: usize, actions: &mut Vec<Action>) {
        let (agent, seat) = (&state.agents[drone], &state.seats[drone]);
        let mut push = |step| actions.push(Action::OfDrone(drone, step));
        let room = state.network.len() < self.network;
        if room && (agent.term.is_none() || agent.term < Some(seat.term)) && seat.term < LAST_TERM {
            push(Step::Register);
        }
        if state.restarts > 0 && seat.term < LAST_TERM {
            push(Step::Restart);
        }
        if state.reboots > 0 && seat.term < LAST_TERM {
            push(Step::Reboot);
        }
        if state.lapses > 0 && !agent.lapsed {
            push(Step::Lapse);
        }
        if agent.lapsed && !seat.is_over && !agent.booted {
            push(Step::LeaseOver);
            if agent.term == Some(seat.term) {
                push(Step::Renewed);
            }
        }
        for id in (0..self.attempts).filter(|_| room && agent.term.is_some()) {
            if agent.running & (1 << id) != 0 {
                push(Step::Ends(id));
            } else if agent.tombstones & (1 << id) != 0 && state.live() == Some(id) {
                push(Step::ReportsAgain(id));
            }
        }
        if room && agent.term.is_some() {
            push(Step::TakesInventory);
        }
    }

    pub fn step(&self, state: &mut State, drone: usize, step: Step) {
        let next = Term(state.seats[drone].term.0 + 1);
        match step {
            Step::Register => {
                let (seat, agent) = (&mut state.seats[drone], &mut state.agents[drone]);
                (seat.term, seat.is_over) = (next, false);
                if std::mem::take(&mut agent.booted) {
                    seat.boot = Some(next);
                }
                state.send(Message::Registered { drone, term: next });
            }
            Step::Restart => {
                state.restarts -= 1;
                (state.agents[drone].term, state.agents[drone].declined) = (None, 0);
                state.lose_replies_to(drone);
            }
            Step::Reboot => {
                state.reboots -= 1;
                let agent = &mut state.agents[drone];
                (agent.term, agent.running, agent.lapsed, agent.booted) = (None, 0, true, true);
                (agent.tombstones, agent.declined) = (0, 0); // not fsynced: a host that falls may lose them
                state.lose_replies_to(drone);
            }
            Step::Lapse => {
                state.lapses -= 1;
                let running = state.agents[drone].running;
                (0..self.attempts)
                    .filter(|id| running & (1 << id) != 0)
                    .for_each(|id| self.bury(state, drone, id));
                (state.agents[drone].running, state.agents[drone].lapsed) = (0, true);
            }
            Step::Renewed => state.agents[drone].lapsed = false,
            Step::LeaseOver => {
                let seat = &mut state.seats[drone];
                (seat.term, seat.is_over, seat.over) = (next, true, Some(next));
            }
            Step::Ends(id) => {
                state.agents[drone].running &= !(1 << id);
                self.bury(state, drone, id);
                self.report(state, drone, id);
            }
            Step::ReportsAgain(id) => self.report(state, drone, id),
            Step::TakesInventory => {
                let agent = &state.agents[drone];
                if let Some(term) = agent.term {
                    let running = agent.running;
                    state.send(Message::Inventory { drone, term, running });
                }
            }
        }
    }

    fn report(&self, state: &mut State, drone: usize, id: u8) {
        if let Some(term) = state.agents[drone].term {
            state.send(Message::Gone { id, term });
        }
    }
}

impl State {
    fn lose_replies_to(&mut self, drone: usize) {
        self.network
            .retain(|message| !matches!(message, Message::Registered { drone: to, .. } if *to == drone));
    }
}
