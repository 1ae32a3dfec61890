//! For tests of the core: a backend in some state, of which nothing runs. It answers the core's
//! questions as the loop would, and notes each action in a few words.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::{Outcome, ToProxy};
use jetway_protocol::ids::{GrantId, ProxyId, SlotId};
use jetway_protocol::init::{FromInit, Hello, SessionState, ToInit};
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::status::{End, EndReason, Status, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::warm::Tier;
use tokio::time::Instant;

use super::*;
use crate::books::streams::{Stream, Streams};
use crate::harness::put_of;
use crate::runtime::{ContainerStatus, LineEvent};

const NONCE: &str = "nonce";
pub const EXITED: ContainerStatus = ContainerStatus::Exited { code: 7, oom_killed: false };

pub struct Table {
    pub core: Core,
    pub now: Now,
    /// Slots that are ready.
    pub slots: u32,
    pub journal_writes: bool,
    pub line_writes: bool,
    pub may_exist: bool,
    streams: Streams,
    pub end: Option<End>,
}

impl Table {
    pub fn new(change: impl FnOnce(&mut BackendSpec)) -> Self {
        let wall = UnixMicros(1_000_000);
        let now = Now { instant: Instant::now(), wall, lease: None };
        let (id, put) = ("b".parse().unwrap(), Box::new(put_of(change)));
        let mut remembered = Remembered::first(Record::Put { id, at: wall, put, boot_id: None }).unwrap();
        let grant = crate::harness::grant(1);
        remembered.apply(Record::Grant { grant, at: wall });
        let core = Core::new(remembered, BootId::random(), Some(Tenure::FOUND), now);
        Self {
            core,
            now,
            slots: 1,
            journal_writes: true,
            line_writes: true,
            may_exist: true,
            streams: Streams::default(),
            end: None,
        }
    }

    /// One whose init has its session.
    pub fn given(change: impl FnOnce(&mut BackendSpec)) -> Self {
        let mut table = Self::new(change);
        table.on(Event::Begin);
        assert_eq!((table.core.status(), table.core.session.claim), (Status::Starting, Claim::Given));
        table
    }

    pub fn ready(change: impl FnOnce(&mut BackendSpec)) -> Self {
        let mut table = Self::given(change);
        table.says(FromInit::Started { backend: "b".parse().unwrap(), pid: 2 });
        table.says(FromInit::Ready {
            backend: "b".parse().unwrap(),
            address: "10.64.0.2:8080".parse().unwrap(),
        });
        assert_eq!(table.core.status(), Status::Ready);
        table
    }

    /// One whose container is being made.
    pub fn starting() -> Self {
        let mut table = Self::new(|_| {});
        table.slots = 0;
        table.on(Event::Begin);
        assert_eq!(table.core.status(), Status::Loading);
        table
    }

    /// What was done, in order.
    pub fn on(&mut self, event: Event) -> Vec<String> {
        let mut done = Vec::new();
        self.carry_out(event, &mut done);
        done
    }

    pub fn says(&mut self, message: FromInit) -> Vec<String> {
        self.on(Event::Heard(LineEvent::Message(message)))
    }

    /// The first thing that is due after so long.
    pub fn after(&mut self, seconds: u64) -> Vec<String> {
        self.now.instant += Duration::from_secs(seconds);
        self.on(Event::Time)
    }

    pub fn stop(&mut self, kind: TerminationKind) -> Vec<String> {
        self.on(Event::Stop { kind, reason: EndReason::External })
    }

    pub fn gone(&mut self, status: ContainerStatus) -> Vec<String> {
        self.on(Event::Done(Done::Gone { status, output: String::new(), was_cut_off: false }))
    }

    pub fn exits(&mut self) -> Vec<String> {
        self.says(FromInit::Exited { backend: "b".parse().unwrap(), code: Some(7), signal: None })
    }

    pub fn ask(&mut self) -> Arc<Stream> {
        let (stream, _) = self.streams.open(ProxyId::random(), ToProxy::Ping);
        let asking = Asking { stream: stream.clone(), ask: 1, grant: GrantId(1) };
        self.on(Event::Proxy { word: ProxyWord::Ask(asking), is_outdated: false });
        stream
    }

    /// The proxy's last connection has closed.
    pub fn closes(&mut self, stream: Arc<Stream>) {
        let word = ProxyWord::Uses { stream, uses: 0, connections: 0 };
        self.on(Event::Proxy { word, is_outdated: false });
    }

    fn carry_out(&mut self, event: Event, done: &mut Vec<String>) {
        for action in self.core.on(event, self.now) {
            done.extend(word(&action));
            if let Some(answer) = self.answer(action) {
                self.carry_out(answer, done);
            }
        }
    }

    fn answer(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::TakeSlot => {
                let is_ready = self.slots > 0;
                self.slots = self.slots.saturating_sub(1);
                let taken = is_ready.then(|| Box::new(taken())).ok_or("no slot was ready".to_owned());
                Some(Event::SlotTaken(taken))
            }
            Action::TakeSandbox => Some(Event::SandboxTaken(None)),
            Action::MakePlace(_) => {
                let address = "10.64.0.3".parse().unwrap();
                Some(Event::PlaceMade(Ok(Place { slot: SlotId::random(), address, sandbox: None })))
            }
            Action::Claim(_) => {
                let why = "the disk is full".to_owned();
                Some(Event::Claimed(self.journal_writes.then_some(()).ok_or(why)))
            }
            Action::GiveSession(_) => Some(Event::SessionSent(self.line_writes)),
            Action::Signal { .. } => Some(Event::SignalSent(self.line_writes)),
            Action::StopStart => Some(Event::StartStopped { may_exist: self.may_exist }),
            Action::LetIn { asking, is_a_persons, .. } => {
                let (proxy, grant) = (asking.stream.proxy, asking.grant);
                Some(Event::Door(Door::LetIn { proxy, grant, was_sent: true, is_a_persons }))
            }
            Action::GiveBack(parting) => {
                self.end = Some(parting.end);
                None
            }
            _ => None,
        }
    }
}

fn taken() -> TakenSlot {
    TakenSlot {
        slot: SlotId::random(),
        address: "10.64.0.2".parse().unwrap(),
        tier: Tier::Parked,
        image: Image {
            id: "sha".to_owned(),
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            user: String::new(),
            stop_signal: 15,
            pulled: None,
        },
        hello: Some(hello(None)),
        why: String::new(),
    }
}

pub fn hello(session: Option<SessionState>) -> Hello {
    let nonce = NONCE.to_owned();
    Hello { version: 1, nonce, boot_id: None, session, ahead: None, writes_ahead: true }
}

/// `None`: stages, and what only shows what the journal has.
fn word(action: &Action) -> Option<String> {
    Some(match action {
        Action::Record(Record::Status { entry, .. }) => format!("journal {}", entry.status),
        Action::Claim(_) => "journal claim".to_owned(),
        Action::Report(event) => format!("report {}", event.entry.status),
        Action::Tell(ToInit::Stop { signal, .. }) | Action::Signal { signal, .. } => {
            format!("signal {signal}")
        }
        Action::Tell(message) => format!("tell {message:?}"),
        Action::GiveSession(_) => "session".to_owned(),
        Action::TellProxies(ToProxy::Ending { reason, .. }) => match reason {
            Some(reason) => format!("ending {reason:?}"),
            None => "ending".to_owned(),
        },
        Action::Push(_, ToProxy::Answer { outcome, .. }) => match outcome {
            Outcome::Stopping { .. } => "answer stopping".to_owned(),
            Outcome::Ended { .. } => "answer ended".to_owned(),
            other => format!("answer {other:?}"),
        },
        Action::TakeSlot => "take slot".to_owned(),
        Action::LetGo(_) => "let go".to_owned(),
        Action::Start { .. } => "start".to_owned(),
        Action::StopStart => "stop start".to_owned(),
        Action::Call(_, Call::Finish { how, .. }) => format!("finish {how:?}"),
        Action::Call(_, Call::GoneLater { .. }) => "ask again".to_owned(),
        Action::Call(_, Call::Signal(signal)) => format!("engine signal {signal}"),
        Action::Call(_, Call::Look) => "look".to_owned(),
        Action::Bury(_) => "bury".to_owned(),
        Action::GiveBack(_) => "give back".to_owned(),
        Action::Record(_)
        | Action::Show(_)
        | Action::Tidy { .. }
        | Action::DropLine
        | Action::Push(..)
        | Action::PushStage { .. }
        | Action::LetIn { .. }
        | Action::TellProxies(..)
        | Action::Close(_)
        | Action::TakeSandbox
        | Action::MakePlace(_)
        | Action::InitCame
        | Action::DropStart
        | Action::Call(..)
        | Action::NameContainer(..)
        | Action::Took(_)
        | Action::Unlist => return None,
    })
}
