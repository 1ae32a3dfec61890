//! One backend on its drone: slots, the engine, the journal, inits, agents that fall between any two steps, and the lease's end.
//!
//! The engine may answer with an error and start the container all the same, later. A second is a tick; the lease ends at 2, and
//! from 3 on the key may be given away elsewhere, as `lease.rs` shows. Init takes its session atomically: it is PID 1, and
//! whoever stops init alone stops the application too.

use std::time::Duration;

use jetway_protocol::ids::BootId;
use jetway_protocol::lease::{Deadline, LastWord, Standing};
use stateright::{Model, Property};
use uuid::Uuid;

use crate::explore::{can_always, exhaust, must_fail};

const BOOT: BootId = BootId(Uuid::from_u128(7));
const GONE_BY: u8 = 2;
const FREE_FROM: u8 = 3;
const SLOTS: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    RestartedAgentStartsAfresh,
    JournalWrittenAfterTheClaim,
    FailedStopIsAnEnd,
    SlowStartIsGivenUpAfterTheClaim,
    InitDoesNotLook,
}

struct Claiming {
    mistake: Mistake,
    crashes: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Container {
    Absent,
    /// The engine was asked; it may still start it, whatever it answered.
    Asked,
    Parked,
    Runs,
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    container: Container,
    /// The session is on its way to init.
    claim: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Journal {
    slot: Option<usize>,
    claiming: bool,
    ended: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    slots: [Slot; SLOTS],
    journal: Journal,
    /// An agent is there, and has asked what its predecessor left.
    agent: bool,
    adopted: bool,
    /// It looked at its lease, and will send the session next.
    looked: bool,
    crashes: u8,
    elsewhere: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Action {
    Tick,
    TakeSlot(usize),
    AskEngine(usize),
    EngineStarts(usize),
    /// The call failed: another slot.
    GiveSlotUp(usize),
    LookAndJournal,
    SendClaim(usize),
    InitTakes(usize),
    ApplicationEnds(usize),
    Stop(usize),
    StopFails(usize),
    EngineSaysGone(usize),
    AgentFalls,
    AgentStarts,
    StartElsewhere,
}

impl Claiming {
    fn word(now: u8) -> (LastWord, Duration) {
        let mut word = LastWord::new(BOOT, Duration::ZERO);
        let gone_by = Duration::from_secs(u64::from(GONE_BY));
        word.read(Some(&Deadline { boot_id: BOOT, gone_by }.to_string()));
        (word, Duration::from_secs(u64::from(now)))
    }

    fn admits(now: u8) -> bool {
        let (word, now) = Self::word(now);
        word.admits(now)
    }

    fn tick(state: &mut State) {
        state.now += 1;
        let (word, now) = Self::word(state.now);
        if word.standing(now) == Standing::Gone {
            for slot in state.slots.iter_mut().filter(|slot| slot.container == Container::Runs) {
                slot.container = Container::Gone;
            }
        }
    }

    fn start_agent(&self, state: &mut State) {
        (state.agent, state.looked) = (true, false);
        if self.mistake == Mistake::RestartedAgentStartsAfresh && !state.journal.ended {
            state.journal = Journal::default();
        }
    }

    fn actions_of_the_agent(&self, state: &State, actions: &mut Vec<Action>) {
        if state.journal.ended {
            return;
        }
        let Some(at) = state.journal.slot else {
            let fresh = (0..SLOTS).find(|at| state.slots[*at].container == Container::Absent);
            actions.extend(fresh.filter(|_| Self::admits(state.now)).map(Action::TakeSlot));
            return;
        };
        let slot = &state.slots[at];
        let unclaimed = !state.journal.claiming;
        match slot.container {
            Container::Absent if unclaimed => actions.push(Action::AskEngine(at)),
            Container::Asked => {
                if unclaimed || self.mistake == Mistake::SlowStartIsGivenUpAfterTheClaim {
                    actions.push(Action::GiveSlotUp(at));
                }
            }
            Container::Absent | Container::Gone => actions.push(Action::EngineSaysGone(at)),
            Container::Parked | Container::Runs => {}
        }
        let listening = matches!(slot.container, Container::Parked);
        if listening && !state.looked && Self::admits(state.now) {
            actions.push(Action::LookAndJournal);
        }
        if listening && state.looked && !slot.claim {
            actions.push(Action::SendClaim(at));
        }
        if self.mistake == Mistake::SlowStartIsGivenUpAfterTheClaim && slot.claim {
            actions.push(Action::GiveSlotUp(at));
        }
        if matches!(slot.container, Container::Parked | Container::Runs) {
            actions.extend([Action::Stop(at), Action::StopFails(at)]);
        }
    }
}

impl Model for Claiming {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slot = Slot { container: Container::Absent, claim: false };
        vec![State {
            now: 0,
            slots: [slot.clone(), slot],
            journal: Journal::default(),
            agent: true,
            adopted: false,
            looked: false,
            crashes: self.crashes,
            elsewhere: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < FREE_FROM + 1 {
            actions.push(Action::Tick);
        }
        if !state.elsewhere && (state.now >= FREE_FROM || state.journal.ended) {
            actions.push(Action::StartElsewhere);
        }
        if state.agent {
            self.actions_of_the_agent(state, actions);
            if state.crashes > 0 {
                actions.push(Action::AgentFalls);
            }
        } else {
            actions.push(Action::AgentStarts);
        }
        for (at, slot) in state.slots.iter().enumerate() {
            match slot.container {
                Container::Asked => actions.push(Action::EngineStarts(at)),
                Container::Parked if slot.claim => actions.push(Action::InitTakes(at)),
                Container::Runs => actions.push(Action::ApplicationEnds(at)),
                Container::Absent | Container::Parked | Container::Gone => {}
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let late = self.mistake == Mistake::JournalWrittenAfterTheClaim;
        match action {
            Action::Tick => Self::tick(&mut state),
            Action::TakeSlot(at) => state.journal.slot = Some(at),
            Action::AskEngine(at) => state.slots[at].container = Container::Asked,
            Action::EngineStarts(at) => state.slots[at].container = Container::Parked,
            Action::GiveSlotUp(_) => {
                (state.journal, state.looked) = (Journal::default(), false);
            }
            Action::LookAndJournal => {
                (state.journal.claiming, state.looked) = (!late, true);
            }
            Action::SendClaim(at) => (state.slots[at].claim, state.looked) = (true, false),
            Action::InitTakes(at) => {
                let admitted = Self::admits(state.now) || self.mistake == Mistake::InitDoesNotLook;
                state.slots[at].claim = false;
                state.slots[at].container = if admitted { Container::Runs } else { Container::Gone };
                state.journal.claiming |= state.agent && state.journal.slot == Some(at);
            }
            Action::ApplicationEnds(at) | Action::Stop(at) => {
                state.slots[at] = Slot { container: Container::Gone, claim: false };
            }
            Action::StopFails(_) => state.journal.ended = self.mistake == Mistake::FailedStopIsAnEnd,
            Action::EngineSaysGone(_) => state.journal.ended = true,
            Action::AgentFalls => {
                state.crashes -= 1;
                state.agent = false;
                if late && !state.journal.claiming {
                    state.journal = Journal::default();
                }
            }
            Action::AgentStarts => {
                self.start_agent(&mut state);
                state.adopted |= state.slots.iter().any(|slot| slot.container == Container::Runs);
            }
            Action::StartElsewhere => state.elsewhere = true,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one process", |_, state: &State| {
                let running = state.slots.iter().filter(|slot| slot.container == Container::Runs).count();
                running + usize::from(state.elsewhere) <= 1
            }),
            Property::sometimes("a restarted agent adopts what runs", |_, state: &State| state.adopted),
            Property::sometimes("a second slot is used where the first failed", |_, state: &State| {
                state.slots[1].container == Container::Runs
            }),
        ]
    }
}

#[test]
fn one_process_whenever_the_agent_falls() {
    let model = Claiming { mistake: Mistake::None, crashes: 2 };
    exhaust("claim", "2 slots, 2 falls of the agent, a slow engine", model);
}

#[test]
fn a_backend_can_always_be_ended() {
    let model = Claiming { mistake: Mistake::None, crashes: 2 };
    can_always("claim", "a free key", &model, |state| state.elsewhere);
}

fn finds(mistake: Mistake, name: &str) {
    must_fail("claim", name, "one process", Claiming { mistake, crashes: 2 });
}

#[test]
fn a_restarted_agent_that_starts_afresh_is_found() {
    finds(Mistake::RestartedAgentStartsAfresh, "a restarted agent that does not ask");
}

#[test]
fn a_journal_written_after_the_claim_is_found() {
    finds(
        Mistake::JournalWrittenAfterTheClaim,
        "a claim that is journalled after it was sent, and init not asked",
    );
}

#[test]
fn a_failed_stop_taken_for_an_end_is_found() {
    finds(Mistake::FailedStopIsAnEnd, "a failed stop taken for an end");
}

#[test]
fn a_slot_given_up_after_its_claim_is_found() {
    finds(Mistake::SlowStartIsGivenUpAfterTheClaim, "a slot given up after its claim");
}

#[test]
fn an_init_that_does_not_look_is_found() {
    finds(Mistake::InitDoesNotLook, "an init that takes a late session");
}
