//! The play: one proxy, one controller and one drone that speak the real protocol and do what a
//! test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::{Entry, Outcome};
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_protocol::secret::Secret;
use jetway_protocol::spec::Protocol;
use jetway_protocol::token::{HostToken, HostUse, TokenContent, TokenSealer};
use jetway_proxy::{Proxy, Share};
use jetway_service::lifecycle::Lifecycle;
use jetway_testkit::drone::AttachedDrone;
pub use jetway_testkit::drone::{FENCING, an_end};
pub use jetway_testkit::soon as eventually;

use crate::controller::FakeController;

pub const CLUSTER: &str = "example.com";

pub fn secret() -> Secret {
    Secret::new(&"jetway".repeat(8)).unwrap()
}

pub struct Play {
    /// Of everything but the proxy.
    pub lifecycle: Lifecycle,
    pub proxy_lifecycle: Lifecycle,
    pub proxy: Proxy,
    pub drone: Arc<AttachedDrone>,
    pub controller: Arc<FakeController>,
}

pub struct Stage {
    pub direct: bool,
    pub hold: Duration,
    pub controller_answers: bool,
    pub root_redirect: Option<String>,
    pub listen: &'static str,
    pub trusted: &'static [&'static str],
    pub proxy_protocol: bool,
    pub drain: Duration,
    pub reuse_port: bool,
    pub client: Share,
    pub token: Share,
    pub body_pause: Option<Duration>,
    pub tls: Option<jetway_proxy::Tls>,
    pub acme_dns: Option<SocketAddr>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            direct: true,
            hold: Duration::from_secs(10),
            controller_answers: true,
            root_redirect: None,
            listen: "127.0.0.1:0",
            trusted: &[],
            proxy_protocol: false,
            drain: Duration::ZERO,
            reuse_port: false,
            client: Share::default(),
            token: Share::default(),
            body_pause: None,
            tls: None,
            acme_dns: None,
        }
    }
}

impl Stage {
    pub async fn begin(self) -> Play {
        let (lifecycle, proxy_lifecycle) = (Lifecycle::new(), Lifecycle::new());
        let drone = AttachedDrone::start(&lifecycle, self.direct, secret()).await;
        let controller = FakeController::start(&lifecycle, self.controller_answers, &drone).await;
        let listen = self.listen.parse().unwrap();
        let proxy = self.proxy(&controller, listen, &proxy_lifecycle).await;
        Play { lifecycle, proxy_lifecycle, proxy, drone, controller }
    }

    /// Another one of the same kind.
    pub async fn proxy(
        &self,
        controller: &FakeController,
        listen: SocketAddr,
        lifecycle: &Lifecycle,
    ) -> Proxy {
        let config = jetway_proxy::Config {
            controllers: vec![format!("http://{}", controller.address)],
            listen,
            name: "proxy-under-test".into(),
            cluster: None,
            secret: secret(),
            hold: self.hold,
            root_redirect: self.root_redirect.clone(),
            trusted_forwarders: self.trusted.iter().map(|network| network.parse().unwrap()).collect(),
            proxy_protocol: self.proxy_protocol,
            drain: self.drain,
            reuse_port: self.reuse_port,
            client: self.client,
            token: self.token,
            body_pause: self.body_pause,
            tls: self.tls.clone(),
            acme_dns: self.acme_dns,
            brand: "<p>a brand</p>".into(),
        };
        jetway_proxy::start(config, lifecycle.clone()).await.unwrap()
    }
}

impl Play {
    pub async fn new() -> Self {
        Stage::default().begin().await
    }

    pub fn content(&self, backend: &BackendId) -> TokenContent {
        TokenContent {
            backend: backend.clone(),
            fencing_token: FENCING,
            drone: self.drone.id,
            drone_address: self.drone.address.to_string(),
            grant: GrantId(1),
            expires_at: None,
        }
    }

    pub fn seal(&self, content: &TokenContent) -> String {
        self.sealer().seal(content)
    }

    pub fn sealer(&self) -> TokenSealer {
        TokenSealer::new(&secret(), self.controller.installation)
    }

    /// A token of the host form, of this user.
    pub fn seal_on(&self, usage: HostUse, host: &str, content: &TokenContent, user: &str) -> String {
        let sealer = self.sealer();
        let token = HostToken { content: content.clone(), user: sealer.user_tag(Some(user)) };
        sealer.seal_on(usage, host, &token)
    }

    /// A backend that is ready as `entry` says, and its token.
    pub fn backend_of(&self, entry: Entry) -> (BackendId, String) {
        let backend = BackendId::random();
        self.drone.set(&backend, Outcome::Ready(Box::new(entry)));
        let token = self.seal(&self.content(&backend));
        (backend, token)
    }

    /// A backend that is ready at `address`, and its token.
    pub fn ready_backend(&self, address: SocketAddr) -> (BackendId, String) {
        self.backend_of(entry(address))
    }
}

impl Drop for Play {
    fn drop(&mut self) {
        self.proxy_lifecycle.token().cancel();
        self.lifecycle.token().cancel();
    }
}

pub fn entry(address: SocketAddr) -> Entry {
    Entry {
        address,
        user: Some("zoe".into()),
        auth: r#"{"role":"owner"}"#.into(),
        secret: "grant-secret".into(),
        subdomain: None,
        linger_seconds: 1,
        allowed_origins: Vec::new(),
        protocol: Protocol::Http1,
        ports: BTreeMap::new(),
    }
}
