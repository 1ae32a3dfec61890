//! Keeps the drone known to the controllers: registers, sends heartbeats (`beats`), registers again when its term is over.
//!
//! Woken by its own clock and by [`Membership::stale`]; writes [`Membership`], and the [`Lease`] that each answer grants: it
//! counts from when the question was sent. Backends do not notice a new term.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{Register, Registered, Stale, StaleCode};
use jetway_protocol::ids::DroneId;
use jetway_protocol::lease::Replaces;
use jetway_service::backoff::Backoff;
use jetway_service::client::CallError;
use jetway_service::controllers::{CALL_MAX, Controllers, FirstContact, RETRY_MAX};
use jetway_service::silence::Silence;
use tokio::sync::watch;
use tokio::time::Instant;

use super::beats::Beats;
use super::membership::Membership;
use crate::agent::Agent;
use crate::lease::{Lease, Moved, keeper};

/// The first wait between tries; a controller that is back is found within [`RETRY_MAX`].
pub(crate) const REGISTER_RETRY_FIRST: Duration = Duration::from_millis(100);
/// A register that does not replace what is there is told what is; somebody else may be quicker so many times.
const MOVED_MAX: usize = 5;
/// For inits to look at a deadline that has come nearer, before the controllers count by it, too.
const NEARER_WAIT: Duration = Duration::from_secs(1);

pub struct Registration {
    pub controllers: Arc<Controllers>,
    pub membership: Arc<Membership>,
    pub lease: Arc<Lease>,
    /// What is said at each registration; the uptime is filled in.
    pub register: Register,
    pub contact: FirstContact,
    /// Of the controllers, after the first registration.
    pub silence: Silence,
    /// The last registration has brought the deadline nearer, and inits have not had the time to look.
    pub is_nearer: bool,
    pub beats: Beats,
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

/// The controller knows another row than this drone does, and says which.
fn moved_to(error: &CallError) -> Option<Option<Replaces>> {
    let (status, stale) = error.refusal::<Stale>()?;
    (status == 409 && stale.code == StaleCode::Moved).then_some(stale.present)
}

/// That one is asked again, with what it has said; after every other error it is another's turn.
fn moves_on(error: &CallError) -> bool {
    moved_to(error).is_none()
}

impl Registration {
    /// Tries until a controller says yes, or nobody will.
    pub async fn first(&mut self) -> Result<Registered, Refused> {
        let mut backoff = Backoff::new(REGISTER_RETRY_FIRST, RETRY_MAX);
        loop {
            let (url, error) = match self.register(None, CALL_MAX).await {
                Ok(registered) => return Ok(registered),
                Err(not_taken) => not_taken,
            };
            if let Some((409, stale)) = error.refusal::<Stale>()
                && is_final(stale.code)
            {
                return Err(Refused::Stale(stale));
            }
            if let Some(why) = self.contact.failed(&url, &error, Instant::now()) {
                return Err(Refused::ByAll(why));
            }
            backoff.wait().await;
        }
    }

    /// For an agent with a journal, before it touches anything: one that answers at once says whether this drone is somebody
    /// else's by now. Who does not is not waited for.
    pub async fn at_once(&mut self, patience: Duration) -> Result<(), Refused> {
        let Err((_, error)) = self.register(None, patience).await else { return Ok(()) };
        match error.refusal::<Stale>() {
            Some((409, stale)) if is_final(stale.code) => Err(Refused::Stale(stale)),
            _ => Ok(()),
        }
    }

    /// Until the process stops. `refused` hears why no controller takes this drone, before one has: not while it has
    /// sessions, which go on without.
    pub async fn keep(mut self, agent: Arc<Agent>, refused: watch::Sender<Option<String>>) {
        let mut backoff = Backoff::new(REGISTER_RETRY_FIRST, RETRY_MAX);
        let mut registered = self.membership.term().is_some();
        let mut is_known = registered;
        loop {
            if !registered {
                match self.register(Some(&agent), self.register_patience()).await {
                    Ok(_) => {}
                    Err((url, error)) => {
                        if is_known {
                            self.refused_by_now(&agent, &error, &refused);
                            self.not_reached(&error, "a controller does not take this drone again yet");
                        } else if let Some(why) = self.contact.failed(&url, &error, Instant::now())
                            && agent.backends.by_id.is_empty()
                        {
                            refused.send_replace(Some(why));
                        }
                        backoff.wait().await;
                        continue;
                    }
                }
            }
            is_known = true;
            backoff.reset();
            if std::mem::take(&mut self.is_nearer) {
                agent.lease.nudge();
                tokio::time::sleep(NEARER_WAIT).await;
            }
            self.beat_until_stale(&agent).await;
            registered = false;
        }
    }

    /// A third of the lease while it stands: another controller must have its turn. Without one, a slow
    /// answer is worth the wait.
    fn register_patience(&self) -> Duration {
        if self.lease.take().is_some() { self.patience() } else { CALL_MAX }
    }

    /// `agent`: whose backends must have their ends written down before a new term makes
    /// the drone's deadline a later one.
    async fn register(&mut self, agent: Option<&Agent>, patience: Duration) -> Result<Registered, NotTaken> {
        for turn in 1.. {
            if !condemned(agent).await {
                return Err(not_condemned());
            }
            let sent_at = self.lease.now();
            self.register.uptime_ms = u64::try_from(sent_at.as_millis()).unwrap_or(u64::MAX);
            let (path, asked) = ("/internal/drones/register", self.controllers.current());
            let (url, answer) = self.controllers.post_to_one(path, &self.register, patience, moves_on).await;
            let url = url.to_owned();
            let answer: Result<Registered, CallError> = answer;
            let registered = match answer {
                Ok(registered) => registered,
                Err(error) => match moved_to(&error).filter(|_| turn < MOVED_MAX) {
                    Some(present) => {
                        self.register.replaces = present;
                        continue;
                    }
                    None => {
                        self.controllers.move_on(asked);
                        return Err((url, error));
                    }
                },
            };
            // The agent may have been paused while it waited for this answer.
            if !condemned(agent).await {
                return Err(not_condemned());
            }
            let moved = self.lease.registered(&registered, sent_at);
            if moved == Moved::Nothing {
                tracing::warn!(term = %registered.term, "a term that is no newer than the last one; asking again");
                self.controllers.move_on(asked);
                if turn < MOVED_MAX {
                    continue;
                }
                // Under it nothing would be renewed, and what holds a key would end.
                return Err(no_newer(url));
            }
            tracing::info!(term = %registered.term, cluster = %registered.cluster, "registered");
            self.silence.ends();
            self.register.installation = Some(registered.installation);
            self.membership.set_registered(registered.clone());
            self.is_nearer |= moved == Moved::Nearer;
            return Ok(registered);
        }
        Err(not_condemned())
    }

    /// Somebody else has taken this drone's place. Without sessions there is nothing to stay for.
    fn refused_by_now(&mut self, agent: &Agent, error: &CallError, refused: &watch::Sender<Option<String>>) {
        if let Some((409, stale)) = error.refusal::<Stale>()
            && is_final(stale.code)
            && agent.backends.by_id.is_empty()
        {
            refused.send_replace(Some(stale.message));
        }
    }

    pub(crate) fn not_reached(&mut self, error: &CallError, what: &str) {
        if self.silence.is_to_be_told(Instant::now()) {
            tracing::warn!(%error, "{what}");
        } else {
            tracing::debug!(%error, "{what}");
        }
    }
}

/// Waiting and looking again changes nothing.
fn is_final(code: StaleCode) -> bool {
    match code {
        StaleCode::NameTaken | StaleCode::Installation | StaleCode::IdInUse | StaleCode::Other => true,
        StaleCode::Term | StaleCode::Moved => false,
    }
}

async fn condemned(agent: Option<&Agent>) -> bool {
    match agent {
        Some(agent) => keeper::condemn(agent).await,
        None => true,
    }
}

fn not_condemned() -> NotTaken {
    let reason = "the ends of sessions whose lease is over cannot be written down".to_owned();
    (String::new(), CallError::NotSent { url: "/internal/drones/register".to_owned(), reason })
}

fn no_newer(url: String) -> NotTaken {
    let reason = "a term that is no newer than this drone's last one".to_owned();
    (url.clone(), CallError::Unreadable { url, reason })
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
        holds_lease: true,
        replaces: None,
        agent: Some(uuid::Uuid::new_v4()),
    }
}

/// What the agent found out about itself.
pub struct Facts {
    pub identity: crate::store::data_dir::Identity,
    pub boot_id: jetway_protocol::ids::BootId,
    pub advertise: String,
    pub capacity: jetway_protocol::controller_api::Capacity,
}
