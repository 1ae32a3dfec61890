//! The state of one client connection: its peer, its own upstreams, and a memory of its last
//! request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;

use http::Request;
use jetway_protocol::attach::Entry;
use jetway_protocol::ids::BackendId;
use jetway_protocol::token::{HostToken, HostUse, TokenContent};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::attach::Gate;
use crate::client::streams::Streams;
use crate::drain::Drain;
use crate::headers::{FixedHeaders, Forwarding, Unwritable};
use crate::installation::Installation;
use crate::io::workers::Load;
use crate::limits::shares::{ClientKey, OpenPermit};
use crate::peer::forwarders::Peer;
use crate::problem::Problem;
use crate::route::session_host::SessionHost;
use crate::route::{self, InvalidTarget};
use crate::tls::Shown;
use crate::upstream::dial_target::DialTarget;
use crate::upstream::{Dialer, Driver, Leads, Upstream};

/// Upstreams that wait for the next request of a client that makes many at once.
const IDLE_KEPT_MAX: usize = 8;

/// A connection's places: among all that are open, among its client's, and among its worker's.
#[derive(Debug)]
pub struct Taken {
    pub _of_all: OwnedSemaphorePermit,
    pub _of_the_clients: Option<OpenPermit<ClientKey>>,
    pub _of_its_worker: Load,
}

/// The origin of a connection.
#[derive(Debug)]
pub struct By {
    pub peer: Peer,
    pub is_tls: bool,
    /// By TLS, where its client has named a host.
    pub shown: Option<Box<Shown>>,
}

#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    pub is_tls: bool,
    shown: Option<Box<Shown>>,
    pub dialer: Arc<Dialer>,
    /// When the process stops.
    pub drain: Arc<Drain>,
    /// Ends the connection itself: its bytes must not go on, and its client does not read.
    pub cut: CancellationToken,
    /// Kept by its tunnel, too.
    pub place: Arc<Taken>,
    /// Where requests come side by side (HTTP/2).
    pub streams: Option<Streams>,
    pub counted: Counted,
    upstreams: Mutex<Vec<Upstream>>,
    /// Of several requests that find no connection to share, one dials.
    dialling: tokio::sync::Mutex<()>,
    last: Mutex<Last>,
}

/// Whether the rate limits have heard of the connection's next request: the plain lane counts one
/// before it learns that the session speaks HTTP/2 and hyper has to carry it.
#[derive(Debug, Default)]
pub struct Counted(AtomicBool);

/// Of the request before: a page's parts come with the same token and host.
#[derive(Debug, Default)]
struct Last {
    token: Option<(String, Arc<TokenContent>)>,
    /// The same of a session's host.
    own: Option<OpenedOn>,
    /// As it came, and as it is compared.
    host: Option<(Box<[u8]>, Arc<str>)>,
    /// The session's host that a Host names.
    site: Option<NamedSite>,
    /// The one in a request's target.
    named: Option<Arc<str>>,
    fixed: Option<Arc<FixedHeaders>>,
}

/// A token of the host form, opened for its use on its host.
#[derive(Debug)]
struct OpenedOn {
    usage: HostUse,
    base: Box<str>,
    text: Box<str>,
    token: Arc<HostToken>,
}

/// `site` is `None` on the cluster's own host.
#[derive(Debug)]
struct NamedSite {
    installation: Arc<Installation>,
    host: Arc<str>,
    site: Option<Arc<SessionHost>>,
}

impl Counted {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Once.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Connection {
    pub fn new(
        By { peer, is_tls, shown }: By,
        dialer: Arc<Dialer>,
        drain: Arc<Drain>,
        cut: CancellationToken,
        place: Taken,
        streams: Option<Streams>,
    ) -> Self {
        Self {
            peer,
            is_tls,
            shown,
            dialer,
            drain,
            cut,
            place: Arc::new(place),
            streams,
            counted: Counted::default(),
            upstreams: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// The upstream of an earlier request, if it suits this one; those that are of no more use are
    /// closed.
    pub async fn take_idle(&self, leads: &Leads) -> Option<Upstream> {
        loop {
            let mut upstream = {
                let mut kept = self.upstreams.lock();
                kept.retain(Upstream::is_fresh);
                let at = kept.iter().rposition(|upstream| upstream.leads_to(leads))?;
                match kept[at].shared() {
                    Some(shared) => shared,
                    None => kept.swap_remove(at),
                }
            };
            if upstream.is_ready().await {
                return Some(upstream);
            }
            self.discard(&upstream);
        }
    }

    /// One that was dialled for this request, or just now for another that it can be shared with.
    pub async fn dial(
        &self,
        leads: &Leads,
        gate: &Arc<Gate>,
        call: &DialTarget<'_>,
    ) -> Result<Upstream, Problem> {
        if !leads.is_shared() {
            // Requests that come side by side are tasks of their own.
            let driver = if self.streams.is_none() { Driver::Client } else { Driver::Own };
            return self.dialer.dial(leads, gate, call, driver).await;
        }
        let _one_dials = self.dialling.lock().await;
        if let Some(upstream) = self.take_idle(leads).await {
            return Ok(upstream);
        }
        let upstream = self.dialer.dial(leads, gate, call, Driver::Own).await?;
        if let Some(shared) = upstream.shared() {
            self.keep(shared);
        }
        Ok(upstream)
    }

    /// Keeps it for a later request, once its response has passed.
    pub fn keep(&self, upstream: Upstream) {
        let mut kept = self.upstreams.lock();
        kept.retain(Upstream::is_fresh);
        if kept.iter().any(|other| other.is_the_same(&upstream)) {
            return;
        }
        if kept.len() >= IDLE_KEPT_MAX {
            kept.remove(0);
        }
        kept.push(upstream.now_idle());
    }

    /// The upstream has more to carry than this task will wait for.
    pub fn let_go(&self, upstream: &mut Upstream) {
        // Where many requests come side by side, a cut would take the others along; there, what is
        // carried is let go of by itself.
        let cut = self.streams.is_none().then(|| self.cut.clone());
        upstream.go_by_itself(&self.dialer, cut);
    }

    /// At each turn of the connection's task: closes the upstreams that wait for nothing any more.
    pub fn tend(&self, cx: &mut Context<'_>) {
        let mut kept = self.upstreams.lock();
        kept.retain_mut(|upstream| upstream.waits(cx));
    }

    fn discard(&self, upstream: &Upstream) {
        let mut kept = self.upstreams.lock();
        kept.retain(|other| !other.is_the_same(upstream));
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock()
    }

    /// Opens a token. Forged ones are not remembered: they cost the same each time, and nobody is
    /// asked.
    pub fn open(&self, installation: &Installation, token: &str) -> Option<Arc<TokenContent>> {
        let mut last = self.last();
        if let Some((before, content)) = &last.token
            && before == token
        {
            return Some(content.clone());
        }
        let content = Arc::new(installation.sealer.open(token).ok()?);
        last.token = Some((token.to_owned(), content.clone()));
        Some(content)
    }

    /// The same of a session's host: a token opens for one use on one host.
    pub fn open_on(
        &self,
        installation: &Installation,
        usage: HostUse,
        site: &SessionHost,
        text: &str,
    ) -> Option<Arc<HostToken>> {
        let mut last = self.last();
        if let Some(before) = &last.own
            && (before.usage, &*before.text) == (usage, text)
            && before.base == site.base
        {
            return Some(before.token.clone());
        }
        let token = Arc::new(installation.sealer.open_on(usage, &site.base, text).ok()?);
        last.own = Some(OpenedOn { usage, base: site.base.clone(), text: text.into(), token: token.clone() });
        Some(token)
    }

    /// The session's host that a Host names; on the cluster's own, `None`.
    pub fn site(&self, installation: &Arc<Installation>, host: &Arc<str>) -> Option<Arc<SessionHost>> {
        let mut last = self.last();
        if let Some(before) = &last.site
            && Arc::ptr_eq(&before.installation, installation)
            && before.host == *host
        {
            return before.site.clone();
        }
        let site = SessionHost::of(host, &installation.cluster).map(Arc::new);
        let (installation, host) = (installation.clone(), host.clone());
        last.site = Some(NamedSite { installation, host, site: site.clone() });
        site
    }

    /// The one Host of a request.
    pub fn host<B>(&self, request: &Request<B>) -> Result<Arc<str>, InvalidTarget> {
        match route::lone_host(request.uri(), request.headers()) {
            Some(given) => self.lone_host(given.as_bytes()),
            None => {
                let host = route::host(request.version(), request.uri(), request.headers())?;
                let mut last = self.last();
                match &last.named {
                    Some(before) if **before == *host => return Ok(before.clone()),
                    _ => self.may_ask_for(&host)?,
                }
                let host: Arc<str> = host.into();
                last.named = Some(host.clone());
                Ok(host)
            }
        }
    }

    /// Whether this connection was opened for such a host. A forwarder speaks for many.
    fn may_ask_for(&self, host: &str) -> Result<(), InvalidTarget> {
        match &self.shown {
            Some(shown) if !self.peer.trusted && !shown.is_for(host) => Err(InvalidTarget::Misdirected),
            _ => Ok(()),
        }
    }

    /// The same where a header is all that names it.
    pub fn lone_host(&self, given: &[u8]) -> Result<Arc<str>, InvalidTarget> {
        let mut last = self.last();
        if let Some((before, host)) = &last.host
            && **before == *given
        {
            return Ok(host.clone());
        }
        let text = std::str::from_utf8(given).map_err(|_| InvalidTarget::HostSyntax)?;
        let host: Arc<str> = Arc::from(route::host_name(text)?);
        self.may_ask_for(&host)?;
        last.host = Some((given.into(), Arc::clone(&host)));
        Ok(host)
    }

    pub fn fixed_headers(
        &self,
        entry: &Arc<Entry>,
        backend: &BackendId,
        forwarding: &Forwarding<'_>,
    ) -> Result<Arc<FixedHeaders>, Unwritable> {
        let mut last = self.last();
        if let Some(fixed) = &last.fixed
            && fixed.suits(entry, forwarding.host, forwarding.scheme)
        {
            return Ok(fixed.clone());
        }
        let fixed = Arc::new(FixedHeaders::new(entry.clone(), backend, forwarding)?);
        last.fixed = Some(fixed.clone());
        Ok(fixed)
    }
}
