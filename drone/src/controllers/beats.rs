//! Heartbeats: renewals of the lease, one after the other. One controller is asked; where it does not answer soon, the next is
//! asked as well, so that one that swallows what it is sent costs no renewal.
//!
//! Each sending is a renewal with a number of its own, and counts from its own sending. The first acknowledgement ends the
//! beat; what is still on its way is heard beside the next ones, in whatever order it comes: an older one moves nothing back.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jetway_protocol::controller_api::{Heartbeat, HeartbeatReply, Stale};
use jetway_protocol::ids::Term;
use jetway_service::backoff::{Backoff, jittered};
use jetway_service::client::CallError;
use jetway_service::controllers::{CALL_MAX, RETRY_MAX, is_to_be_asked_elsewhere};

use super::registration::{REGISTER_RETRY_FIRST, Registration, path};
use crate::agent::Agent;

/// What a controller may ask for as the time between heartbeats.
const HEARTBEAT_MS_MIN: u64 = 100;
const HEARTBEAT_MS_MAX: u64 = 60_000;
/// Of the patience with one controller, before the next one is asked as well.
const HEDGE_PART: u32 = 4;
/// Renewals on their way; beyond that no second controller is asked.
const ON_THEIR_WAY_MAX: usize = 16;

/// What was sent and has no answer yet.
#[derive(Default)]
pub struct Beats {
    on_their_way: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Of the answer that was heard last, by its number: older ones know less.
    newest: Option<(Term, i64)>,
}

struct Answered {
    controller: usize,
    term: Term,
    renewal: i64,
    sent_at: Duration,
    orders: u64,
    reply: Result<HeartbeatReply, CallError>,
}

/// What became of a heartbeat.
#[derive(Debug, PartialEq, Eq)]
enum Beat {
    Heard,
    /// The term is over.
    Stale,
    Failed,
}

/// How long after the last sending another controller is asked as well; `None`: never.
fn hedge_after(
    asked: usize,
    controllers: usize,
    on_their_way: usize,
    patience: Duration,
) -> Option<Duration> {
    let more = asked < controllers && on_their_way < ON_THEIR_WAY_MAX;
    more.then_some(patience / HEDGE_PART)
}

impl Registration {
    pub(crate) async fn beat_until_stale(&mut self, agent: &Agent) {
        let heartbeat_ms = self.membership.heartbeat_ms().clamp(HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX);
        let usual = Duration::from_millis(heartbeat_ms);
        let period = self.lease.terms().map_or(usual, |terms| terms.heartbeat(usual));
        let mut backoff = Backoff::new(REGISTER_RETRY_FIRST, RETRY_MAX.min(period));
        loop {
            let Some(term) = self.membership.term() else { return };
            let wait = match self.beat(agent, term).await {
                Beat::Heard => {
                    backoff.reset();
                    jittered(period)
                }
                Beat::Stale => return,
                Beat::Failed => backoff.next_wait(),
            };
            if self.wait(term, wait).await == Beat::Stale {
                return;
            }
        }
    }

    /// Until the next heartbeat is due; late answers are heard meanwhile.
    async fn wait(&mut self, term: Term, wait: Duration) -> Beat {
        let due = tokio::time::sleep(wait);
        tokio::pin!(due);
        loop {
            let answered = tokio::select! {
                () = &mut due => return Beat::Heard,
                () = self.membership.stale(term) => return Beat::Stale,
                Some(answered) = self.beats.on_their_way.next() => answered,
            };
            if answered.term == term && self.heard(answered, true) == Beat::Stale {
                return Beat::Stale;
            }
        }
    }

    /// With one controller: several fit into a lease.
    pub(super) fn patience(&self) -> Duration {
        self.lease.terms().map_or(CALL_MAX, |terms| CALL_MAX.min(terms.held_for() / 3))
    }

    /// One heartbeat, to as many controllers as it takes.
    async fn beat(&mut self, agent: &Agent, term: Term) -> Beat {
        let patience = self.patience();
        let (first, controllers) = (self.controllers.current(), self.controllers.urls().len());
        let Some(first_renewal) = self.send(agent, term, first, patience) else { return Beat::Failed };
        let (mut asked, mut unanswered) = (1, 1);
        let mut hedge = hedge_after(asked, controllers, self.beats.on_their_way.len(), patience);
        loop {
            let next_is_due = async {
                match hedge {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = next_is_due => {
                    if self.send(agent, term, first.wrapping_add(asked), patience).is_some() {
                        unanswered += 1;
                    }
                    asked += 1;
                    hedge = hedge_after(asked, controllers, self.beats.on_their_way.len(), patience);
                }
                Some(answered) = self.beats.on_their_way.next() => {
                    let is_late = answered.term != term || answered.renewal < first_renewal;
                    let controller = answered.controller;
                    match self.heard(answered, is_late) {
                        Beat::Heard | Beat::Failed if is_late => {}
                        Beat::Failed if unanswered > 1 => unanswered -= 1,
                        Beat::Heard => {
                            self.controllers.prefer(first, controller);
                            return Beat::Heard;
                        }
                        beat => return beat,
                    }
                }
            }
        }
    }

    /// One renewal leaves for one controller, with a number of its own. `None`: not now, for the file says more than this drone
    /// may have, and could not be mended.
    fn send(&mut self, agent: &Agent, term: Term, controller: usize, patience: Duration) -> Option<i64> {
        if !self.lease.is_written() {
            return None;
        }
        let orders = self.membership.orders();
        let load = agent.load();
        let path = path(self.register.drone, "heartbeat");
        let sent_at = self.lease.now();
        let renewal = self.lease.next_renewal();
        let beat = Heartbeat { term, renewal, lease: self.lease.terms(), load };
        let controllers = self.controllers.clone();
        self.beats.on_their_way.push(Box::pin(async move {
            let reply = controllers.post_at(controller, &path, &beat, patience).await.1;
            Answered { controller, term, renewal, sent_at, orders, reply }
        }));
        Some(renewal)
    }

    /// `is_late`: of an earlier beat; nobody waits for it, and that it failed is no news.
    fn heard(&mut self, answered: Answered, is_late: bool) -> Beat {
        let Answered { controller, term, renewal, sent_at, orders, reply } = answered;
        match reply {
            Ok(HeartbeatReply { draining }) => {
                self.lease.acknowledged(term, sent_at);
                if self.beats.newest < Some((term, renewal)) {
                    self.beats.newest = Some((term, renewal));
                    self.membership.heard_draining(draining, orders);
                }
                if self.silence.ends() {
                    tracing::info!("a controller answers again");
                }
                Beat::Heard
            }
            Err(error @ CallError::Refused { status: 409, .. }) => {
                if self.membership.term() != Some(term) {
                    return Beat::Failed;
                }
                if let Some((_, stale)) = error.refusal::<Stale>() {
                    self.register.replaces = stale.present.or(self.register.replaces);
                    // This one lives: it is asked for the next term first.
                    self.controllers.prefer(self.controllers.current(), controller);
                }
                Beat::Stale
            }
            Err(error) => {
                if is_to_be_asked_elsewhere(&error) {
                    self.controllers.move_on(controller);
                }
                if is_late {
                    tracing::debug!(%error, "a heartbeat that nobody waited for has failed");
                } else {
                    self.not_reached(&error, "a heartbeat failed; trying on");
                }
                Beat::Failed
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_controller_is_asked_after_a_quarter_of_the_patience_and_each_but_once() {
        let quarter = Some(Duration::from_millis(1250));
        for (asked, controllers, on_their_way, expect) in [
            (1, 1, 1, None),
            (1, 2, 1, quarter),
            (2, 2, 2, None),
            (2, 3, 2, quarter),
            (1, 3, ON_THEIR_WAY_MAX, None),
        ] {
            assert_eq!(
                hedge_after(asked, controllers, on_their_way, CALL_MAX),
                expect,
                "{asked} {controllers}"
            );
        }
    }
}
