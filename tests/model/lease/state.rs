//! The state of the lease model: the drone with its file and init, its row in Postgres, the controllers' watches, the messages.

use std::collections::BTreeSet;

use jetway_protocol::ids::Term;
use jetway_protocol::lease::{
    Deadline, DroneLease, Evidence, Holding, LastWord, LeaseTerms, Seat, Watches, released,
};
use jetway_protocol::spec::OnIsolation;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    pub seat: Seat,
    pub terms: LeaseTerms,
    /// The end of the lease gave the drone this term.
    pub over: Option<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    Register { sent_at: u8, replaces: Seat },
    Renew { sent_at: u8, seat: Seat, terms: LeaseTerms },
    Registered { sent_at: u8, term: Term },
    Renewed { sent_at: u8, term: Term },
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Controller {
    pub watches: Watches,
    /// An answer of Postgres that has not been looked at, and when it was asked for.
    pub answer: Option<(Row, u32, u8)>,
    pub expired: Option<(Seat, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub tick: u8,
    pub lease: DroneLease,
    pub file: Option<Deadline>,
    pub init: LastWord,
    /// In which term the session was placed.
    pub placed: Term,
    /// The session on the drone, and the one that was started elsewhere for the same key.
    pub lives: bool,
    pub elsewhere: bool,
    pub network: BTreeSet<Message>,
    pub row: Row,
    /// What the row was before its last commits, newest first.
    pub before: Vec<Row>,
    pub timeline: u32,
    pub controllers: [Controller; 2],
    pub sends: u8,
    pub crashes: u8,
    pub copies: u8,
    pub losses: u8,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Tick,
    Register,
    Renew,
    RenewUnderTheSameNumber,
    Deliver(Message),
    DeliverACopy(Message),
    AgentRestarts,
    PostgresLosesItsLastCommits(usize),
    Read(usize),
    /// Postgres took two ticks to answer.
    ReadSlowly(usize),
    Look(usize),
    EndLease(usize),
    StartElsewhere,
    StartAgain,
}

impl State {
    pub fn commit(&mut self, row: Row) {
        self.before.insert(0, std::mem::replace(&mut self.row, row));
        self.before.truncate(usize::from(self.losses));
    }

    pub fn key_is_free(&self) -> bool {
        let held = Holding {
            row_term: self.placed,
            drone_term: self.row.seat.term,
            on_isolation: OnIsolation::Stop,
            acknowledged: true,
            puts_sent: 1,
            put_off: 0,
        };
        self.row.over.is_some_and(|term| released(&held, Evidence::LeaseOver { term }))
    }
}
