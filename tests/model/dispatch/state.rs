//! The state of the dispatch model: rows and seats in Postgres, the two drones, the messages on their way.

use std::collections::BTreeSet;

use jetway_protocol::ids::Term;
use jetway_protocol::lease::{Below, Evidence, Holding, released};
use jetway_protocol::spec::OnIsolation;

/// Who sent a `PUT`: the connect that made the row, or whoever repeats it after a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sender {
    Connect,
    Reconciler,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    Refused,
    Gone,
    LeaseOver,
    NewBoot,
    Superseded,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub drone: usize,
    pub term: Term,
    pub acknowledged: bool,
    /// One, or more; what was put off is not among them.
    pub puts: u32,
    pub put_off: bool,
    pub sender: Sender,
    pub ended: Option<Why>,
}

/// A drone's row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    pub term: Term,
    pub is_over: bool,
    /// The terms that the last end of its lease, and its last new boot, began.
    pub over: Option<Term>,
    pub boot: Option<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Agent {
    pub term: Option<Term>,
    /// Its lease has run out; what it held is gone.
    pub lapsed: bool,
    pub booted: bool,
    /// Ids, a bit each.
    pub running: u8,
    pub tombstones: u8,
    /// Refused for good before it had a term; forgotten when it falls.
    pub declined: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Put {
    pub id: u8,
    pub drone: usize,
    pub term: Term,
    pub by: Sender,
    pub or_never: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    Put(Put),
    Answer {
        id: u8,
        by: Sender,
        taken: bool,
    },
    /// `unavailable`, to the connect.
    PutOff {
        id: u8,
    },
    Delete {
        id: u8,
        drone: usize,
        term: Term,
    },
    Gone {
        id: u8,
        term: Term,
    },
    Inventory {
        drone: usize,
        term: Term,
        running: u8,
    },
    Registered {
        drone: usize,
        term: Term,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    Register,
    Restart,
    Reboot,
    /// Its lease runs out: what holds keys is ended.
    Lapse,
    /// A renewal in its present term.
    Renewed,
    /// A controller has watched for long enough.
    LeaseOver,
    Ends(u8),
    ReportsAgain(u8),
    TakesInventory,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Connect(usize),
    TimesOut(u8),
    PutAgain(u8),
    Delete(u8),
    EndForItsDrone(u8),
    Deliver(Message),
    Refuse(Message),
    DeliverACopy(Message),
    RefuseACopy(Message),
    Lose(Message),
    OfDrone(usize, Step),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub rows: Vec<Row>,
    pub seats: [Seat; 2],
    pub agents: [Agent; 2],
    pub network: BTreeSet<Message>,
    pub copies: u8,
    pub restarts: u8,
    pub lapses: u8,
    pub reboots: u8,
    /// Times that a drone says so when it takes nothing; beyond that it says nothing.
    pub put_offs: u8,
}

impl State {
    pub fn new(copies: u8, restarts: u8, lapses: u8, reboots: u8, put_offs: u8) -> Self {
        let seat = Seat { term: Term(1), is_over: false, over: None, boot: None };
        let agent = Agent {
            term: Some(Term(1)),
            lapsed: false,
            booted: false,
            running: 0,
            tombstones: 0,
            declined: 0,
        };
        Self {
            rows: Vec::new(),
            seats: [seat.clone(), seat],
            agents: [agent.clone(), agent],
            network: BTreeSet::new(),
            copies,
            restarts,
            lapses,
            reboots,
            put_offs,
        }
    }

    pub fn send(&mut self, message: Message) {
        self.network.insert(message);
    }

    pub fn processes(&self) -> u32 {
        self.agents.iter().map(|agent| agent.running.count_ones()).sum()
    }

    /// The row that has the key: the unique index allows one.
    pub fn live(&self) -> Option<u8> {
        let at = self.rows.iter().position(|row| row.ended.is_none())?;
        u8::try_from(at).ok()
    }

    pub fn holding(&self, id: u8) -> Holding {
        let row = &self.rows[usize::from(id)];
        Holding {
            row_term: row.term,
            drone_term: self.seats[row.drone].term,
            on_isolation: OnIsolation::Stop,
            acknowledged: row.acknowledged,
            puts_sent: row.puts,
            put_off: row.put_off.into(),
        }
    }

    pub fn below(&self, drone: usize) -> Below {
        let Seat { over, boot, .. } = self.seats[drone];
        Below { lease_over: over.unwrap_or(Term(0)), dead: boot.unwrap_or(Term(0)) }
    }

    pub fn end(&mut self, id: u8, evidence: Evidence, why: Why) {
        let may = released(&self.holding(id), evidence);
        let row = &mut self.rows[usize::from(id)];
        if may && row.ended.is_none() {
            row.ended = Some(why);
        }
    }

    /// What a reconciler does at any time with rows whose drone is known to have lost them.
    pub fn end_for_its_drone(&mut self, id: u8) {
        let seat = self.seats[self.rows[usize::from(id)].drone].clone();
        if let Some(term) = seat.over {
            self.end(id, Evidence::LeaseOver { term }, Why::LeaseOver);
        }
        if let Some(term) = seat.boot {
            self.end(id, Evidence::NewBoot { term }, Why::NewBoot);
        }
    }

    /// The reply to a registration begins a lease, unless it comes so late that this lease has been ended since: it counts from
    /// when the registration was sent.
    pub fn registered(&mut self, drone: usize, term: Term) {
        let (agent, seat) = (&mut self.agents[drone], &self.seats[drone]);
        if agent.term < Some(term) {
            agent.term = Some(term);
            agent.tombstones |= std::mem::take(&mut agent.declined);
            agent.lapsed = seat.over > Some(term);
        }
    }
}
