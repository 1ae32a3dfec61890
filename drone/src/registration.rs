//! Keeps the drone known to the controllers: registers, sends heartbeats, registers again when its term is over.
//!
//! Woken by its own clock and by [`Membership::stale`]; writes [`Membership`]. Backends do not notice a new term.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{Heartbeat, HeartbeatReply, Register, Registered, Stale};
use jetway_protocol::ids::DroneId;
use jetway_service::backoff::{Backoff, jittered};
use jetway_service::client::CallError;
use jetway_service::clock;
use jetway_service::controllers::FirstContact;
use jetway_service::silence::Silence;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::agent::Agent;
use crate::controllers::Controllers;
use crate::membership::Membership;

/// Waits between tries: a controller that is back is found within this.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// What a controller may ask for as the time between heartbeats.
const HEARTBEAT_MS_MIN: u64 = 100;
const HEARTBEAT_MS_MAX: u64 = 60_000;

pub struct Registration {
    pub controllers: Arc<Controllers>,
    pub membership: Arc<Membership>,
    /// What is said at each registration; the uptime is filled in.
    pub register: Register,
    pub contact: FirstContact,
    /// Of the controllers, after the first registration.
    pub silence: Silence,
}

/// A registration that was not taken: by whom, and why.
type NotTaken = (String, CallError);

/// Nobody takes this drone, and waiting changes nothing.
#[derive(Debug)]
pub enum Refused {
    /// A controller of this installation says so.
    Stale(Stale),
    /// Each of the controllers, in one line.
    ByAll(String),
}

impl Registration {
    /// Tries until a controller says yes, or nobody will.
    pub async fn first(&mut self) -> Result<Registered, Refused> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let (url, error) = match self.register().await {
                Ok(registered) => return Ok(registered),
                Err(not_taken) => not_taken,
            };
            if let Some((409, stale)) = error.refusal::<Stale>() {
                return Err(Refused::Stale(stale));
            }
            if let Some(why) = self.contact.failed(&url, &error, Instant::now()) {
                return Err(Refused::ByAll(why));
            }
            backoff.wait().await;
        }
    }

    /// Until the process stops. `refused` hears why no controller takes this drone, before one has: not while it has
    /// sessions, which go on without.
    pub async fn keep(mut self, agent: Arc<Agent>, refused: watch::Sender<Option<String>>) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut registered = self.membership.term().is_some();
        let mut is_known = registered;
        loop {
            if !registered && let Err((url, error)) = self.register().await {
                if is_known {
                    self.not_reached(&error, "a controller does not take this drone again yet");
                } else if let Some(why) = self.contact.failed(&url, &error, Instant::now())
                    && agent.backends.is_empty()
                {
                    refused.send_replace(Some(why));
                }
                backoff.wait().await;
                continue;
            }
            is_known = true;
            backoff.reset();
            self.beat_until_stale(&agent).await;
            registered = false;
        }
    }

    async fn register(&mut self) -> Result<Registered, NotTaken> {
        self.register.uptime_ms = u64::try_from(clock::boot_time().as_millis()).unwrap_or(u64::MAX);
        let (url, answer) =
            self.controllers.post_to_one("/internal/drones/register", &self.register, |_| true).await;
        let registered: Registered = answer.map_err(|error| (url.to_owned(), error))?;
        tracing::info!(term = %registered.term, cluster = %registered.cluster, "registered");
        self.silence.ends();
        self.register.installation = Some(registered.installation);
        self.membership.set_registered(registered.clone());
        Ok(registered)
    }

    async fn beat_until_stale(&mut self, agent: &Agent) {
        let heartbeat_ms = self.membership.heartbeat_ms().clamp(HEARTBEAT_MS_MIN, HEARTBEAT_MS_MAX);
        let period = Duration::from_millis(heartbeat_ms);
        let mut renewal = 0;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX.min(period));
        loop {
            let Some(term) = self.membership.term() else { return };
            renewal += 1;
            let orders = self.membership.orders();
            let beat = Heartbeat { term, renewal, load: agent.load() };
            let reply: Result<HeartbeatReply, _> =
                self.controllers.post(&path(self.register.drone, "heartbeat"), &beat).await;
            let wait = match reply {
                Ok(reply) => {
                    self.membership.heard_draining(reply.draining, orders);
                    if self.silence.ends() {
                        tracing::info!("a controller answers again");
                    }
                    backoff.reset();
                    jittered(period)
                }
                Err(CallError::Refused { status: 409, .. }) => return,
                Err(error) => {
                    self.not_reached(&error, "a heartbeat failed; trying on");
                    backoff.next_wait()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.membership.stale(term) => return,
            }
        }
    }

    fn not_reached(&mut self, error: &CallError, what: &str) {
        if self.silence.is_to_be_told(Instant::now()) {
            tracing::warn!(%error, "{what}");
        } else {
            tracing::debug!(%error, "{what}");
        }
    }
}

pub fn path(drone: DroneId, what: &str) -> String {
    format!("/internal/drones/{drone}/{what}")
}

/// Everything about a registration that does not change while the agent runs.
pub fn register(config: &crate::config::Config, parts: Facts) -> Register {
    Register {
        protocol: PROTOCOL_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        drone: parts.identity.id,
        name: config.name.clone(),
        boot_id: parts.boot_id,
        uptime_ms: 0,
        cluster: config.cluster.clone(),
        pool: config.pool.clone(),
        advertise: parts.advertise,
        capacity: parts.capacity,
        installation: parts.identity.installation,
    }
}

/// What the agent found out about itself.
pub struct Facts {
    pub identity: crate::data_dir::Identity,
    pub boot_id: jetway_protocol::ids::BootId,
    pub advertise: String,
    pub capacity: jetway_protocol::controller_api::Capacity,
}
