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
}

impl Registration {
    /// Tries until a controller says yes, or says no for good.
    pub async fn first(&mut self) -> Result<Registered, Stale> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            match self.register().await {
                Ok(registered) => return Ok(registered),
                Err(error) => match error.refusal::<Stale>() {
                    Some((409, stale)) => return Err(stale),
                    _ => tracing::warn!(%error, "cannot register yet"),
                },
            }
            backoff.wait().await;
        }
    }

    /// Until the process stops.
    pub async fn keep(mut self, agent: Arc<Agent>) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut registered = self.membership.term().is_some();
        loop {
            if !registered && let Err(error) = self.register().await {
                tracing::warn!(%error, "cannot register");
                backoff.wait().await;
                continue;
            }
            backoff.reset();
            self.beat_until_stale(&agent).await;
            registered = false;
        }
    }

    async fn register(&mut self) -> Result<Registered, CallError> {
        self.register.uptime_ms = u64::try_from(clock::boot_time().as_millis()).unwrap_or(u64::MAX);
        let registered: Registered =
            self.controllers.post("/internal/drones/register", &self.register).await?;
        tracing::info!(term = %registered.term, cluster = %registered.cluster, "registered");
        self.register.installation = Some(registered.installation);
        self.membership.set_registered(registered.clone());
        Ok(registered)
    }

    async fn beat_until_stale(&self, agent: &Agent) {
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
                    backoff.reset();
                    jittered(period)
                }
                Err(CallError::Refused { status: 409, .. }) => return,
                Err(error) => {
                    tracing::warn!(%error, "a heartbeat failed");
                    backoff.next_wait()
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.membership.stale(term) => return,
            }
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
