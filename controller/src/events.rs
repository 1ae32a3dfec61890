//! Reports of drones that wait to be stored. The statements are `db/events.rs`'s, the writers that send them
//! `tasks/events.rs`'s.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::db::events::Report;

/// Reports that wait for a writer. More at once means that Postgres does not answer.
const WAITING_MAX: usize = 4096;

/// A report, and who waits for what becomes of it.
pub struct Waiting {
    pub report: Arc<Report>,
    pub reply: oneshot::Sender<Answer>,
    /// Batches in which a row of its was somebody else's.
    pub tries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// All of it that ever can be.
    Stored,
    /// Its drone's term is over.
    TermOver,
    /// Perhaps none of it, perhaps all: it is to be sent again.
    NotNow,
}

pub struct Events {
    waiting: mpsc::Sender<Waiting>,
    receiver: Mutex<Option<mpsc::Receiver<Waiting>>>,
}

impl Default for Events {
    fn default() -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        Self { waiting, receiver: Mutex::new(Some(receiver)) }
    }
}

impl Events {
    /// The answer comes once the report is in Postgres, or is not. `None`: too many wait.
    pub fn store(&self, report: Report) -> Option<oneshot::Receiver<Answer>> {
        let (reply, answer) = oneshot::channel();
        self.waiting.try_send(Waiting { report: Arc::new(report), reply, tries: 0 }).ok()?;
        Some(answer)
    }

    /// For the writers.
    pub fn take_receiver(&self) -> Option<mpsc::Receiver<Waiting>> {
        self.receiver.lock().take()
    }
}
