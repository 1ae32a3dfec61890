//! Warm slots: two backends that want one at the same moment, two slots that are ready, a reconciler that removes what belongs to
//! nobody, and an agent that may fall between any two steps.
//!
//! A backend takes a slot, journals it together with its claim, and sends its session; after a
//! fall, what the journal says is claimed is claimed again, and all else is nobody's. Two backends
//! are two keys: each may run once, in a slot of its own. A slot's init may die at any step.
//!
//! Product: `claim::next` (journal, then send), `claim::fate` (lost, or taken), `slot::Holder` (in
//! which order the reconciler asks whose a slot is) and `slot::Stray` (what it removes; that it leaves alone
//! what a lost journal named is `slot.rs`' own table). Copies: a slot
//! is looked for and taken under one lock (`drone/src/warm/take.rs`; a test with threads beside it), and
//! an agent that starts goes on with journalled slots (`drone/src/backend/core/adopt.rs`).

mod runs;

use jetway_protocol::claim::{Evidence, Fate, Handover, Next, fate, next};
use jetway_protocol::slot::{Holder, Stray};
use stateright::{Model, Property};

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
    /// Init executes what it took before it says so.
    SaidAfterwards,
    /// An agent that has just started believes that it has heard all of a slot.
    AdoptedSlotIsReplaced,
}

struct Warm {
    mistake: Mistake,
    falls: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Container {
    Parked,
    /// Its init has said that it has the session of this backend, and has executed nothing.
    Took(usize),
    Runs(usize),
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    container: Container,
    /// Sessions on their way to its init.
    sent: [bool; BACKENDS],
    /// Whose session its init has mentioned to this agent.
    mentioned: Option<usize>,
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
    ended: bool,
    starts: u8,
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
    InitExecutes(usize),
    InitSaysSo(usize),
    /// Somebody kills it.
    SlotDies(usize),
    GiveUp(usize),
    End(usize),
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
        let container = Container::Parked;
        Slot { container, sent: [false; BACKENDS], mentioned: None, ready: true, owner: None }
    }

    fn take(state: &mut State, backend: usize, at: usize) {
        state.slots[at].ready = false;
        state.slots[at].owner = Some(backend);
        state.backends[backend].took = Some(at);
    }

    fn actions_of(&self, state: &State, backend: usize, actions: &mut Vec<Action>) {
        let one = state.backends[backend];
        if one.ended {
            return;
        }
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
                match self.next(&one) {
                    Next::Wait if late && one.journalled.is_none() => actions.push(Action::Journal(backend)),
                    Next::Wait => {}
                    Next::Journal => actions.push(Action::Journal(backend)),
                    Next::Send => actions.push(Action::Send(backend)),
                }
                let silent = state.slots[at].container != Container::Runs(backend);
                let dead = state.slots[at].container == Container::Gone;
                if silent && !dead && one.is_sent && self.mistake == Mistake::SilenceIsDeath {
                    actions.push(Action::GiveUp(backend));
                }
                if dead && (one.is_sent || self.is_adopted(state)) {
                    actions.push(self.judge(state, at, backend));
                }
            }
        }
    }

    fn next(&self, one: &Backend) -> Next {
        next(Handover {
            is_awaited: !one.is_sent,
            is_admitted: true,
            is_journalled: one.journalled.is_some() || self.mistake == Mistake::JournalledLate,
        })
    }

    /// Every backend is, once an agent has fallen.
    fn is_adopted(&self, state: &State) -> bool {
        state.falls < self.falls
    }

    /// This agent has heard all that was said since it began to listen.
    fn judge(&self, state: &State, at: usize, backend: usize) -> Action {
        let evidence = Evidence {
            has_exited: true,
            is_adopted: self.is_adopted(state) && self.mistake != Mistake::AdoptedSlotIsReplaced,
            writes_ahead: true,
            was_mentioned: state.slots[at].mentioned == Some(backend),
            heard_all: true,
        };
        match fate(evidence) {
            Fate::NotBegun => Action::GiveUp(backend),
            Fate::Taken | Fate::Doubtful => Action::End(backend),
        }
    }

    fn execute(state: &mut State, at: usize, backend: usize) {
        state.slots[at].container = Container::Runs(backend);
        state.backends[backend].starts += 1;
    }

    /// The reconciler asks both holders, one after the other, and then init.
    fn reconcile(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let slot = &state.slots[at];
        let [keeper, backend] = Holder::ASKED;
        let asked = if self.mistake == Mistake::OwnersAskedFirst { [backend, keeper] } else { Holder::ASKED };
        let [first, second] = asked.map(|holder| match holder {
            Holder::Keeper => slot.ready,
            Holder::Backend => slot.owner.is_some(),
        });
        if slot.container == Container::Gone {
            if slot.owner.is_none() {
                actions.push(Action::Make(at));
            }
            return;
        }
        if !state.suspects[at] && !first {
            actions.push(Action::Suspect(at));
        }
        let has_session = slot.container != Container::Parked;
        let stray = Stray { runs: true, is_paused: false, has_session, is_deleted: false };
        if state.suspects[at] && !second && stray.may_go() {
            actions.push(Action::Remove(at));
        }
    }

    fn start_agent(state: &mut State) {
        state.agent = true;
        for slot in &mut state.slots {
            (slot.ready, slot.owner) = (false, None);
            // Init's hello.
            slot.mentioned = match slot.container {
                Container::Took(backend) | Container::Runs(backend) => Some(backend),
                Container::Parked | Container::Gone => None,
            };
        }
        for (id, backend) in state.backends.iter_mut().enumerate() {
            let Backend { journalled, ended, starts, .. } = *backend;
            *backend = Backend { took: journalled, journalled, ended, starts, ..Backend::default() };
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
            match state.slots[at].container {
                Container::Took(_) => actions.push(Action::InitExecutes(at)),
                Container::Runs(_) if state.agent && state.slots[at].mentioned.is_none() => {
                    actions.push(Action::InitSaysSo(at));
                }
                Container::Parked | Container::Runs(_) | Container::Gone => {}
            }
            if state.slots[at].container != Container::Gone {
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
                    Container::Parked if self.mistake == Mistake::SaidAfterwards => {
                        Self::execute(&mut state, at, backend);
                    }
                    Container::Parked => {
                        state.slots[at].mentioned = state.agent.then_some(backend);
                        state.slots[at].container = Container::Took(backend);
                    }
                    // One session, ever: the other one is refused, and its start has failed.
                    Container::Took(other) | Container::Runs(other) => {
                        state.lost_a_session |= other != backend;
                    }
                    Container::Gone => {}
                }
            }
            Action::InitExecutes(at) => {
                let Container::Took(backend) = state.slots[at].container else { return None };
                Self::execute(&mut state, at, backend);
            }
            Action::InitSaysSo(at) => {
                let Container::Runs(backend) = state.slots[at].container else { return None };
                state.slots[at].mentioned = Some(backend);
            }
            Action::SlotDies(at) => state.slots[at].container = Container::Gone,
            Action::GiveUp(backend) | Action::End(backend) => {
                let at = state.backends[backend].took?;
                state.slots[at].owner = None;
                let (ended, starts) = (matches!(action, Action::End(_)), state.backends[backend].starts);
                state.backends[backend] = Backend { ended, starts, ..Backend::default() };
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
                let slot = &state.slots[at];
                let is_held = slot.owner.is_some() || slot.container != Container::Parked;
                state.lost_a_session |= is_held || slot.sent.contains(&true);
                state.slots[at].container = Container::Gone;
            }
            Action::AgentFalls => {
                (state.agent, state.falls) = (false, state.falls - 1);
                state.suspects = [false; SLOTS];
                state.slots.iter_mut().for_each(|slot| slot.mentioned = None);
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
            Property::always("one start for each key", |_, state: &State| {
                state.backends.iter().all(|backend| backend.starts <= 1)
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
