//! What lives as long as one client connection: its peer, its own upstreams, the token it used last.

use std::sync::{Arc, Mutex, PoisonError};

use jetway_protocol::token::TokenContent;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::answer::Problem;
use crate::attach::Gate;
use crate::forwarders::Peer;
use crate::installation::Installation;
use crate::streams::Streams;
use crate::upstream::{Call, Dialer, Leads, Upstream};

/// Upstreams that wait for the next request of a client that makes many at once.
const IDLE_KEPT_MAX: usize = 8;

#[derive(Debug)]
pub struct Connection {
    pub peer: Peer,
    pub dialer: Arc<Dialer>,
    /// Closes upgraded connections when the process stops.
    pub tunnels_stop: CancellationToken,
    /// Ends the connection itself: what it carries must not go on, and its client does not read.
    pub cut: CancellationToken,
    /// Its place among the open connections, kept by its tunnel, too.
    pub place: Arc<OwnedSemaphorePermit>,
    /// Where requests come side by side (HTTP/2).
    pub streams: Option<Streams>,
    upstreams: Mutex<Vec<Upstream>>,
    /// Of several requests that find no connection to share, one dials.
    dialling: tokio::sync::Mutex<()>,
    opened: Mutex<Option<(String, Arc<TokenContent>)>>,
}

impl Connection {
    pub fn new(
        peer: Peer,
        dialer: Arc<Dialer>,
        tunnels_stop: CancellationToken,
        cut: CancellationToken,
        place: OwnedSemaphorePermit,
        streams: Option<Streams>,
    ) -> Self {
        Self {
            peer,
            dialer,
            tunnels_stop,
            cut,
            place: Arc::new(place),
            streams,
            upstreams: Mutex::default(),
            dialling: tokio::sync::Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// The upstream of an earlier request, if it suits this one; those that are of no more use are closed.
    pub async fn take_idle(&self, leads: &Leads) -> Option<Upstream> {
        loop {
            let mut upstream = {
                let mut kept = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
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
    pub async fn dial(&self, leads: &Leads, gate: &Arc<Gate>, call: &Call<'_>) -> Result<Upstream, Problem> {
        // Where many requests come side by side, a cut would take the others along; there, what is carried is let go of
        // by itself.
        let cut = self.streams.is_none().then(|| self.cut.clone());
        if !leads.is_shared() {
            return self.dialer.dial(leads, gate, call, cut).await;
        }
        let _one_dials = self.dialling.lock().await;
        if let Some(upstream) = self.take_idle(leads).await {
            return Ok(upstream);
        }
        let upstream = self.dialer.dial(leads, gate, call, cut).await?;
        if let Some(shared) = upstream.shared() {
            self.keep(shared);
        }
        Ok(upstream)
    }

    /// Keeps it for a later request, once its response has passed.
    pub fn keep(&self, upstream: Upstream) {
        let mut kept = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(Upstream::is_fresh);
        if kept.iter().any(|other| other.is_the_same(&upstream)) {
            return;
        }
        if kept.len() >= IDLE_KEPT_MAX {
            kept.remove(0);
        }
        kept.push(upstream.now_idle());
    }

    fn discard(&self, upstream: &Upstream) {
        let mut kept = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| !other.is_the_same(upstream));
    }

    /// Opens a token; a page's parts come with the same one, so the last is remembered. Forged ones are not: they
    /// cost the same each time, and nobody is asked.
    pub fn open(&self, installation: &Installation, token: &str) -> Option<Arc<TokenContent>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, content)) = &*opened
            && last == token
        {
            return Some(content.clone());
        }
        let content = Arc::new(installation.sealer.open(token).ok()?);
        *opened = Some((token.to_owned(), content.clone()));
        Some(content)
    }
}
