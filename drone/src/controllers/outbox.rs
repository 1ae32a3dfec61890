//! Statuses on their way to a controller. They leave at once; a batch is what gathered while the last one was under
//! way. What was not acknowledged is in the backends' journals and comes back with the next agent.
//!
//! Bounded by the journals: a backend has at most eight statuses, and without a controller nobody puts new backends.
//!
//! Events that a controller refuses for what they are do not hold the others up: they are set aside and tried again
//! now and then, for another version of the controller may take them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::controller_api::{BackendEvent, EVENTS_MAX, Events};
use jetway_service::backoff::Backoff;
use jetway_service::client::CallError;
use jetway_service::controllers::{Controllers, RETRY_FIRST, RETRY_MAX, is_to_be_asked_elsewhere};
use jetway_service::silence::Silence;
use tokio::time::Instant;

use super::registration::path;
use crate::agent::Agent;

/// Between tries of events that were refused.
const REFUSED_RETRY_FIRST: Duration = Duration::from_secs(5);
const REFUSED_RETRY_MAX: Duration = Duration::from_secs(60);
/// Refused events that are kept, at most; more are in the journals only, for the next agent to try.
const REFUSED_EVENTS_MAX: usize = 4096;

/// Sends what there is, in order, until the process stops. Woken by a push into the outbox and by the clock of what was
/// refused; writes acknowledgements to the journals.
pub async fn deliver(agent: Arc<Agent>, controllers: Arc<Controllers>) {
    let mut delivery = Delivery::new(agent, controllers);
    loop {
        tokio::select! {
            biased;
            batch = delivery.agent.reports.outbox.batch(EVENTS_MAX) => delivery.batch(batch).await,
            () = delivery.refused_are_due() => delivery.refused_again().await,
        }
    }
}

struct Delivery {
    agent: Arc<Agent>,
    controllers: Arc<Controllers>,
    path: String,
    backoff: Backoff,
    silence: Silence,
    refused: VecDeque<BackendEvent>,
    refused_at: Option<Instant>,
    refused_backoff: Backoff,
}

/// What became of a call with events.
enum Sent {
    Stored,
    /// For what they are, not for who sends them: repeating changes nothing soon.
    Refused(CallError),
    /// Not now.
    Failed(CallError),
    /// The term is over, or a new one is needed; it was waited for.
    Stale,
}

impl Delivery {
    fn new(agent: Arc<Agent>, controllers: Arc<Controllers>) -> Self {
        Self {
            path: path(agent.drone.id, "events"),
            agent,
            controllers,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX),
            silence: Silence::default(),
            refused: VecDeque::new(),
            refused_at: None,
            refused_backoff: Backoff::new(REFUSED_RETRY_FIRST, REFUSED_RETRY_MAX),
        }
    }

    async fn batch(&mut self, events: Vec<BackendEvent>) {
        let count = events.len();
        match self.send(events.clone()).await {
            Sent::Stored => {
                self.backoff.reset();
                self.silence.ends();
                self.agent.reports.outbox.drop_first(count);
            }
            Sent::Refused(_) => self.one_by_one(events).await,
            Sent::Failed(error) => {
                if self.silence.is_to_be_told(Instant::now()) {
                    tracing::warn!(%error, "events could not be delivered yet");
                }
                self.backoff.wait().await;
            }
            Sent::Stale => {}
        }
    }

    /// At least one of them is refused: it must not keep the others from being heard of.
    async fn one_by_one(&mut self, events: Vec<BackendEvent>) {
        for event in events {
            match self.send(vec![event.clone()]).await {
                Sent::Stored => {}
                Sent::Refused(error) => self.set_aside(event, &error),
                // The rest of the batch is still in the queue.
                Sent::Failed(_) | Sent::Stale => return self.backoff.wait().await,
            }
            self.agent.reports.outbox.drop_first(1);
        }
        self.backoff.reset();
    }

    fn set_aside(&mut self, event: BackendEvent, error: &CallError) {
        tracing::error!(
            backend = %event.backend, status = %event.entry.status, %error,
            "a controller refuses an event: do the versions of drone and controller fit together?"
        );
        if self.refused.len() < REFUSED_EVENTS_MAX {
            self.refused.push_back(event);
            self.refused_at.get_or_insert_with(|| Instant::now() + self.refused_backoff.next_wait());
        }
    }

    async fn refused_are_due(&self) {
        match self.refused_at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// The oldest of them once more; as soon as one is taken, all of them.
    async fn refused_again(&mut self) {
        while let Some(event) = self.refused.pop_front() {
            if !matches!(self.send(vec![event.clone()]).await, Sent::Stored) {
                self.refused.push_back(event);
                break;
            }
            tracing::info!("an event that was refused is stored now");
        }
        let next = Instant::now() + self.refused_backoff.next_wait();
        self.refused_at = (!self.refused.is_empty()).then_some(next);
        if self.refused.is_empty() {
            self.refused_backoff.reset();
        }
    }

    async fn send(&self, events: Vec<BackendEvent>) -> Sent {
        let term = self.agent.membership.term_that(|_| true).await;
        let batch = Events { term, events };
        let sent: Result<Option<()>, CallError> = self.controllers.post_once(&self.path, &batch).await;
        match sent {
            Ok(_) => {
                acknowledge(&self.agent, &batch.events);
                Sent::Stored
            }
            Err(CallError::Refused { status: 409, .. }) => {
                self.agent.membership.report_stale(term);
                // The new term is the registration's to get; a controller that is behind may refuse that one, too.
                let fresh = self.agent.membership.term_that(|now| now != term);
                let _came_or_tried_again = tokio::time::timeout(RETRY_MAX, fresh).await;
                Sent::Stale
            }
            Err(error) if is_for_the_content(&error) => Sent::Refused(error),
            Err(error) => Sent::Failed(error),
        }
    }
}

/// Not for a missing credential, a slow body or too many calls, nor by somebody who is no controller: those say nothing
/// about the events.
fn is_for_the_content(error: &CallError) -> bool {
    matches!(error, CallError::Refused { status: 400..=499, .. }) && !is_to_be_asked_elsewhere(error)
}

fn acknowledge(agent: &Agent, events: &[BackendEvent]) {
    for event in events {
        if let Err(error) = agent.store.journals.acknowledge(&event.backend, event.entry.status) {
            tracing::error!(backend = %event.backend, %error, "an acknowledgement could not be noted");
        }
    }
}
