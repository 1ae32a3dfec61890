//! The slots of the model: engine, inits, lines. None of it is the product's; `init/src/state.rs`
//! and its own tests hold what an init does.

use std::net::IpAddr;
use std::time::Duration;

use jetway_drone::runtime::ContainerStatus;
use jetway_protocol::init::{FromInit, Hello, SessionState};
use jetway_protocol::lease::{Deadline, LastWord, Standing};

use super::agent::{TOKEN, id};
use super::{BOOT, Claiming, GONE_BY, Mistake, State};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    Absent,
    /// The engine was asked; it may still start it, whatever it answered.
    Asked,
    Parked,
    /// Init has said that the session is taken, and has executed nothing.
    Took,
    Runs,
    Gone,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Line {
    /// Init is not on it.
    Away,
    Up,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Said {
    Taken,
    Started,
    LeaseOver,
    Exited,
}

impl Said {
    pub fn message(self) -> FromInit {
        let backend = id();
        match self {
            Said::Taken => FromInit::Taken { backend },
            Said::Started => FromInit::Started { backend, pid: 2 },
            Said::LeaseOver => FromInit::LeaseOver { backend },
            Said::Exited => FromInit::Exited { backend, code: Some(0), signal: None },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pub container: Container,
    pub line: Line,
    /// The session is on its way to init.
    pub session: bool,
    /// And a stop.
    pub stop: bool,
    /// What init has said and the agent has not read.
    pub said: Vec<Said>,
    /// Init says nothing more on this connection.
    pub is_closed: bool,
    /// It runs, and init has not said so.
    pub is_unsaid: bool,
    /// It waits for a session, and nothing was given it.
    pub is_ready: bool,
    /// A backend had it, or has.
    pub is_used: bool,
    /// Its backend has let it go: it is removed.
    pub is_left: bool,
}

impl Slot {
    pub fn absent() -> Self {
        Self {
            container: Container::Absent,
            line: Line::Away,
            session: false,
            stop: false,
            said: Vec::new(),
            is_closed: false,
            is_unsaid: false,
            is_ready: false,
            is_used: false,
            is_left: false,
        }
    }

    pub fn ready() -> Self {
        Self { container: Container::Parked, line: Line::Up, is_ready: true, ..Self::absent() }
    }

    pub fn runs(&self) -> bool {
        matches!(self.container, Container::Parked | Container::Took | Container::Runs)
    }

    /// As the engine tells it.
    pub fn status(&self) -> ContainerStatus {
        match self.container {
            Container::Absent | Container::Removed => ContainerStatus::Absent,
            Container::Asked => ContainerStatus::Created,
            Container::Parked | Container::Took | Container::Runs => {
                let address = Some(IpAddr::from([10, 64, 0, 2]));
                ContainerStatus::Running { paused: false, address }
            }
            Container::Gone => ContainerStatus::Exited { code: 0, oom_killed: false },
        }
    }

    /// The connection is gone, with what was not read.
    pub fn cut(&mut self) {
        (self.line, self.is_closed) = (Line::Away, false);
        self.said.clear();
    }

    /// The connection has been read to its end.
    pub fn is_at_its_end(&self) -> bool {
        self.line == Line::Up && self.said.is_empty() && (self.is_closed || !self.runs())
    }

    fn say(&mut self, said: Said) {
        if self.line == Line::Up && !self.is_closed {
            self.said.push(said);
        }
    }

    pub fn says_that_it_runs(&mut self) {
        self.is_unsaid = false;
        self.say(Said::Started);
    }

    /// Its word cannot be written: it closes the connection, and begins nothing.
    pub fn cannot_say(&mut self) {
        (self.session, self.is_closed) = (false, self.line == Line::Up);
    }

    pub fn end(&mut self) {
        (self.container, self.session, self.stop, self.is_unsaid) = (Container::Gone, false, false, false);
    }

    pub fn remove(&mut self) {
        self.end();
        self.container = Container::Removed;
    }

    pub fn take(&mut self) {
        (self.session, self.container) = (false, Container::Took);
        self.say(Said::Taken);
    }

    /// Of the application, by itself or after a stop.
    pub fn exit(&mut self) {
        if self.container == Container::Runs {
            self.say(Said::Exited);
        }
        self.end();
    }
}

impl Claiming {
    pub fn word(now: u8) -> (LastWord, Duration) {
        let mut word = LastWord::new(BOOT, Duration::ZERO);
        let gone_by = Duration::from_secs(u64::from(GONE_BY));
        word.read(Some(&Deadline { boot_id: BOOT, gone_by }.to_string()));
        (word, Duration::from_secs(u64::from(now)))
    }

    pub fn admits(now: u8) -> bool {
        let (word, now) = Self::word(now);
        word.admits(now)
    }

    pub fn tick(state: &mut State) {
        state.now += 1;
        let (word, now) = Self::word(state.now);
        if word.standing(now) == Standing::Gone {
            state.slots.iter_mut().filter(|slot| slot.container == Container::Runs).for_each(Slot::end);
        }
    }

    /// Init's first word on a connection.
    pub fn hello(&self, at: usize, slot: &Slot) -> Hello {
        let runs = slot.container == Container::Runs;
        let session = runs.then(|| SessionState {
            backend: id(),
            fencing_token: TOKEN,
            pid: Some(2),
            ready: None,
            stopping: false,
            lease_over: false,
        });
        let writes_ahead = !self.is_old_init || self.mistake == Mistake::SilenceOfAnyInitIsTrusted;
        Hello {
            version: 1,
            nonce: format!("init {at}"),
            boot_id: Some(BOOT),
            session,
            ahead: None,
            writes_ahead,
        }
    }

    pub fn execute(&self, state: &mut State, at: usize) {
        let admitted = Self::admits(state.now) || self.mistake == Mistake::InitDoesNotLook;
        let slot = &mut state.slots[at];
        slot.session = false;
        if admitted {
            (slot.container, slot.is_unsaid) = (Container::Runs, true);
            state.starts += 1;
        } else {
            slot.say(Said::LeaseOver);
            slot.end();
        }
    }
}
