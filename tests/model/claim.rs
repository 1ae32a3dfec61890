//! One backend on its drone: slots, the engine, the journal, inits, agents that fall between any two steps, and the lease's end.
//!
//! The engine may answer late, or with an error, and start the container all the same. A tick is 20
//! seconds, in which each of the agent's clocks runs out but that of the start; the lease ends at 2,
//! and from 3 on the key may be given away elsewhere, as `lease.rs` shows. Init is PID 1: its end is
//! the application's. It may die, and its line may break, between any two of: it has the session, it
//! has said so, the application is executed.
//!
//! Product: the drone's whole core (`drone/src/backend/core/`), which decides what is journalled,
//! sent, asked of the engine, adopted after a fall, and told as the end; its journal's records, and
//! what they add up to (`drone/src/store/journal/record.rs`); `lease::{LastWord, Deadline}`. Copies:
//! the loop around the core (`drone/src/backend/actor.rs`: the lease first, then the event, then all
//! that is due; answers about another slot are dropped), which slot is taken
//! (`drone/src/warm/take.rs`), what the engine's part of a start reports
//! (`drone/src/backend/start_task.rs`), and init, which says what it has taken before it executes it
//! (`init/src/state.rs`, whose own tests go through every order). Not here: readiness, proxies,
//! sandboxes, hot slots.

mod agent;
mod runs;
mod shown;
mod slot;

use std::time::Duration;

use jetway_drone::model::{Event, Progress, Record, Remembered};
use jetway_drone::runtime::{ContainerStatus, LineEvent};
use jetway_protocol::ids::BootId;
use jetway_protocol::status::{EndReason, Status, TerminationKind};
use stateright::{Model, Property};
use tokio::time::Instant;
use uuid::Uuid;

use self::agent::{Agent, Asked, How};
use self::shown::Shown;
use self::slot::{Container, Line, Slot};

const BOOT: BootId = BootId(Uuid::from_u128(7));
const TICK: Duration = Duration::from_secs(20);
const GONE_BY: u8 = 2;
const FREE_FROM: u8 = 3;
const SLOTS: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    RestartedAgentStartsAfresh,
    JournalWrittenAfterTheClaim,
    FailedStopIsAnEnd,
    InitDoesNotLook,
    /// A session that was not mentioned was not begun, whatever init it is.
    SilenceOfAnyInitIsTrusted,
    /// A connection that was given up counts as read to its end.
    DroppedReaderIsAnEnd,
    /// Init begins although it could not say so.
    InitBeginsUnsaid,
}

/// What may still go wrong: falls of the agent, inits that are killed, lines that break, starts
/// that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct May {
    crashes: u8,
    deaths: u8,
    cuts: u8,
    failures: u8,
}

struct Claiming {
    mistake: Mistake,
    may: May,
    /// Init says what it has taken only after it has executed it, as earlier versions did.
    is_old_init: bool,
    /// Slots that wait for a session at the beginning; the others are made.
    ready: usize,
    base: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: u8,
    slots: [Slot; SLOTS],
    journal: Shown<Remembered>,
    /// Records that are not in the journal yet, by mistake.
    unwritten: Option<Shown<Vec<Record>>>,
    agent: Option<Agent>,
    /// It was told to stop.
    stopped: bool,
    /// A controller has heard of the end.
    ended: bool,
    adopted: bool,
    may: May,
    /// Of this backend's application on this drone, under its one fencing token.
    starts: u8,
    elsewhere: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Tick,
    AgentLooks,
    AskEngine(usize),
    EngineStarts(usize),
    EngineAnswers(usize),
    /// The call failed: the container may come all the same.
    StartFails(usize),
    /// The engine knows nothing of the start.
    StartForgotten(usize),
    EngineKills(usize),
    /// Of an engine call.
    Answer(usize, Asked),
    StopFails(usize),
    EngineRemoves(usize),
    SendClaim(usize),
    InitConnects(usize),
    InitTakes(usize),
    /// Its line is dead.
    InitCannotSay(usize),
    InitExecutes(usize),
    InitSays(usize),
    InitStops(usize),
    InitDies(usize),
    ApplicationEnds(usize),
    LineBreaks(usize),
    LineEnds(usize),
    AgentHears(usize),
    Stop,
    AgentFalls,
    AgentStarts,
    StartElsewhere,
}

impl Claiming {
    fn of(mistake: Mistake, ready: usize, may: May) -> Self {
        Self { mistake, may, is_old_init: false, ready, base: Instant::now() }
    }

    fn start_agent(&self, state: &mut State) {
        state.adopted |= state.slots.iter().any(|slot| slot.container == Container::Runs);
        if self.mistake == Mistake::RestartedAgentStartsAfresh {
            state.journal = Shown::new(agent::put());
            return self.begin(state, Event::Begin);
        }
        if state.journal.value.state.status() == Status::Terminated {
            // It tells of the end once more.
            (state.ended, state.agent) = (true, Some(Agent::without_backend()));
            return;
        }
        let resumes = Event::Resume { proxies_back_by: self.moment(state.now).instant };
        self.begin(state, resumes);
    }

    fn fall(&self, state: &mut State) {
        state.may.crashes -= 1;
        (state.agent, state.unwritten) = (None, None);
        for slot in &mut state.slots {
            slot.cut();
            (slot.is_ready, slot.is_left) = (false, false);
        }
    }

    fn actions_of_the_agent(&self, state: &State, agent: &Agent, actions: &mut Vec<Action>) {
        actions.extend(agent.sending.map(Action::SendClaim));
        if !self.goes_on(state) {
            return;
        }
        actions.push(Action::AgentLooks);
        if !state.stopped {
            actions.push(Action::Stop);
        }
        match agent.starting {
            Some((at, false)) => actions.push(Action::AskEngine(at)),
            Some((at, true)) => {
                if state.slots[at].runs() || state.slots[at].container == Container::Gone {
                    actions.push(Action::EngineAnswers(at));
                }
                if state.may.failures > 0 {
                    actions.extend([Action::StartFails(at), Action::StartForgotten(at)]);
                }
            }
            None => {}
        }
        for (at, asked) in &agent.calls {
            self.actions_of_a_call(&state.slots[*at], *at, *asked, actions);
        }
        let Some(at) = agent.line else { return };
        let slot = &state.slots[at];
        match slot.line {
            Line::Up if !slot.said.is_empty() => actions.push(Action::AgentHears(at)),
            Line::Up if slot.is_at_its_end() => actions.push(Action::LineEnds(at)),
            Line::Away if !slot.session && matches!(slot.container, Container::Parked | Container::Runs) => {
                actions.push(Action::InitConnects(at));
            }
            Line::Up | Line::Away => {}
        }
        if state.may.cuts > 0 && slot.line == Line::Up {
            actions.push(Action::LineBreaks(at));
        }
    }

    fn actions_of_a_call(&self, slot: &Slot, at: usize, asked: Asked, actions: &mut Vec<Action>) {
        match asked {
            Asked::Finish(How::Kill | How::Await) | Asked::Again if slot.runs() => {
                if asked != Asked::Again {
                    actions.push(Action::EngineKills(at));
                }
                if self.mistake == Mistake::FailedStopIsAnEnd {
                    actions.push(Action::StopFails(at));
                }
            }
            Asked::Look | Asked::Signal | Asked::OpenLine | Asked::Finish(_) | Asked::Again => {
                actions.push(Action::Answer(at, asked));
            }
        }
    }

    fn actions_of_inits(&self, state: &State, at: usize, actions: &mut Vec<Action>) {
        let slot = &state.slots[at];
        match slot.container {
            Container::Asked => actions.push(Action::EngineStarts(at)),
            Container::Parked if slot.session && self.is_old_init => actions.push(Action::InitExecutes(at)),
            Container::Parked if slot.session => {
                actions.push(Action::InitCannotSay(at));
                if slot.line == Line::Up && !slot.is_closed {
                    actions.push(Action::InitTakes(at));
                }
            }
            Container::Took => actions.push(Action::InitExecutes(at)),
            Container::Runs => {
                actions.push(Action::ApplicationEnds(at));
                if slot.is_unsaid {
                    actions.push(Action::InitSays(at));
                }
            }
            Container::Absent | Container::Parked | Container::Gone | Container::Removed => {}
        }
        if slot.runs() && state.may.deaths > 0 {
            actions.push(Action::InitDies(at));
        }
        if slot.runs() && slot.stop {
            actions.push(Action::InitStops(at));
        }
        if slot.is_left && !matches!(slot.container, Container::Absent | Container::Removed) {
            actions.push(Action::EngineRemoves(at));
        }
    }

    fn break_line(&self, state: &mut State, at: usize) {
        state.may.cuts -= 1;
        state.slots[at].cut();
        let heard_all = self.mistake == Mistake::DroppedReaderIsAnEnd;
        self.drive(state, Event::Heard(LineEvent::Disconnected { heard_all }));
    }

    fn fail_start(&self, state: &mut State, progress: Progress) {
        state.may.failures -= 1;
        if let Some(agent) = &mut state.agent {
            agent.starting = None;
        }
        self.drive(state, Event::Progressed(progress));
    }
}

impl Model for Claiming {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let slot = |at| if at < self.ready { Slot::ready() } else { Slot::absent() };
        let mut state = State {
            now: 0,
            slots: [slot(0), slot(1)],
            journal: Shown::new(agent::put()),
            unwritten: None,
            agent: None,
            stopped: false,
            ended: false,
            adopted: false,
            may: self.may,
            starts: 0,
            elsewhere: false,
        };
        self.begin(&mut state, Event::Begin);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.now < FREE_FROM {
            actions.push(Action::Tick);
        }
        if !state.elsewhere && (state.now >= FREE_FROM || state.ended) {
            actions.push(Action::StartElsewhere);
        }
        match &state.agent {
            Some(agent) => {
                self.actions_of_the_agent(state, agent, actions);
                if state.may.crashes > 0 {
                    actions.push(Action::AgentFalls);
                }
            }
            None => actions.push(Action::AgentStarts),
        }
        (0..SLOTS).for_each(|at| self.actions_of_inits(state, at, actions));
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => Self::tick(&mut state),
            Action::AgentLooks => self.drive(&mut state, Event::Time),
            Action::AskEngine(at) => self.ask_engine(&mut state, at),
            Action::EngineStarts(at) => state.slots[at].container = Container::Parked,
            Action::EngineAnswers(at) => self.started(&mut state, at),
            Action::StartFails(_) => {
                let failed = Progress::Failed(EndReason::CreateFailed, "the engine failed".to_owned());
                self.fail_start(&mut state, failed);
            }
            Action::StartForgotten(_) => self.fail_start(&mut state, Progress::Forgotten),
            Action::EngineKills(at) | Action::InitDies(at) => {
                state.may.deaths -= u8::from(matches!(action, Action::InitDies(_)));
                state.slots[at].end();
            }
            Action::Answer(at, asked) => self.answer(&mut state, at, asked),
            Action::StopFails(_) => {
                self.gone(&mut state, ContainerStatus::Exited { code: 137, oom_killed: false });
            }
            Action::EngineRemoves(at) => state.slots[at].remove(),
            Action::SendClaim(at) => self.send(&mut state, at),
            Action::InitConnects(at) => {
                state.slots[at].line = Line::Up;
                let hello = self.hello(at, &state.slots[at]);
                self.drive(&mut state, Event::Heard(LineEvent::Connected(hello)));
            }
            Action::InitTakes(at) => state.slots[at].take(),
            Action::InitCannotSay(at) => {
                state.slots[at].cannot_say();
                if self.mistake == Mistake::InitBeginsUnsaid {
                    self.execute(&mut state, at);
                }
            }
            Action::InitSays(at) => state.slots[at].says_that_it_runs(),
            Action::InitExecutes(at) => self.execute(&mut state, at),
            Action::InitStops(at) | Action::ApplicationEnds(at) => state.slots[at].exit(),
            Action::LineBreaks(at) => self.break_line(&mut state, at),
            Action::LineEnds(at) => {
                state.slots[at].cut();
                self.drive(&mut state, Event::Heard(LineEvent::Disconnected { heard_all: true }));
            }
            Action::AgentHears(at) => {
                let said = state.slots[at].said.remove(0);
                self.heard(&mut state, said.message());
            }
            Action::Stop => {
                state.stopped = true;
                let (kind, reason) = (TerminationKind::Hard, EndReason::External);
                self.drive(&mut state, Event::Stop { kind, reason });
            }
            Action::AgentFalls => self.fall(&mut state),
            Action::AgentStarts => self.start_agent(&mut state),
            Action::StartElsewhere => state.elsewhere = true,
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always("one process", |_, state: &State| {
                let running = state.slots.iter().filter(|slot| slot.container == Container::Runs).count();
                running + usize::from(state.elsewhere) <= 1
            }),
            Property::always("one start", |_, state: &State| state.starts <= 1),
        ];
        // The silence of an earlier init proves nothing, so its slot is never replaced.
        if !self.is_old_init {
            let uses = |_: &Self, state: &State| state.slots[1].container == Container::Runs;
            all.push(Property::sometimes("a second slot is used where the first failed", uses));
        }
        if self.may.crashes > 0 {
            let adopts = |_: &Self, state: &State| state.adopted;
            all.push(Property::sometimes("a restarted agent adopts what runs", adopts));
        }
        all
    }
}
