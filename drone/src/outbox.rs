//! Statuses on their way to a controller. They leave at once; a batch is what gathered while the last one was under
//! way. What was not acknowledged is in the backends' journals and comes back with the next agent.
//!
//! Bounded by the journals: a backend has at most eight statuses, and without a controller nobody puts new backends.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jetway_protocol::controller_api::{BackendEvent, Events};
use jetway_service::backoff::Backoff;
use jetway_service::client::CallError;
use tokio::sync::Notify;

use crate::agent::Agent;
use crate::controllers::Controllers;
use crate::registration::path;

/// Events in one call, at most.
const BATCH_EVENTS_MAX: usize = 256;
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<VecDeque<BackendEvent>>,
    filled: Notify,
}

impl Outbox {
    pub fn push(&self, event: BackendEvent) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
        self.filled.notify_one();
    }

    /// The oldest events, as soon as there are some. They stay until [`Outbox::drop_first`].
    async fn batch(&self) -> Vec<BackendEvent> {
        loop {
            let filled = self.filled.notified();
            let batch: Vec<_> = {
                let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                queue.iter().take(BATCH_EVENTS_MAX).cloned().collect()
            };
            if !batch.is_empty() {
                return batch;
            }
            filled.await;
        }
    }

    fn drop_first(&self, count: usize) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).drain(..count);
    }
}

/// Sends what there is, in order, until the process stops. Woken by [`Outbox::push`]; writes acknowledgements to the
/// journals.
pub async fn deliver(agent: Arc<Agent>, controllers: Arc<Controllers>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let path = path(agent.id, "events");
    loop {
        let events = agent.outbox.batch().await;
        let term = agent.membership.term_that(|_| true).await;
        let batch = Events { term, events };
        let sent: Result<Option<()>, CallError> = controllers.post(&path, &batch).await;
        match sent {
            Ok(_) => {
                backoff.reset();
                agent.outbox.drop_first(batch.events.len());
                acknowledge(&agent, &batch.events);
            }
            Err(CallError::Refused { status: 409, .. }) => {
                agent.membership.report_stale(term);
                // The new term is the registration's to get; a controller that is behind may refuse that one, too.
                let fresh = agent.membership.term_that(|now| now != term);
                let _came_or_tried_again = tokio::time::timeout(RETRY_MAX, fresh).await;
            }
            Err(error) => {
                tracing::warn!(%error, "events could not be delivered yet");
                backoff.wait().await;
            }
        }
    }
}

fn acknowledge(agent: &Agent, events: &[BackendEvent]) {
    for event in events {
        if let Err(error) = agent.journals.acknowledge(&event.backend, event.entry.status) {
            tracing::error!(backend = %event.backend, %error, "an acknowledgement could not be noted");
        }
    }
}
