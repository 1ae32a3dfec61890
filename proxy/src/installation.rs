//! Which installation this proxy serves: learned from any controller at the start, kept in memory,
//! told again with each heartbeat. Once it is known, no controller is needed to serve a URL.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::PROTOCOL_VERSION;
use jetway_protocol::controller_api::{ProxyHeartbeat, ProxyRegistered};
use jetway_protocol::ids::{ClusterName, InstallationId, ProxyId};
use jetway_protocol::secret::Secret;
use jetway_protocol::token::TokenSealer;
use jetway_service::backoff::{Backoff, jittered};
use jetway_service::client::Client;
use jetway_service::controllers::{CALL_MAX, FirstContact, RETRY_FIRST, RETRY_MAX};
use jetway_service::silence::Silence;
use tokio::sync::watch;
use tokio::time::Instant;

/// Whatever a controller says, a heartbeat comes no more often and no more rarely.
const HEARTBEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(60);

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
    /// Registers, and goes on doing so as the heartbeat. Never ends. `refused` hears why no
    /// controller takes this proxy, as long as none has.
    pub async fn run(
        self,
        known: watch::Sender<Option<Arc<Installation>>>,
        refused: watch::Sender<Option<String>>,
    ) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let (mut contact, mut silence) = (FirstContact::new(&self.controllers), Silence::default());
        let mut turn = 0;
        loop {
            let controller = &self.controllers[turn % self.controllers.len()];
            match self.call(controller).await {
                Ok(registered) => {
                    backoff.reset();
                    if silence.ends() {
                        tracing::info!("a controller answers again");
                    }
                    let heartbeat = Duration::from_millis(registered.heartbeat_ms);
                    self.learned(registered, &known);
                    let heartbeat = heartbeat.clamp(*HEARTBEAT.start(), *HEARTBEAT.end());
                    tokio::time::sleep(jittered(heartbeat)).await;
                }
                Err(error) => {
                    let now = Instant::now();
                    if known.borrow().is_none() {
                        if let Some(why) = contact.failed(controller, &error, now) {
                            refused.send_replace(Some(format!("no controller takes this proxy: {why}")));
                        }
                    } else if silence.is_to_be_told(now) {
                        tracing::warn!(%error, "a heartbeat failed; known URLs are served on");
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
