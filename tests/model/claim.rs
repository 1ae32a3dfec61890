//! One backend on its drone: slots, the engine, the journal, inits, agents that fall between any two steps, and the lease's end.
//!
//! The engine may answer with an error and start the container all the same, later. A second is a
//! tick; the lease ends at 2, and from 3 on the key may be given away elsewhere, as `lease.rs`
//! shows. Init is PID 1: its end is the application's. It may die, and its line may break, between
//! any two of: it has the session, it has said so, the application is executed.
//!
//! Product: `claim::{next, fate}`, `lease::{LastWord, Deadline}`. Copies: an agent that starts goes on
//! with a journalled slot (`drone/src/backend/core/adopt.rs`), and init says what it has taken before it
//! executes it (`init/src/state.rs`, whose own tests go through every order).

mod runs;

use std::time::Duration;

use jetway_protocol::claim::{Evidence, Fate, Handover, Next, fate, next};
use jetway_protocol::ids::BootId;
use jetway_protocol::lease::{Deadline, LastWord, Standing};
use stateright::{Model, Property};
use uuid::Uuid;

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
    /// A session that was not mentioned was not begun, whatever init it is.
    SilenceOfAnyInitIsTrusted,
    /// A connection that was given up counts as read to its end.
    DroppedReaderIsAnEnd,
    /// Init begins although it could not say so.
    InitBeginsUnsaid,
    /// An agent that has just started believes that it has heard all of a slot.
    AdoptedSlotIsReplaced,
}

struct Claiming {
    mistake: Mistake,
    crashes: u8,
    /// Init says what it has taken only after it has executed it, as earlier versions did.
    is_old_init: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Container {
    Absent,
    /// The engine was asked; it may still start it, whatever it answered.
    Asked,
    Parked,
    /// Init has said that the session is taken, and has executed nothing.
    Took,
    Runs,
    Gone,
}

/// What init has said of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Word {
    Unsaid,
    OnItsWay,
    Heard,
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Slot {
    container: Container,
    /// The session is on its way to init.
    claim: bool,
    word: Word,
    /// The agent has given a connection up before its end.
    cut: bool,
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
    /// Inits may still be killed, and lines break.
    deaths: u8,
    cuts: u8,
    /// Of this backend's application on this drone, under its one fencing token.
    starts: u8,
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
    InitSays(usize),
    /// Its line is dead.
    InitCannotSay(usize),
    InitExecutes(usize),
    InitDies(usize),
    LineBreaks(usize),
    AgentHears(usize),
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
        for slot in state.slots.iter_mut() {
            // Init's hello.
            if matches!(slot.container, Container::Took | Container::Runs) {
                slot.word = Word::Heard;
            }
        }
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
            Container::Parked | Container::Took | Container::Runs => {}
        }
        if slot.word == Word::OnItsWay {
            actions.push(Action::AgentHears(at));
        }
        if state.cuts > 0 && !slot.cut && slot.container != Container::Absent {
            actions.push(Action::LineBreaks(at));
        }
        // The look at the lease and the journal are one step, the write on the line is another.
        match self.next(state, slot) {
            Next::Wait => {}
            Next::Send if state.looked => actions.push(Action::SendClaim(at)),
            Next::Journal | Next::Send => actions.push(Action::LookAndJournal),
        }
        if self.mistake == Mistake::SlowStartIsGivenUpAfterTheClaim && slot.claim {
            actions.push(Action::GiveSlotUp(at));
        }
        if matches!(slot.container, Container::Parked | Container::Took | Container::Runs) {
            actions.extend([Action::Stop(at), Action::StopFails(at)]);
        }
    }

    fn next(&self, state: &State, slot: &Slot) -> Next {
        next(Handover {
            is_awaited: slot.container == Container::Parked && !slot.claim,
            is_admitted: state.looked || Self::admits(state.now),
            is_journalled: state.journal.claiming || self.mistake == Mistake::JournalWrittenAfterTheClaim,
        })
    }

    fn actions_of_inits(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let slot = &state.slots[at];
        match slot.container {
            Container::Asked => actions.push(Action::EngineStarts(at)),
            Container::Parked if slot.claim && self.is_old_init => actions.push(Action::InitExecutes(at)),
            Container::Parked if slot.claim => {
                actions.extend([Action::InitSays(at), Action::InitCannotSay(at)]);
            }
            Container::Took => actions.push(Action::InitExecutes(at)),
            Container::Runs => {
                actions.push(Action::ApplicationEnds(at));
                if slot.word == Word::Unsaid {
                    actions.push(Action::InitSays(at));
                }
            }
            Container::Absent | Container::Parked | Container::Gone => {}
        }
        if state.deaths > 0 && matches!(slot.container, Container::Parked | Container::Took | Container::Runs)
        {
            actions.push(Action::InitDies(at));
        }
    }

    fn execute(&self, state: &mut State, at: usize) {
        let admitted = Self::admits(state.now) || self.mistake == Mistake::InitDoesNotLook;
        let slot = &mut state.slots[at];
        (slot.claim, slot.container) = (false, if admitted { Container::Runs } else { Container::Gone });
        state.starts += u8::from(admitted);
    }

    /// The engine says that nothing runs: another slot, or the end.
    fn judge(&self, state: &mut State, at: usize) {
        let slot = &state.slots[at];
        let fate = fate(Evidence {
            has_exited: slot.container == Container::Gone,
            is_adopted: state.crashes < self.crashes && self.mistake != Mistake::AdoptedSlotIsReplaced,
            writes_ahead: !self.is_old_init || self.mistake == Mistake::SilenceOfAnyInitIsTrusted,
            was_mentioned: slot.word == Word::Heard,
            heard_all: slot.word != Word::OnItsWay
                && (!slot.cut || self.mistake == Mistake::DroppedReaderIsAnEnd),
        });
        match fate {
            Fate::NotBegun => (state.journal, state.looked) = (Journal::default(), false),
            Fate::Taken | Fate::Doubtful => state.journal.ended = true,
        }
    }

    fn cut(slot: &mut Slot) {
        slot.cut = true;
        if slot.word == Word::OnItsWay {
            slot.word = Word::Lost;
        }
    }

    /// The next agent has heard nothing, and given nothing up.
    fn forget(slot: &mut Slot) {
        slot.cut = false;
        if slot.word != Word::Unsaid {
            slot.word = Word::Lost;
        }
    }
}

impl Model for Claiming {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slot = Slot { container: Container::Absent, claim: false, word: Word::Unsaid, cut: false };
        vec![State {
            now: 0,
            slots: [slot.clone(), slot],
            journal: Journal::default(),
            agent: true,
            adopted: false,
            looked: false,
            crashes: self.crashes,
            deaths: 1,
            cuts: 1,
            starts: 0,
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
        (0..SLOTS).for_each(|at| self.actions_of_inits(state, at, actions));
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
            Action::InitSays(at) => {
                let slot = &mut state.slots[at];
                slot.word = Word::OnItsWay;
                if slot.container == Container::Parked {
                    (slot.claim, slot.container) = (false, Container::Took);
                }
            }
            Action::InitCannotSay(at) if self.mistake == Mistake::InitBeginsUnsaid => {
                state.slots[at].word = Word::Lost;
                self.execute(&mut state, at);
            }
            Action::InitCannotSay(at) => state.slots[at].claim = false,
            Action::InitExecutes(at) => self.execute(&mut state, at),
            Action::InitDies(at) => {
                state.deaths -= 1;
                (state.slots[at].container, state.slots[at].claim) = (Container::Gone, false);
            }
            Action::LineBreaks(at) => {
                state.cuts -= 1;
                Self::cut(&mut state.slots[at]);
            }
            Action::AgentHears(at) => {
                state.slots[at].word = Word::Heard;
                state.journal.claiming = true;
            }
            Action::ApplicationEnds(at) | Action::Stop(at) => {
                (state.slots[at].container, state.slots[at].claim) = (Container::Gone, false);
            }
            Action::StopFails(_) => state.journal.ended = self.mistake == Mistake::FailedStopIsAnEnd,
            Action::EngineSaysGone(at) => self.judge(&mut state, at),
            Action::AgentFalls => {
                state.crashes -= 1;
                state.slots.iter_mut().for_each(Self::forget);
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
            Property::always("one start", |_, state: &State| state.starts <= 1),
            Property::sometimes("a restarted agent adopts what runs", |_, state: &State| state.adopted),
            Property::sometimes("a second slot is used where the first failed", |_, state: &State| {
                state.slots[1].container == Container::Runs
            }),
        ]
    }
}
