//! Warm slots: two backends that want one at the same moment, two slots that are ready, a reconciler that removes what belongs to
//! nobody, and an agent that may fall between any two steps.
//!
//! A backend takes a slot, journals it together with its claim, and sends its session; after a fall, what the journal says is
//! claimed is claimed again, and all else is nobody's. Two backends are two keys: each may run once, in a slot of its own.

use stateright::{Model, Property};

use crate::explore::{can_always, exhaust, must_fail};

const SLOTS: usize = 2;
const BACKENDS: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// Looking for a slot and taking it are two steps.
    TakenInTwoSteps,
    /// The reconciler asks who owns a slot, and then whether it is kept ready.
    OwnersAskedFirst,
    /// The slot is journalled after its session was sent.
    JournalledLate,
    /// A slot that is silent after its session was sent is taken for dead, without the engine's word.
    SilenceIsDeath,
}

struct Warm {
    mistake: Mistake,
    falls: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Container {
    Parked,
    /// Its init has taken the session of this backend.
    Runs(usize),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    container: Container,
    /// Sessions on their way to its init.
    sent: [bool; BACKENDS],
    /// In the agent's memory: it may be taken.
    ready: bool,
    /// In the agent's memory: whose it is.
    owner: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
struct Backend {
    /// The agent's task, in memory.
    looked: Option<usize>,
    took: Option<usize>,
    is_sent: bool,
    /// In the journal.
    journalled: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    slots: [Slot; SLOTS],
    backends: [Backend; BACKENDS],
    agent: bool,
    falls: u8,
    /// The reconciler has found the first half of its question answered with "nobody's".
    suspects: [bool; SLOTS],
    adopted: bool,
    lost_a_session: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Look(usize, usize),
    Take(usize, usize),
    Journal(usize),
    Send(usize),
    InitTakes(usize, usize),
    /// Somebody kills it before it has taken anything.
    SlotDies(usize),
    GiveUp(usize),
    /// A container of its own, in the place of one that is gone.
    Make(usize),
    Suspect(usize),
    Remove(usize),
    AgentFalls,
    AgentStarts,
}

impl State {
    fn runs(&self, backend: usize) -> usize {
        self.slots.iter().filter(|slot| slot.container == Container::Runs(backend)).count()
    }
}

impl Warm {
    fn fresh() -> Slot {
        Slot { container: Container::Parked, sent: [false; BACKENDS], ready: true, owner: None }
    }

    fn take(state: &mut State, backend: usize, at: usize) {
        state.slots[at].ready = false;
        state.slots[at].owner = Some(backend);
        state.backends[backend].took = Some(at);
    }

    fn actions_of(&self, state: &State, backend: usize, actions: &mut Vec<Action>) {
        let one = state.backends[backend];
        let late = self.mistake == Mistake::JournalledLate;
        match one.took {
            None => {
                let ready = (0..SLOTS).find(|at| state.slots[*at].ready);
                match (self.mistake == Mistake::TakenInTwoSteps, one.looked) {
                    (false, _) => actions.extend(ready.map(|at| Action::Take(backend, at))),
                    (true, None) => actions.extend(ready.map(|at| Action::Look(backend, at))),
                    (true, Some(at)) => actions.push(Action::Take(backend, at)),
                }
            }
            Some(at) => {
                if one.journalled.is_none() && (!late || one.is_sent) {
                    actions.push(Action::Journal(backend));
                }
                if (one.journalled.is_some() || late) && !one.is_sent {
                    actions.push(Action::Send(backend));
                }
                let silent = state.slots[at].container != Container::Runs(backend);
                let dead = state.slots[at].container == Container::Gone;
                if one.is_sent && (dead || silent && self.mistake == Mistake::SilenceIsDeath) {
                    actions.push(Action::GiveUp(backend));
                }
            }
        }
    }

    /// The reconciler has two questions: is it kept ready, and is it somebody's. A slot only ever moves from the first to the second.
    fn reconcile(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let slot = &state.slots[at];
        let (first, second) = match self.mistake {
            Mistake::OwnersAskedFirst => (slot.owner.is_some(), slot.ready),
            _ => (slot.ready, slot.owner.is_some()),
        };
        if slot.container == Container::Gone {
            if slot.owner.is_none() {
                actions.push(Action::Make(at));
            }
            return;
        }
        if !state.suspects[at] && !first {
            actions.push(Action::Suspect(at));
        }
        // Init's own word outranks it all.
        if state.suspects[at] && !second && slot.container == Container::Parked {
            actions.push(Action::Remove(at));
        }
    }

    fn start_agent(state: &mut State) {
        state.agent = true;
        for slot in &mut state.slots {
            (slot.ready, slot.owner) = (false, None);
        }
        for (id, backend) in state.backends.iter_mut().enumerate() {
            *backend =
                Backend { took: backend.journalled, journalled: backend.journalled, ..Backend::default() };
            if let Some(at) = backend.journalled {
                state.slots[at].owner = Some(id);
                state.slots[at].ready = false;
                state.adopted |= state.slots[at].container == Container::Runs(id);
            }
        }
    }
}

impl Model for Warm {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            slots: [Self::fresh(), Self::fresh()],
            backends: [Backend::default(); BACKENDS],
            agent: true,
            falls: self.falls,
            suspects: [false; SLOTS],
            adopted: false,
            lost_a_session: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for at in 0..SLOTS {
            for backend in (0..BACKENDS).filter(|backend| state.slots[at].sent[*backend]) {
                actions.push(Action::InitTakes(at, backend));
            }
            if state.slots[at].container == Container::Parked {
                actions.push(Action::SlotDies(at));
            }
        }
        if !state.agent {
            return actions.push(Action::AgentStarts);
        }
        (0..BACKENDS).for_each(|backend| self.actions_of(state, backend, actions));
        (0..SLOTS).for_each(|at| self.reconcile(state, at, actions));
        if state.falls > 0 {
            actions.push(Action::AgentFalls);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Look(backend, at) => state.backends[backend].looked = Some(at),
            Action::Take(backend, at) => Self::take(&mut state, backend, at),
            Action::Journal(backend) => state.backends[backend].journalled = state.backends[backend].took,
            Action::Send(backend) => {
                let at = state.backends[backend].took?;
                state.backends[backend].is_sent = true;
                state.slots[at].sent[backend] = true;
            }
            Action::InitTakes(at, backend) => {
                state.slots[at].sent[backend] = false;
                match state.slots[at].container {
                    Container::Parked => state.slots[at].container = Container::Runs(backend),
                    // One session, ever: the other one is refused, and its start has failed.
                    Container::Runs(other) => state.lost_a_session |= other != backend,
                    Container::Gone => {}
                }
            }
            Action::SlotDies(at) => state.slots[at].container = Container::Gone,
            Action::GiveUp(backend) => {
                let at = state.backends[backend].took?;
                state.slots[at].owner = None;
                state.backends[backend] = Backend::default();
            }
            Action::Make(at) => {
                state.slots[at] = Self::fresh();
                state.suspects[at] = false;
                for backend in state.backends.iter_mut().filter(|backend| backend.journalled == Some(at)) {
                    backend.journalled = None;
                }
            }
            Action::Suspect(at) => state.suspects[at] = true,
            Action::Remove(at) => {
                state.lost_a_session |=
                    state.slots[at].sent.contains(&true) || state.slots[at].owner.is_some();
                state.slots[at].container = Container::Gone;
            }
            Action::AgentFalls => {
                (state.agent, state.falls) = (false, state.falls - 1);
                state.suspects = [false; SLOTS];
            }
            Action::AgentStarts => Self::start_agent(&mut state),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one process for each key", |_, state: &State| {
                (0..BACKENDS).all(|backend| state.runs(backend) <= 1)
            }),
            Property::always("no session is lost to another one or to the reconciler", |_, state: &State| {
                !state.lost_a_session
            }),
            Property::sometimes("both are served", |_, state: &State| {
                (0..BACKENDS).all(|backend| state.runs(backend) == 1)
            }),
            Property::sometimes("a restarted agent adopts what runs", |_, state: &State| state.adopted),
        ]
    }
}

#[test]
fn a_slot_is_one_backends_whoever_falls() {
    let model = Warm { mistake: Mistake::None, falls: 2 };
    exhaust("warm", "2 slots, 2 backends, 2 falls of the agent, slots that die", model);
}

#[test]
fn a_claim_can_always_be_settled() {
    let model = Warm { mistake: Mistake::None, falls: 1 };
    can_always("warm", "no session on its way", &model, |state| {
        state.slots.iter().all(|slot| !slot.sent.contains(&true))
    });
}

fn finds(mistake: Mistake, name: &str, property: &'static str) {
    must_fail("warm", name, property, Warm { mistake, falls: 2 });
}

const LOST: &str = "no session is lost to another one or to the reconciler";
const ONE: &str = "one process for each key";

#[test]
fn a_slot_that_is_found_and_then_taken_is_found() {
    finds(Mistake::TakenInTwoSteps, "a slot that is looked for and taken in two steps", LOST);
}

#[test]
fn a_reconciler_that_asks_for_owners_first_is_found() {
    finds(Mistake::OwnersAskedFirst, "a reconciler that asks for owners first", LOST);
}

#[test]
fn a_slot_journalled_after_its_session_was_sent_is_found() {
    finds(Mistake::JournalledLate, "a slot that is journalled after its session was sent", ONE);
}

#[test]
fn a_silent_slot_taken_for_dead_is_found() {
    finds(Mistake::SilenceIsDeath, "a silent slot that is taken for dead", ONE);
}
