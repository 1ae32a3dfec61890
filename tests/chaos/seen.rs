//! What driver and clients saw, each with its time, for the checker. It judges nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::places::Part;
use crate::schedule::Fault;

/// Nanoseconds of CLOCK_BOOTTIME, as in the sessions' own files.
pub fn now() -> u64 {
    u64::try_from(jetway_service::clock::boot_time().as_nanos()).unwrap_or(u64::MAX)
}

pub const SECOND: u64 = 1_000_000_000;

/// A fault as it was: until what it hit answered again.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    pub fault: Fault,
    pub from: u64,
    pub to: u64,
}

/// What was committed between the two, no Postgres knows any more.
#[derive(Debug, Clone, Copy)]
pub struct LostCommits {
    pub from: u64,
    pub to: u64,
}

/// A WebSocket that the client did not close.
#[derive(Debug, Clone)]
pub struct Dropped {
    pub backend: String,
    pub proxy: u8,
    pub opened: u64,
    pub at: u64,
    pub how: String,
}

/// A use of a session of which a client is certain: the session must not have been idle before it was over.
#[derive(Debug, Clone)]
pub struct Used {
    pub backend: String,
    pub proxy: u8,
    /// When the last message or request was sent that was answered.
    pub last: u64,
    /// When the client began to close what it had open until then.
    pub closing: Option<u64>,
    /// For how long a use goes on that has ended: a plain request's.
    pub lingers: u64,
}

/// A request that was not answered by its deadline.
#[derive(Debug, Clone)]
pub struct Hung {
    pub what: String,
    pub to: Part,
    /// Where the way goes on to a session.
    pub backend: Option<String>,
    /// The session may have had to be started for it.
    pub starts: bool,
    /// What it may take where nothing is wrong.
    pub bound: u64,
    pub from: u64,
    pub at: u64,
}

/// Said of an answer to a URL whose drone had not been heard when it was given out.
pub const UNCONFIRMED: &str = ", under an unconfirmed URL";

/// A request that was answered with "not now", or broke off.
#[derive(Debug, Clone)]
pub struct TurnedAway {
    pub what: String,
    pub to: Part,
    /// Where it is known which session was asked for.
    pub backend: Option<String>,
    pub from: u64,
    pub at: u64,
}

/// A part that was told to stop and did not say that it had done so in order.
#[derive(Debug, Clone)]
pub struct Unclean {
    pub part: Part,
    pub how: String,
    pub from: u64,
    pub at: u64,
}

/// A start that failed, or a fresh URL that was over: right only under a fault, or if somebody stopped the session.
#[derive(Debug, Clone)]
pub struct Refused {
    pub what: String,
    /// The controller that was asked.
    pub by: Part,
    /// The proxy that was asked for the URL then.
    pub through: Option<u8>,
    /// The answer had said that the drone was not heard in time.
    pub unconfirmed: bool,
    pub backend: String,
    pub from: u64,
    pub at: u64,
}

/// A container that was hit while it waited for its session, or in the moment in which it got one.
#[derive(Debug, Clone)]
pub struct Hit {
    pub container: String,
    pub how: &'static str,
    /// What ends later has another reason.
    pub until: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    Exit,
    Stop,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub backend: String,
    pub wish: Wish,
    pub at: u64,
}

#[derive(Debug, Default, Clone)]
pub struct Inner {
    pub faults: Vec<Done>,
    pub lost_commits: Vec<LostCommits>,
    pub dropped: Vec<Dropped>,
    pub used: Vec<Used>,
    /// Sessions that a client has tried to enter, and when it did so first.
    pub tried: HashMap<String, u64>,
    /// Requests with a body that a session has answered.
    pub posted: HashMap<String, u64>,
    pub hung: Vec<Hung>,
    pub refused: Vec<Refused>,
    pub turned_away: Vec<TurnedAway>,
    pub unclean: Vec<Unclean>,
    pub asked: Vec<Asked>,
    pub hit: Vec<Hit>,
    /// A URL or a token led to another session than it was given for.
    pub strangers: Vec<String>,
    /// What must not happen, whatever the faults: a 500, a panic, a part that leaves by itself or does not stop.
    pub broken: Vec<String>,
    /// Answers to connects and opens, by status and code.
    pub answers: BTreeMap<String, usize>,
    pub entered: usize,
    pub echoes: usize,
}

pub struct Seen {
    pub start: u64,
    inner: Mutex<Inner>,
}

impl Seen {
    pub fn new() -> Self {
        Self { start: now(), inner: Mutex::default() }
    }

    pub fn note(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answer(&self, what: &str) {
        *self.note().answers.entry(what.to_owned()).or_default() += 1;
    }

    /// Seconds since the start, as the log has them.
    pub fn clock(&self) -> String {
        at(self.start, now())
    }

    /// What nothing excuses.
    pub fn broken(&self, what: &str) {
        self.say(what);
        let what = format!("broken: {} {what}", self.clock());
        self.note().broken.push(what);
    }

    /// One line of the run's log.
    pub fn say(&self, text: &str) {
        println!("{} {text}", self.clock());
    }
}

pub fn at(start: u64, time: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "for a human's eyes")]
    let seconds = time.saturating_sub(start) as f64 / SECOND as f64;
    format!("{seconds:8.2} s")
}
