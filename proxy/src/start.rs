//! Starts a proxy: makes everything that all connections share, then lets clients in.

use std::net::SocketAddr;
use std::sync::Arc;

use http::header::HeaderValue;
use jetway_protocol::ids::ProxyId;
use jetway_protocol::secret::Purpose;
use jetway_service::client::Client;
use jetway_service::clock;
use jetway_service::controllers::{Controllers, urls};
use jetway_service::lifecycle::Lifecycle;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::accept::bind::bind;
use crate::accept::first_bytes::Acceptor;
use crate::accept::https::{HttpsListener, TlsEndpoints};
use crate::accept::listener::{Door, Entrance, Listener};
use crate::attach::{Drones, Identity};
use crate::config::{Config, StartError, Tls};
use crate::drain::Drain;
use crate::installation::Registration;
use crate::io::workers::Workers;
use crate::limits::Limits;
use crate::limits::shares::Allowances;
use crate::owners::Owners;
use crate::peer::forwarders::Forwarders;
use crate::request::server::{HELD_MAX, Server};
use crate::upstream::Dialer;

/// A proxy that runs.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// The same for HTTPS.
    pub tls_address: Option<SocketAddr>,
    /// The same for questions by the DNS.
    pub dns_address: Option<SocketAddr>,
    pub id: ProxyId,
    refused: watch::Receiver<Option<String>>,
}

impl Proxy {
    /// Returns when every controller has refused this proxy and none has taken it since its start:
    /// waiting changes nothing then, and it knows no URL that it could serve.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.clone();
        match refused.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Starts a proxy. It listens when this returns; the controller is looked for in the background.
pub async fn start(config: Config, lifecycle: Lifecycle) -> Result<Proxy, StartError> {
    let controllers = urls(&config.controllers)?;
    let root_redirect = config.root_redirect.as_deref().map(HeaderValue::from_str).transpose();
    let root_redirect = root_redirect.map_err(|_| StartError::RootRedirect)?;
    if config.proxy_protocol && config.trusted_forwarders.is_empty() {
        return Err(StartError::NobodyTrusted);
    }
    let (listener, address) = bind(config.listen, config.reuse_port)?;
    let client = Client::new(config.secret.bearer(Purpose::ProxyToController));
    let (tell, known) = watch::channel(None);
    let asked = Arc::new(Controllers::new(controllers.clone(), client.clone()));
    let TlsEndpoints { tls, tls_address, dns_address, challenges } =
        TlsEndpoints::open(&config, asked, &known, &lifecycle).await?;
    let (tell_refused, refused) = watch::channel(None);
    let proxy = Proxy { address, tls_address, dns_address, id: ProxyId::random(), refused };

    let registration = Registration {
        controllers: controllers.clone(),
        client: client.clone(),
        secret: config.secret.clone(),
        proxy: proxy.id,
        name: config.name.clone(),
        cluster: config.cluster,
    };
    lifecycle.spawn_until_stopped(registration.run(tell, tell_refused));

    let owners = Owners::start(controllers.clone(), client.clone(), &lifecycle);
    let bearer = config.secret.bearer(Purpose::ProxyToDrone);
    let (streams_stop, limits) = (CancellationToken::new(), Limits::draining_for(config.drain));
    let drones = Drones::new(Identity {
        proxy: proxy.id,
        name: config.name,
        boot_id: clock::boot_id().map_err(StartError::Host)?,
        netns: clock::network_namespace().map_err(StartError::Host)?,
        bearer: bearer.clone(),
        controllers,
        client,
        lifecycle: lifecycle.clone(),
        stop: streams_stop.clone(),
    });
    let allowances = Arc::new(Allowances::new(config.client, config.token));
    let server = Server {
        drones,
        known,
        owners,
        hold: config.hold,
        root_redirect,
        held: Semaphore::new(HELD_MAX),
        allowances: allowances.clone(),
        body_pause: config.body_pause,
        brand: config.brand.into(),
        https: config.tls.as_ref().map(Tls::told).unwrap_or_default(),
        challenges,
    };
    lifecycle.spawn_until_stopped(async move { allowances.sweep().await });
    let dialer = Arc::new(Dialer { lifecycle: lifecycle.clone(), bearer });
    let door = Door {
        acceptor: Acceptor {
            forwarders: Forwarders::new(config.trusted_forwarders),
            proxy_protocol: config.proxy_protocol,
            tls: None,
        },
        server: Arc::new(server),
        dialer,
        lifecycle: lifecycle.clone(),
        drain: Arc::new(Drain::new(limits.spread)),
        limits,
    };
    open(listener, tls, door, streams_stop)?;
    Ok(proxy)
}

/// Begins to let clients in.
fn open(
    listener: TcpListener,
    tls: Option<HttpsListener>,
    door: Door,
    streams_stop: CancellationToken,
) -> Result<(), StartError> {
    let (lifecycle, drain, limits) = (door.lifecycle.clone(), door.drain.clone(), door.limits);
    let workers = Workers::for_this_machine(&lifecycle).map_err(StartError::Threads)?;
    let secured = tls.map(|tls| tls.entrance(&door));
    let first = Entrance { listener, door: Arc::new(door) };
    let entrances = std::iter::once(first).chain(secured).collect();
    let tasks = lifecycle.clone();
    tasks.spawn(Listener { entrances, lifecycle, drain, limits, workers, streams_stop }.run());
    Ok(())
}
