//! The task that owns one backend: its state, and the one loop in which everything that can happen to it arrives.
//!
//! What each thing means is in the sibling modules; here is only where it comes from and which clocks run.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use jetway_protocol::drone_api::PutBackend;
use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, GrantId, ProxyId};
use jetway_protocol::state::BackendState;
use jetway_protocol::status::{EndReason, Status, StatusEntry, TerminationKind};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;
use jetway_protocol::warm::Tier;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::doors::Waiting;
use super::engine::{Done, Finish, Job};
use super::line::Line;
use super::start::Starting;
use super::{Backend, COMMANDS_MAX, Command, Snapshot};
use crate::admission::Reservation;
use crate::agent::Agent;
use crate::grants::Grants;
use crate::idle::{Idle, Verdict};
use crate::journal::{Journal, Place, Record, Remembered};
use crate::lease::{self, Tenure};
use crate::runtime::Image;

pub struct Actor {
    pub(super) agent: Arc<Agent>,
    pub(super) id: BackendId,
    pub(super) put: Box<PutBackend>,
    pub(super) outward: watch::Sender<Snapshot>,
    pub(super) journal: Journal,
    /// `None`: nothing stops it for want of a lease.
    pub(super) tenure: Option<Tenure>,
    pub(super) nudges: watch::Receiver<u64>,

    pub(super) state: BackendState,
    pub(super) history: Vec<StatusEntry>,
    pub(super) timeline: Vec<Stage>,
    pub(super) was_ready: bool,
    /// What a controller had stored when this task began.
    pub(super) acknowledged: Option<Status>,

    pub(super) grants: Grants,
    pub(super) idle: Idle,
    pub(super) waiting: Vec<Waiting>,
    /// Proxies that may know the address.
    pub(super) told: HashSet<ProxyId>,
    /// An agent before this one may have told others.
    pub(super) adopted: bool,

    pub(super) place: Option<Place>,
    pub(super) tier: Tier,
    /// Why nothing faster served it.
    pub(super) why: Vec<String>,
    /// What the journal gets together with the claim.
    pub(super) unwritten: Vec<Record>,
    /// Slots that died under their claims.
    pub(super) slots_lost: u32,
    pub(super) image: Option<Image>,
    pub(super) address: Option<SocketAddr>,
    pub(super) starting: Option<Starting>,
    /// When it was put, or found by this agent.
    pub(super) begun: Instant,
    pub(super) line: Line,
    pub(super) claim: Claim,
    pub(super) nonce: Option<String>,
    /// When the stage that is under way began.
    pub(super) stage_start: UnixMicros,
    pub(super) listening_elsewhere: Vec<SocketAddr>,
    /// As init said it.
    pub(super) exit_code: Option<i32>,

    pub(super) clocks: Clocks,
    pub(super) jobs: FuturesUnordered<Job>,
    pub(super) finish: Option<Finish>,
    /// What went wrong, where the end is not a stop.
    pub(super) failure: Option<(EndReason, String)>,
    /// The stop signal went out.
    pub(super) signalled: bool,

    commands: mpsc::Receiver<Command>,
    kill: CancellationToken,
    killed: bool,
    _reservation: Reservation,
}

/// How far the application is bound to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// Nothing runs for this backend yet; whatever container there is may be thrown away.
    Parked,
    /// The session was handed over; init has not said that the application runs.
    Given,
    Running,
}

/// When to do something if nothing else happens first.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Clocks {
    pub start: Option<Instant>,
    pub lifetime: Option<Instant>,
    pub grace: Option<Instant>,
    /// The stop signal goes through the engine if init is not back on the line by then.
    pub signal: Option<Instant>,
    pub look: Option<Instant>,
    /// The session is handed over as soon as the lease admits it.
    pub claim: Option<Instant>,
    pub open_line: Option<Instant>,
}

/// Begins a backend that fits: the journal has it before this returns. `tenure`: where it is under the lease.
pub fn put(
    agent: &Arc<Agent>,
    id: BackendId,
    put: PutBackend,
    reservation: Reservation,
    tenure: Option<Tenure>,
) -> std::io::Result<Arc<Backend>> {
    let at = UnixMicros::now();
    let entry = StatusEntry { status: Status::Scheduled, at, end: None };
    let mut first = vec![
        Record::Put { id: id.clone(), at, put: Box::new(put.clone()), boot_id: Some(agent.boot_id) },
        Record::Status { entry, state: BackendState::Scheduled },
    ];
    if put.spec.use_static_token {
        let grant = Grant {
            id: GrantId::STATIC,
            user: None,
            auth: "{}".to_owned(),
            secret: String::new(),
            allowed_origins: Vec::new(),
        };
        first.push(Record::Grant { grant, at });
    }
    first.extend(put.grant.clone().map(|grant| Record::Grant { grant, at }));
    let journal = agent.journals.create(&id, &first)?;

    let mut records = first.into_iter();
    let remembered = records.next().and_then(Remembered::first);
    let mut remembered = remembered.ok_or(std::io::ErrorKind::InvalidData)?;
    records.for_each(|record| remembered.apply(record));
    Ok(spawn(agent, remembered, journal, Held { reservation, tenure }, Actor::begin))
}

/// Takes over a backend that the agent before this one had.
pub fn adopt(agent: &Arc<Agent>, remembered: Remembered, journal: Journal) -> Arc<Backend> {
    let reservation = agent.admission.adopt(&remembered.put.spec.executable);
    // Before anybody is served: neither may its address be given away, nor its container be taken for nobody's.
    if let Some(Place { slot, address, sandbox }) = remembered.place {
        agent.slots.insert(slot, remembered.id.clone());
        sandbox.map(|sandbox| agent.sandboxes.insert(sandbox, remembered.id.clone()));
        agent.addresses().mark_taken(address);
    }
    let tenure = lease::is_for(&remembered.put).then_some(Tenure::FOUND);
    let is_of_this_boot = remembered.boot_id.is_none_or(|boot_id| boot_id == agent.boot_id);
    let first = if is_of_this_boot { Actor::resume } else { Actor::resume_after_a_boot };
    spawn(agent, remembered, journal, Held { reservation, tenure }, first)
}

/// What a backend has of its agent's.
struct Held {
    reservation: Reservation,
    tenure: Option<Tenure>,
}

fn spawn(
    agent: &Arc<Agent>,
    remembered: Remembered,
    journal: Journal,
    held: Held,
    first: impl FnOnce(&mut Actor) + Send + 'static,
) -> Arc<Backend> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let kill = CancellationToken::new();
    let snapshot = Snapshot {
        state: remembered.state.clone(),
        history: remembered.history.clone(),
        timeline: remembered.timeline.clone(),
    };
    let outward = watch::Sender::new(snapshot);
    let backend = Arc::new(Backend {
        id: remembered.id.clone(),
        fencing_token: remembered.put.fencing_token,
        key: remembered.put.key.clone(),
        image: remembered.put.spec.executable.image.clone(),
        ports: remembered.put.spec.executable.all_ports(),
        tenure: held.tenure,
        commands: sender,
        kill: kill.clone(),
        outward: outward.subscribe(),
    });
    agent.backends.insert(backend.id.clone(), backend.clone());
    let mut actor = Actor::new(agent.clone(), remembered, journal, held, outward, commands, kill);
    actor.tell_what_is_unacknowledged(&backend.snapshot());
    agent.arrivals.send_modify(|count| *count += 1);
    // An agent's stop is no end of a session: the task is dropped where it stands, and the next agent adopts.
    agent.lifecycle.spawn_until_stopped(async move {
        first(&mut actor);
        actor.run().await;
    });
    backend
}

impl Actor {
    fn new(
        agent: Arc<Agent>,
        remembered: Remembered,
        journal: Journal,
        held: Held,
        outward: watch::Sender<Snapshot>,
        commands: mpsc::Receiver<Command>,
        kill: CancellationToken,
    ) -> Self {
        let lifetime = remembered.put.spec.lifetime_limit_seconds.map(|limit| {
            // Wall-clock stamps only say how much of it has passed; the deadline itself is this process's time.
            let passed = Duration::from_micros(UnixMicros::now().since(remembered.put_at));
            Instant::now() + Duration::from_secs(limit.into()).saturating_sub(passed)
        });
        Self {
            nudges: agent.lease.nudges(),
            tenure: held.tenure,
            agent,
            id: remembered.id,
            idle: Idle::new(&remembered.put.spec),
            put: remembered.put,
            outward,
            journal,
            state: remembered.state,
            was_ready: remembered.history.iter().any(|entry| entry.status == Status::Ready),
            history: remembered.history,
            acknowledged: remembered.acknowledged,
            timeline: remembered.timeline,
            grants: remembered.grants,
            waiting: Vec::new(),
            told: HashSet::new(),
            adopted: false,
            place: remembered.place,
            tier: remembered.tier,
            why: Vec::new(),
            unwritten: Vec::new(),
            slots_lost: 0,
            image: remembered.image,
            address: None,
            starting: None,
            begun: Instant::now(),
            line: Line::default(),
            claim: Claim::Parked,
            nonce: remembered.nonce,
            stage_start: UnixMicros::now(),
            listening_elsewhere: Vec::new(),
            exit_code: None,
            clocks: Clocks { lifetime, ..Clocks::default() },
            jobs: FuturesUnordered::new(),
            finish: None,
            failure: None,
            signalled: false,
            commands,
            kill,
            killed: false,
            _reservation: held.reservation,
        }
    }

    async fn run(mut self) {
        while self.status() != Status::Terminated {
            self.watch_clocks();
            if self.status() == Status::Terminated {
                return;
            }
            let wake = self.next_wake();
            tokio::select! {
                () = self.kill.cancelled(), if !self.killed => {
                    self.killed = true;
                    self.stop(TerminationKind::Hard, EndReason::External);
                }
                Ok(()) = self.nudges.changed(), if self.tenure.is_some() => self.nudged(),
                // The agent may have been paused in this wait: the lease is looked at before anything is done.
                Some(command) = self.commands.recv() => if self.may_go_on() { self.command(command) },
                event = self.line.next() => if self.may_go_on() { self.heard(event) },
                progress = Starting::next(&mut self.starting) => {
                    if self.may_go_on() { self.progressed(progress) }
                }
                Some(done) = self.jobs.next() => if self.may_go_on() { self.done(done) },
                () = sleep_until(wake) => {}
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::AddGrant { grant, reply } => drop(reply.send(self.add_grant(grant))),
            Command::Revoke { user, reply } => drop(reply.send(self.revoke(&user))),
            Command::Stop { kind, reason, reply } => {
                self.stop(kind, reason);
                drop(reply.send(self.view()));
            }
            Command::View { reply } => drop(reply.send(self.view())),
            Command::Ask(asking) => self.ask(asking),
            Command::Follow { stream, ask } => self.follow(&stream, ask),
            Command::Forget { stream, ask } => self.forget(&stream, ask),
            Command::Uses { stream, uses, connections } => self.uses(&stream, uses, connections),
            Command::StreamLost { stream, closed_at } => self.stream_lost(&stream, closed_at),
            Command::FirstByte(stage) => self.first_byte(stage),
            Command::Look => self.clocks.look = Some(Instant::now()),
        }
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Gone { status, output } => self.gone(status, output),
            Done::Looked(found) => self.looked(found),
            Done::Signalled(sent) => self.signal_sent(sent),
            Done::LineOpened(line) => self.line_opened(line),
            Done::Reachable => self.became_ready(),
            Done::Told(answer) => self.was_told(answer),
        }
    }

    fn watch_clocks(&mut self) {
        let now = Instant::now();
        self.watch_lease();
        self.give_up_waiting(now);
        if self.status() == Status::Ready && self.idle.verdict(now) == Verdict::Due {
            // Nothing is awaited between here and the write to init's line.
            self.stop(TerminationKind::Soft, EndReason::Idle);
        }
        if due(&mut self.clocks.lifetime, now) {
            self.stop(TerminationKind::Soft, EndReason::Lifetime);
        }
        if due(&mut self.clocks.start, now) {
            self.start_timed_out();
        }
        if due(&mut self.clocks.signal, now) {
            self.signal_through_the_engine();
        }
        if due(&mut self.clocks.grace, now) {
            self.stop(TerminationKind::Hard, EndReason::External);
        }
        if due(&mut self.clocks.look, now) {
            self.look();
        }
        if due(&mut self.clocks.claim, now) {
            self.claim_if_possible();
        }
        if due(&mut self.clocks.open_line, now) {
            self.open_line();
        }
    }

    fn next_wake(&mut self) -> Option<Instant> {
        let Clocks { start, lifetime, grace, signal, look, claim, open_line } = self.clocks;
        let idle = match self.idle.verdict(Instant::now()) {
            Verdict::Wait(until) if self.status() == Status::Ready => until,
            _ => None,
        };
        let asks = self.waiting.iter().filter_map(|waiting| waiting.until).min();
        let lease = self.lease_changes_at();
        [start, lifetime, grace, signal, look, claim, open_line, idle, asks, lease]
            .into_iter()
            .flatten()
            .min()
    }
}

/// Takes the clock away when it has run out.
fn due(clock: &mut Option<Instant>, now: Instant) -> bool {
    clock.take_if(|at| *at <= now).is_some()
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => tokio::time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}
