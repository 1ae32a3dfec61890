//! Asks of one attach stream for backends that are not here yet: a controller may still be delivering them. They stay
//! in the stream's own task, so that what comes after an ask on the stream is also heard after it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::{Outcome, ToProxy};
use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::status::End;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::backend::Asking;

/// How long a backend that nobody knows is waited for.
const BACKEND_PATIENCE: Duration = Duration::from_secs(2);
/// Asks that wait, at most.
const ASKS_MAX: usize = 256;

/// An ask, and whom it is for.
pub struct Question {
    pub backend: BackendId,
    pub fencing_token: FencingToken,
    pub asking: Asking,
    /// Whoever asks wants to hear how far the start is, too.
    pub is_followed: bool,
}

pub struct Pending {
    agent: Arc<Agent>,
    arrivals: watch::Receiver<u64>,
    waiting: HashMap<u64, (Question, Instant)>,
}

impl Pending {
    pub fn new(agent: &Arc<Agent>) -> Self {
        Self { agent: agent.clone(), arrivals: agent.backends.arrivals.subscribe(), waiting: HashMap::new() }
    }

    /// Puts the question now, or as soon as its backend is here.
    pub async fn put(&mut self, question: Question) {
        if self.waiting.is_empty() {
            // Before the look: what arrives after it is noticed.
            self.arrivals.mark_unchanged();
        }
        if is_known(&self.agent, &question.backend) {
            put_question(&self.agent, question).await;
        } else if self.waiting.len() < ASKS_MAX {
            self.waiting.insert(question.asking.ask, (question, Instant::now() + BACKEND_PATIENCE));
        } else {
            answer(&question.asking, Outcome::Unknown);
        }
    }

    /// True: it waited here and nobody else has heard of it.
    pub fn forget(&mut self, ask: u64) -> bool {
        self.waiting.remove(&ask).is_some()
    }

    /// True: it waits here, and its backend hears of this together with the ask.
    pub fn follow(&mut self, ask: u64) -> bool {
        let waiting = self.waiting.get_mut(&ask);
        waiting.map(|(question, _)| question.is_followed = true).is_some()
    }

    /// Returns when [`Pending::settle`] may have something to do; never, where nothing waits.
    pub async fn is_due(&mut self) {
        let Some(first) = self.waiting.values().map(|(_, until)| *until).min() else {
            return std::future::pending().await;
        };
        tokio::select! {
            // The agent holds the sender for as long as this lives.
            _ = self.arrivals.changed() => {}
            () = tokio::time::sleep_until(first) => {}
        }
    }

    /// Puts the questions whose backends have come, or have not come in time.
    pub async fn settle(&mut self) {
        let (agent, now) = (self.agent.clone(), Instant::now());
        let ripe: Vec<Question> = self
            .waiting
            .extract_if(|_, (question, until)| *until <= now || is_known(&agent, &question.backend))
            .map(|(_, (question, _))| question)
            .collect();
        for question in ripe {
            put_question(&agent, question).await;
        }
    }
}

/// What is known of a dead session, where the tombstone is this one's.
pub fn ended(agent: &Agent, id: &BackendId, fencing_token: FencingToken) -> Option<End> {
    let tombstones = agent.tombstones();
    let tombstone = tombstones.get(id)?;
    let same = tombstone.fencing_token.is_none_or(|known| known == fencing_token);
    same.then(|| tombstone.end.clone())
}

fn is_known(agent: &Agent, id: &BackendId) -> bool {
    agent.backend(id).is_some() || agent.tombstones().get(id).is_some()
}

/// To the live backend; a dead one's tombstone answers for it.
async fn put_question(agent: &Agent, question: Question) {
    let Question { backend: id, fencing_token, asking, is_followed } = question;
    let (stream, ask, grant) = (asking.stream.clone(), asking.ask, asking.grant);
    let live = agent.backend(&id).filter(|one| one.fencing_token == fencing_token);
    if let Some(backend) = &live
        && backend.ask(asking).await.is_ok()
    {
        if is_followed {
            backend.follow_ask(&stream, ask).await;
        }
        return;
    }
    let asking = Asking { stream, ask, grant };
    match ended(agent, &id, fencing_token) {
        Some(end) => answer(&asking, Outcome::Ended { end }),
        // Its task is gone and it has not ended: the agent stops, and the next one will answer.
        None if live.is_some() => asking.stream.close(),
        None => answer(&asking, Outcome::Unknown),
    }
}

fn answer(asking: &Asking, outcome: Outcome) {
    asking.stream.push(ToProxy::Answer { ask: asking.ask, outcome });
}
