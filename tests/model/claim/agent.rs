//! The drone's agent in the model: the product's core and journal, in a copy of the loop around
//! them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use jetway_drone::model::{
    Action, Call, Core, Done, Event, Finish, LeaseNow, Now, Place, Progress, Record, Remembered, TakenSlot,
    Tenure,
};
use jetway_drone::runtime::{ContainerStatus, Image, LineEvent};
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::ids::{BackendId, FencingToken, SlotId, Term};
use jetway_protocol::init::{FromInit, ToInit};
use jetway_protocol::key::Key;
use jetway_protocol::spec::{BackendSpec, Executable};
use jetway_protocol::status::{EndReason, Status};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::{Stage, StageName};
use jetway_protocol::warm::Tier;
use uuid::Uuid;

use super::shown::Shown;
use super::slot::{Container, Line};
use super::{BOOT, Claiming, Mistake, State, TICK};

pub const TOKEN: FencingToken = FencingToken(9);
/// Longer than the model lasts: a start that takes its time is not what is looked at here.
const START_TIMEOUT_SECONDS: u32 = 3600;

/// One life of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    /// `None`: it has found an ended backend, and has no task for it.
    pub core: Option<Shown<Core>>,
    /// The slot whose line it hears.
    pub line: Option<usize>,
    /// The slot that it has a container made for, and whether the engine was asked.
    pub starting: Option<(usize, bool)>,
    /// It looked at its lease and wrote the claim down, and will write the session on this slot's
    /// line next.
    pub sending: Option<usize>,
    /// Calls under way, each about a slot.
    pub calls: BTreeSet<(usize, Asked)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Asked {
    Look,
    Signal,
    OpenLine,
    Finish(How),
    /// The engine's word once more.
    Again,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum How {
    Kill,
    Await,
    Remove,
}

impl Agent {
    pub fn without_backend() -> Self {
        Self { core: None, line: None, starting: None, sending: None, calls: BTreeSet::new() }
    }
}

pub fn id() -> BackendId {
    "b".parse().expect("an id")
}

pub fn slot_id(at: usize) -> SlotId {
    SlotId(Uuid::from_u128(at as u128 + 1))
}

fn index(slot: SlotId) -> usize {
    usize::try_from(slot.0.as_u128() - 1).expect("one of ours")
}

fn address(at: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 0, u8::try_from(at).expect("few slots") + 2)
}

fn image() -> Image {
    let [id, user] = ["sha".to_owned(), String::new()];
    Image { id, entrypoint: Vec::new(), cmd: Vec::new(), user, stop_signal: 15, pulled: None }
}

/// The journal of a backend that was put just now.
pub fn put() -> Remembered {
    let mut spec = BackendSpec::of(Executable::of_image("image"));
    spec.start_timeout_seconds = START_TIMEOUT_SECONDS;
    let key = Key { name: "doc".to_owned(), namespace: String::new(), tag: String::new() };
    let put = PutBackend {
        term: Term(1),
        fencing_token: TOKEN,
        key: Some(key),
        spec,
        grant: None,
        static_token: None,
        timeline: Vec::new(),
        or_never: false,
    };
    let at = UnixMicros(1_000_000);
    let first = Record::Put { id: id(), at, put: Box::new(put), boot_id: Some(BOOT) };
    Remembered::first(first).expect("a put is the first record")
}

impl Claiming {
    pub fn moment(&self, now: u8) -> Now {
        let (word, at) = Self::word(now);
        let lease = LeaseNow {
            standing: word.standing(at),
            admits: word.admits(at),
            is_kept: true,
            grace: Duration::from_secs(10),
        };
        let (instant, wall) = (self.base + TICK * u32::from(now), UnixMicros(1_000_000));
        Now { instant, wall, lease: Some(lease) }
    }

    /// An agent with a journal, and how it begins.
    pub fn begin(&self, state: &mut State, event: Event) {
        let remembered = state.journal.value.as_ref().clone();
        let core = Core::new(remembered, BOOT, Some(Tenure::FOUND), self.moment(state.now));
        state.agent = Some(Agent { core: Some(Shown::new(core)), ..Agent::without_backend() });
        self.drive(state, event);
    }

    /// As the loop: the lease first, the event, and then all that is due.
    pub fn drive(&self, state: &mut State, event: Event) {
        if self.goes_on(state) {
            self.run(state, [Event::LookAtLease, event]);
        }
    }

    /// The session goes out: what was decided may be old by now.
    pub fn send(&self, state: &mut State, at: usize) {
        let Some(agent) = &mut state.agent else { return };
        agent.sending = None;
        let sent = agent.line == Some(at) && state.slots[at].line == Line::Up;
        state.slots[at].session |= sent;
        self.run(state, [Event::SessionSent(sent)]);
    }

    /// It has a backend that has not ended, and is not in the middle of something.
    pub fn goes_on(&self, state: &State) -> bool {
        let core = state.agent.as_ref().and_then(|agent| agent.core.as_ref());
        core.is_some_and(|core| is_free(state, &core.value))
    }

    fn run(&self, state: &mut State, events: impl IntoIterator<Item = Event>) {
        let Some(core) = state.agent.as_mut().and_then(|agent| agent.core.take()) else { return };
        let mut core = Arc::unwrap_or_clone(core.value);
        for event in events {
            if is_free(state, &core) {
                self.step(state, &mut core, event);
            }
        }
        while is_free(state, &core) && self.step(state, &mut core, Event::Time) {}
        if let Some(agent) = &mut state.agent {
            agent.core = Some(Shown::new(core));
        }
    }

    /// To a question, the answer goes back before the next action is carried out.
    fn step(&self, state: &mut State, core: &mut Core, event: Event) -> bool {
        let actions = core.on(event, self.moment(state.now));
        let is_busy = !actions.is_empty();
        for action in actions {
            if let Some(answer) = self.carry_out(state, action) {
                self.step(state, core, answer);
            }
        }
        is_busy
    }

    fn carry_out(&self, state: &mut State, action: Action) -> Option<Event> {
        let late = self.mistake == Mistake::JournalWrittenAfterTheClaim;
        let agent = state.agent.as_mut()?;
        match action {
            Action::Record(record) => write(state, [record]),
            Action::Claim(records) if late => {
                state.unwritten = Some(Shown::new(records));
                return Some(Event::Claimed(Ok(())));
            }
            Action::Claim(records) => {
                write(state, records);
                return Some(Event::Claimed(Ok(())));
            }
            Action::Report(event) => state.ended |= event.entry.status == Status::Terminated,
            Action::TakeSlot => return Some(Event::SlotTaken(self.take_slot(state))),
            Action::TakeSandbox => return Some(Event::SandboxTaken(None)),
            Action::MakePlace(_) => return Some(Event::PlaceMade(make_place(state))),
            Action::Start { place, .. } => agent.starting = Some((index(place.slot), false)),
            Action::StopStart => {
                let may_exist = agent.starting.take().is_none_or(|(_, asked)| asked);
                return Some(Event::StartStopped { may_exist });
            }
            Action::DropStart => agent.starting = None,
            Action::GiveSession(_) if agent.line.is_none() => return Some(Event::SessionSent(false)),
            // The lease may end, and the agent fall, before it is written.
            Action::GiveSession(_) => agent.sending = agent.line,
            Action::Signal { .. } => {
                let line = agent.line.filter(|at| state.slots[*at].line == Line::Up);
                line.iter().for_each(|at| state.slots[*at].stop = true);
                return Some(Event::SignalSent(line.is_some()));
            }
            Action::Tell(ToInit::Stop { .. }) => {
                agent.line.iter().for_each(|at| state.slots[*at].stop = true)
            }
            Action::DropLine => drop_line(state),
            Action::LetGo(place) => state.slots[index(place.slot)].is_left = true,
            Action::GiveBack(parting) => {
                parting.place.iter().for_each(|place| state.slots[index(place.slot)].is_left = true);
                drop_line(state);
            }
            Action::Call(slot, call) => agent.calls.extend(slot.and_then(|slot| asked(index(slot), &call))),
            // What others are shown or told changes nothing here.
            Action::Show(_)
            | Action::Tidy { .. }
            | Action::Tell(_)
            | Action::Push(..)
            | Action::PushStage { .. }
            | Action::LetIn { .. }
            | Action::TellProxies(_)
            | Action::Close(_)
            | Action::InitCame
            | Action::NameContainer(..)
            | Action::Took(_)
            | Action::Bury(_)
            | Action::Unlist => {}
        }
        None
    }

    fn take_slot(&self, state: &mut State) -> Result<Box<TakenSlot>, String> {
        let ready = state.slots.iter().position(|slot| slot.is_ready && slot.line == Line::Up);
        let at = ready.ok_or_else(|| "no slot was ready".to_owned())?;
        (state.slots[at].is_ready, state.slots[at].is_used) = (false, true);
        drop_line(state);
        if let Some(agent) = &mut state.agent {
            agent.line = Some(at);
        }
        let (slot, hello) = (slot_id(at), Some(self.hello(at, &state.slots[at])));
        let (tier, why) = (Tier::Parked, String::new());
        Ok(Box::new(TakenSlot { slot, address: address(at), tier, image: image(), hello, why }))
    }

    /// The engine's part of a start goes on.
    pub fn progress(&self, state: &mut State, progress: Progress) {
        if self.goes_on(state) {
            self.drive(state, Event::Progressed(progress));
        }
    }

    /// The engine is asked for a container, with a line for its init.
    pub fn ask_engine(&self, state: &mut State, at: usize) {
        if let Some(agent) = &mut state.agent {
            (agent.line, agent.starting) = (Some(at), Some((at, true)));
        }
        state.slots[at].container = Container::Asked;
        self.drive(state, Event::LineOpened);
        self.progress(state, Progress::Image(image()));
    }

    /// It runs by now, or has ended.
    pub fn started(&self, state: &mut State, at: usize) {
        let (stage, start) = (StageName::Started, UnixMicros(1_000_000));
        let stage = Stage { stage, start, length_us: 0, note: String::new() };
        if let Some(agent) = &mut state.agent {
            agent.starting = None;
        }
        let has_ended = state.slots[at].container == Container::Gone;
        let started = Progress::Started(address(at).into(), stage);
        self.progress(state, if has_ended { Progress::Ended } else { started });
    }

    /// An answer, which counts where the backend still has that slot.
    pub fn answer(&self, state: &mut State, at: usize, asked: Asked) {
        let Some(agent) = &mut state.agent else { return };
        agent.calls.remove(&(at, asked));
        let is_current = agent.core.as_ref().is_some_and(|core| core.value.slot() == Some(slot_id(at)));
        if let Asked::Finish(How::Remove) = asked {
            state.slots[at].remove();
        }
        if !is_current {
            return;
        }
        let status = state.slots[at].status();
        match asked {
            Asked::Look => self.drive(state, Event::Done(Done::Looked(Ok(status)))),
            Asked::Signal => self.drive(state, Event::Done(Done::Signalled(Ok(())))),
            Asked::OpenLine => {
                agent.line = Some(at);
                self.drive(state, Event::LineOpened);
            }
            Asked::Finish(_) | Asked::Again => self.gone(state, status),
        }
    }

    pub fn gone(&self, state: &mut State, status: ContainerStatus) {
        self.drive(state, Event::Done(Done::Gone { status, output: String::new(), was_cut_off: false }));
    }

    pub fn heard(&self, state: &mut State, message: FromInit) {
        if let Some(records) = state.unwritten.take() {
            write(state, records.value.as_ref().clone());
        }
        self.drive(state, Event::Heard(LineEvent::Message(message)));
    }
}

fn is_free(state: &State, core: &Core) -> bool {
    core.status() != Status::Terminated && state.agent.as_ref().is_some_and(|agent| agent.sending.is_none())
}

fn write(state: &mut State, records: impl IntoIterator<Item = Record>) {
    let mut journal = state.journal.value.as_ref().clone();
    records.into_iter().for_each(|record| journal.apply(record));
    state.journal = Shown::new(journal);
}

fn make_place(state: &mut State) -> Result<Place, (EndReason, String)> {
    let fresh = state.slots.iter().position(|slot| slot.container == Container::Absent && !slot.is_used);
    let at = fresh.ok_or_else(|| (EndReason::CreateFailed, "no address is left".to_owned()))?;
    state.slots[at].is_used = true;
    let place = Place { slot: slot_id(at), address: address(at), sandbox: None };
    let (slot, address, tier) = (place.slot, place.address, Some(place.tier()));
    write(state, [Record::Slot { slot, address, sandbox: None, tier }]);
    Ok(place)
}

/// Its socket goes, and with it what was not read.
fn drop_line(state: &mut State) {
    let line = state.agent.as_mut().and_then(|agent| agent.line.take());
    line.iter().for_each(|at| state.slots[*at].cut());
}

fn asked(at: usize, call: &Call) -> Option<(usize, Asked)> {
    let asked = match call {
        Call::Look => Asked::Look,
        Call::Signal(_) => Asked::Signal,
        Call::OpenLine { .. } => Asked::OpenLine,
        Call::Finish { how: Finish::Kill, .. } => Asked::Finish(How::Kill),
        Call::Finish { how: Finish::Await, .. } => Asked::Finish(How::Await),
        Call::Finish { how: Finish::Remove, .. } => Asked::Finish(How::Remove),
        Call::GoneLater { .. } => Asked::Again,
        Call::AwaitPort(_) | Call::AwaitHttp(..) | Call::TellApplication { .. } => return None,
    };
    Some((at, asked))
}
