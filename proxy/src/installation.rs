//! Which installation this proxy serves: learned from any controller at the start, kept in memory, told again with
//! each heartbeat. Once it is known, no controller is needed to serve a URL.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{ProxyHeartbeat, ProxyRegistered};
use jetway_protocol::ids::{ClusterName, InstallationId, ProxyId};
use jetway_protocol::secret::Secret;
use jetway_protocol::token::TokenSealer;
use jetway_service::backoff::{Backoff, jittered};
use jetway_service::client::Client;
use tokio::sync::watch;
use tokio::time::Instant;

const CALL_MAX: Duration = Duration::from_secs(5);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Whatever a controller says, a heartbeat comes no more often and no more rarely.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(60);

/// No controller answers: told first after so long (one may be starting beside this proxy), then again and again.
const TELL_FIRST: Duration = Duration::from_secs(2);
const TELL_AGAIN: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Installation {
    pub id: InstallationId,
    pub cluster: ClusterName,
    pub sealer: TokenSealer,
}

pub type Known = watch::Receiver<Option<Arc<Installation>>>;

pub struct Registration {
    pub controllers: Vec<String>,
    pub client: Client,
    pub secret: Secret,
    pub proxy: ProxyId,
    pub name: String,
    pub cluster: Option<ClusterName>,
}

impl Registration {
    /// Registers, and goes on doing so as the heartbeat. Never ends.
    pub async fn run(self, known: watch::Sender<Option<Arc<Installation>>>) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut silence = Silence::default();
        let mut turn = 0;
        loop {
            let controller = &self.controllers[turn % self.controllers.len()];
            match self.call(controller).await {
                Ok(registered) => {
                    backoff.reset();
                    silence.ends();
                    let heartbeat = Duration::from_millis(registered.heartbeat_ms);
                    self.learned(registered, &known);
                    let heartbeat = heartbeat.clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
                    tokio::time::sleep(jittered(heartbeat)).await;
                }
                Err(reason) => {
                    if silence.is_to_be_told(Instant::now()) {
                        tracing::warn!(%controller, %reason, "no controller can be reached");
                    } else {
                        tracing::debug!(%controller, %reason, "no registration");
                    }
                    turn += 1;
                    backoff.wait().await;
                }
            }
        }
    }

    async fn call(&self, controller: &str) -> Result<ProxyRegistered, jetway_service::client::CallError> {
        let url = format!("{}/internal/proxies/register", controller.trim_end_matches('/'));
        let heartbeat = ProxyHeartbeat {
            protocol: PROTOCOL_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            proxy: self.proxy,
            name: self.name.clone(),
            cluster: self.cluster.clone(),
        };
        self.client.post(&url, &heartbeat, CALL_MAX).await
    }

    fn learned(&self, registered: ProxyRegistered, known: &watch::Sender<Option<Arc<Installation>>>) {
        known.send_if_modified(|known| {
            let same = |old: &Arc<Installation>| {
                old.id == registered.installation && old.cluster == registered.cluster
            };
            if known.as_ref().is_some_and(same) {
                return false;
            }
            tracing::info!(installation = %registered.installation, cluster = %registered.cluster, "registered");
            *known = Some(Arc::new(Installation {
                id: registered.installation,
                sealer: TokenSealer::new(&self.secret, registered.installation),
                cluster: registered.cluster,
            }));
            true
        });
    }
}

/// How long no controller has answered, and when the operator should hear of it.
#[derive(Debug, Default)]
struct Silence {
    tell_at: Option<Instant>,
}

impl Silence {
    fn is_to_be_told(&mut self, now: Instant) -> bool {
        let tell_at = self.tell_at.get_or_insert(now + TELL_FIRST);
        let due = *tell_at <= now;
        if due {
            *tell_at = now + TELL_AGAIN;
        }
        due
    }

    fn ends(&mut self) {
        self.tell_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_told_soon_and_then_now_and_then() {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let told_in = |silence: &mut Silence, seconds: std::ops::Range<u64>| {
            seconds
                .filter(|second| silence.is_to_be_told(start + Duration::from_secs(*second)))
                .collect::<Vec<_>>()
        };
        assert_eq!(told_in(&mut silence, 0..100), [2, 32, 62, 92]);
        silence.ends();
        assert_eq!(told_in(&mut silence, 100..110), [102]);
    }
}
