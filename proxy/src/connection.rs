//! What lives as long as one client connection: its peer, its own upstream, the token it used last.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use jetway_protocol::token::TokenContent;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::attach::Gate;
use crate::installation::Installation;
use crate::upstream::{Dialer, Upstream};

#[derive(Debug)]
pub struct Connection {
    pub peer: SocketAddr,
    pub dialer: Arc<Dialer>,
    /// Closes upgraded connections when the process stops.
    pub tunnels_stop: CancellationToken,
    /// Ends the connection itself: what it carries must not go on, and its client does not read.
    pub cut: CancellationToken,
    /// Its place among the open connections, kept by its tunnel, too.
    pub place: Arc<OwnedSemaphorePermit>,
    idle: Mutex<Option<Upstream>>,
    opened: Mutex<Option<(String, Arc<TokenContent>)>>,
}

impl Connection {
    pub fn new(
        peer: SocketAddr,
        dialer: Arc<Dialer>,
        tunnels_stop: CancellationToken,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            peer,
            dialer,
            tunnels_stop,
            cut: CancellationToken::new(),
            place: Arc::new(place),
            idle: Mutex::default(),
            opened: Mutex::default(),
        }
    }

    /// The upstream of an earlier request, if it suits this one. One that does not is closed.
    pub async fn take_idle(&self, gate: &Arc<Gate>) -> Option<Upstream> {
        let mut upstream = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        upstream.is_good_for(gate).await.then_some(upstream)
    }

    pub fn keep_idle(&self, upstream: Upstream) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(upstream);
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
