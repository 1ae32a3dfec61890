//! What the core is told, and what it wants done: the words between it and the loop.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jetway_protocol::attach::{Entry, Stage as HowFar, ToProxy};
use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::grant::Grant;
use jetway_protocol::hint::Hint;
use jetway_protocol::ids::{BackendId, GrantId, ProxyId, SlotId};
use jetway_protocol::init::{Hello, Session, ToInit};
use jetway_protocol::key::Key;
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{End, EndReason, StatusEntry, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
use jetway_protocol::warm::Tier;
use tokio::time::Instant;

use crate::books::streams::Stream;
use crate::lease::LeaseNow;
use crate::runtime::{ContainerStatus, Image, LineEvent, RuntimeError};
use crate::store::journal::{Place, Record, Tombstone};
use crate::warm::Sandbox;

/// What anybody may see at any time without asking.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub state: BackendState,
    pub history: Vec<StatusEntry>,
    pub timeline: Vec<Stage>,
    /// What holds the start up.
    pub hint: Option<Hint>,
}

/// The moment of an event: what the core cannot read itself.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    /// For stamps alone.
    pub wall: UnixMicros,
    /// `None`: the backend is not under the lease.
    pub lease: Option<LeaseNow>,
}

#[derive(Debug)]
pub enum Event {
    /// The backend was put just now.
    Begin,
    /// An agent's start found it in its journal; proxies have until then to say what they have
    /// open.
    Resume {
        proxies_back_by: Instant,
    },
    /// The same, and its host was booted since.
    ResumeAfterBoot,

    /// Some clock may have run out. One thing is done at a time: without an action, nothing is due.
    Time,
    /// The lease is looked at before anything else is done.
    LookAtLease,
    /// The lease's deadline may have come nearer.
    Nudged,

    Stop {
        kind: TerminationKind,
        reason: EndReason,
    },
    /// Of grants, and of who is let in.
    Door(Door),
    /// A proxy says this on its stream.
    Proxy {
        word: ProxyWord,
        /// The proxy has a newer stream.
        is_outdated: bool,
    },
    FirstByte(Stage),
    /// The container may have changed.
    Look,

    Heard(LineEvent),
    /// The runtime gave the line to init up.
    LineLost,
    Progressed(Progress),
    /// There is a line for init to come to.
    LineOpened,
    Done(Done),

    /// To [`Action::TakeSlot`]: or why none was ready.
    SlotTaken(Result<Box<TakenSlot>, String>),
    /// To [`Action::TakeSandbox`].
    SandboxTaken(Option<Sandbox>),
    /// To [`Action::MakePlace`]: the journal has it, or why the start fails.
    PlaceMade(Result<Place, (EndReason, String)>),
    /// To [`Action::Claim`]: the journal has the claim, or why not.
    Claimed(Result<(), String>),
    /// To [`Action::GiveSession`]: false, and nothing went out.
    SessionSent(bool),
    /// To [`Action::Signal`]: false, and nothing went out.
    SignalSent(bool),
    /// To [`Action::StopStart`]: whether a container may be there or come.
    StartStopped {
        may_exist: bool,
    },
}

/// What happens at a backend's door.
#[derive(Debug)]
pub enum Door {
    /// The journal has this grant.
    GrantWritten(Coming),
    /// A connect gave out this grant.
    Connected(GrantId),
    Revoke(Vec<GrantId>),
    /// To [`Action::LetIn`].
    LetIn {
        proxy: ProxyId,
        grant: GrantId,
        was_sent: bool,
        is_a_persons: bool,
    },
    /// To [`Action::Tidy`], and only where there is more to tidy.
    MoreToTidy {
        again: Duration,
    },
}

/// A proxy's question, and where its answer goes.
#[derive(Debug, Clone)]
pub struct Asking {
    pub stream: Arc<Stream>,
    pub ask: u64,
    pub grant: GrantId,
}

/// What a proxy says of one backend.
#[derive(Debug)]
pub enum ProxyWord {
    Ask(Asking),
    /// It wants to hear how far the start is that this ask waits for.
    Follow {
        stream: Arc<Stream>,
        ask: u64,
    },
    /// The ask's client has gone.
    Forget {
        stream: Arc<Stream>,
        ask: u64,
    },
    /// What it has open, as of now.
    Uses {
        stream: Arc<Stream>,
        uses: u32,
        connections: u32,
    },
    /// Its stream is lost; what it has open counts as closed then.
    StreamLost {
        stream: Arc<Stream>,
        closed_at: Instant,
    },
}

impl ProxyWord {
    pub fn stream(&self) -> &Stream {
        match self {
            Self::Ask(asking) => &asking.stream,
            Self::Follow { stream, .. }
            | Self::Forget { stream, .. }
            | Self::Uses { stream, .. }
            | Self::StreamLost { stream, .. } => stream,
        }
    }
}

/// A grant on its way into the journal, and those that make room for it.
#[derive(Debug)]
pub struct Coming {
    pub grant: Grant,
    pub at: UnixMicros,
    pub going: Vec<GrantId>,
}

/// A slot that was ready, without its line.
#[derive(Debug)]
pub struct TakenSlot {
    pub slot: SlotId,
    pub address: Ipv4Addr,
    pub tier: Tier,
    pub image: Image,
    /// `None` while its init is not on the line.
    pub hello: Option<Hello>,
    /// Why it was not a faster one, where there could have been one.
    pub why: String,
}

/// What the engine's part of a start reports.
#[derive(Debug)]
pub enum Progress {
    Image(Image),
    Created(Stage),
    Started(IpAddr, Stage),
    /// It ran and has ended, while the engine could not be reached.
    Ended,
    /// The engine was lost over its start, and knows nothing of it: it may run or not.
    Forgotten,
    /// The namespace is gone; nothing has run.
    SandboxGone,
    Failed(EndReason, String),
    /// The engine could not be reached for as long as a start may take.
    Unreachable(String),
    /// The task ended without a word: nothing more will come.
    Over {
        /// An agent that stops drops its tasks in any order: then this one is no news.
        agent_stops: bool,
    },
}

/// What a [`Call`] about the present slot ended in.
#[derive(Debug)]
pub enum Done {
    /// Not running, for certain. What is left of it is to be removed.
    Gone {
        status: ContainerStatus,
        output: String,
        /// Its sandbox died, and the drone ended it for that.
        was_cut_off: bool,
    },
    Looked(Result<ContainerStatus, RuntimeError>),
    /// The stop signal went out through the engine.
    Signalled(Result<(), RuntimeError>),
    LineNotOpened(RuntimeError),
    /// The backend's own check, from the host, says that it is ready.
    Reachable,
    /// What a hot application said when it was told of its session.
    Told(Result<(), (EndReason, String)>),
}

/// What the loop is to do, in order. To a question, an event with the answer follows before the
/// next action is carried out.
#[derive(Debug, Clone)]
pub enum Action {
    /// Append to the journal. One that cannot be written does not end a session: it only will not
    /// be adopted as it is.
    Record(Record),
    /// Show this to all who look at the backend.
    Show(Box<Snapshot>),
    /// Tell listeners and controllers of a status.
    Report(Box<BackendEvent>),
    /// Write the grants' records anew where most are of grants that are gone.
    Tidy {
        /// When to go on, where there is more to do.
        again: Duration,
    },

    /// Write this on init's line, as far as it takes it.
    Tell(ToInit),
    /// A question: write the stop signal on init's line.
    Signal {
        signal: i32,
        grace_ms: u64,
    },
    /// A question: append the claim and all that the journal gets with it, in one write.
    Claim(Vec<Record>),
    /// A question: write the session on init's line.
    GiveSession(Box<Session>),
    /// No word of that line counts any more.
    DropLine,

    Push(Arc<Stream>, ToProxy),
    /// How far the start is; what starts of its image usually take is added.
    PushStage {
        stream: Arc<Stream>,
        ask: u64,
        stage: HowFar,
    },
    /// A question: answer this ask with "ready".
    LetIn {
        asking: Asking,
        entry: Box<Entry>,
        /// A page has shown a person how far the start is.
        is_a_persons: bool,
    },
    /// All proxies that may know the address.
    TellProxies(ToProxy),
    Close(Arc<Stream>),

    /// A question: take a slot that is ready.
    TakeSlot,
    /// A question: take a namespace that was made ahead.
    TakeSandbox,
    /// A question: choose a new slot in this namespace, or at an address of its own, and write it
    /// in the journal.
    MakePlace(Option<Sandbox>),
    /// Have the engine make and start a container there.
    Start {
        place: Place,
        /// An engine that cannot be reached is waited for until then.
        give_up: Instant,
    },
    /// The start that is under way has an init on the line.
    InitCame,
    /// A question: stop the start that is under way.
    StopStart,
    /// The start is over, or nothing that it reports counts any more.
    DropStart,
    /// Nothing of the session ran there: remove what there is.
    LetGo(Place),
    /// A call about this slot.
    Call(Option<SlotId>, Call),
    /// For people who look at the engine's list.
    NameContainer(SlotId, Key),
    /// What a start has taken.
    Took(Duration),

    /// Before the end is known anywhere: a late PUT must find it.
    Bury(Box<Tombstone>),
    /// The backend is no backend of this drone any more.
    Unlist,
    /// Tell all proxies that may know the address of the end, and give back what the backend had.
    GiveBack(Box<Parting>),
}

/// What is left when a backend has ended.
#[derive(Debug, Clone)]
pub struct Parting {
    pub end: End,
    pub place: Option<Place>,
    /// Something is left of its container.
    pub is_there: bool,
    /// Where an application was executed, so that there may be output to keep.
    pub session: Option<BackendId>,
}

/// What is asked of engine, host or application without waiting for it. The answer is a [`Done`].
#[derive(Debug, Clone)]
pub enum Call {
    Look,
    Signal(i32),
    /// `nonce`: of the init that was claimed, if one was.
    OpenLine {
        nonce: Option<String>,
    },
    Finish {
        how: Finish,
        want_output: bool,
    },
    /// The same answer once more: it was not certain.
    GoneLater {
        status: ContainerStatus,
        output: String,
    },
    AwaitPort(SocketAddr),
    AwaitHttp(SocketAddr, String),
    /// Tell a hot application of its session.
    TellApplication {
        address: SocketAddr,
        path: String,
        session: Bytes,
        patience: Duration,
    },
}

pub const SIGKILL: i32 = 9;

/// How an end is brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// SIGKILL now.
    Kill,
    /// It is about to exit by itself; SIGKILL when it does not.
    Await,
    /// It never ran: remove whatever there is.
    Remove,
}
