//! A response's body on its way to the client: streamed as it comes, its trailers filtered, and the
//! use of the backend given back at the moment the last byte has passed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use jetway_service::lifecycle::Lifecycle;
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::attach::{Gate, Using};
use crate::client::connection::Connection;
use crate::forward::worker::Script;
use crate::upstream::Upstream;
use crate::upstream::request_body::{Polled, filtered, poll_incoming};

/// From the proxy to the client.
#[derive(Debug)]
pub enum ResponseBody {
    Own(Full<Bytes>),
    /// `first`: the frame that had come with the head.
    Backend {
        first: Option<Frame<Bytes>>,
        body: Incoming,
        carried: Carried,
    },
    /// One of these, behind the listener of a service worker.
    Script(Box<Script>),
}

/// Kept by a response until its last byte has passed: dropped before, it breaks the backend's
/// connection off.
#[derive(Debug)]
pub struct Kept {
    pub _using: Using,
    /// `None`: it can take no other request.
    pub upstream: Option<Upstream>,
    pub connection: Arc<Connection>,
    /// Of a connection with many requests.
    pub _open: Option<TaskTrackerToken>,
    /// Ends an upstream that can take no other request.
    pub _last: Option<Upstream>,
}

#[derive(Debug)]
pub enum Carried {
    /// By the body alone: its client has this one connection for it, which can be cut.
    Here(Option<Box<Kept>>),
    /// Also within reach of a task that lets go of it when the gate closes: the client need not
    /// read, and its connection carries others.
    Within {
        kept: Arc<Mutex<Option<Box<Kept>>>>,
        /// Ends that task.
        _over: DropGuard,
    },
}

impl Kept {
    /// The last byte has passed.
    fn finish(self) {
        if let Some(upstream) = self.upstream {
            self.connection.keep(upstream);
        }
    }
}

impl Carried {
    fn new(kept: Kept, gate: &Arc<Gate>, lifecycle: &Lifecycle) -> Self {
        if kept.connection.streams.is_none() {
            return Carried::Here(Some(Box::new(kept)));
        }
        let cell = Arc::new(Mutex::new(Some(Box::new(kept))));
        let over = CancellationToken::new();
        let (within, gate, ended) = (cell.clone(), gate.clone(), over.clone());
        lifecycle.spawn(async move {
            tokio::select! {
                () = ended.cancelled() => {}
                _ = gate.closed() => drop(take(&within)),
            }
        });
        Carried::Within { kept: cell, _over: over.drop_guard() }
    }

    fn finish(&mut self) {
        let kept = match self {
            Carried::Here(kept) => kept.take(),
            Carried::Within { kept, .. } => take(kept),
        };
        if let Some(kept) = kept {
            kept.finish();
        }
    }
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Carried::Within { kept, .. } = self {
            drop(take(kept));
        }
    }
}

fn take(cell: &Mutex<Option<Box<Kept>>>) -> Option<Box<Kept>> {
    cell.lock().take()
}

impl ResponseBody {
    pub fn own(bytes: Bytes) -> Self {
        ResponseBody::Own(Full::new(bytes))
    }

    pub fn backend(
        first: Option<Frame<Bytes>>,
        body: Incoming,
        kept: Kept,
        gate: &Arc<Gate>,
        lifecycle: &Lifecycle,
    ) -> Self {
        // hyper never polls a body that has nothing to give.
        if first.is_none() && body.is_end_stream() {
            kept.finish();
            return ResponseBody::Backend { first, body, carried: Carried::Here(None) };
        }
        let carried = Carried::new(kept, gate, lifecycle);
        ResponseBody::Backend { first: first.map(filtered), body, carried }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<hyper::Error> {
        match &mut *self {
            ResponseBody::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            ResponseBody::Script(script) => Pin::new(&mut **script).poll_frame(cx),
            ResponseBody::Backend { first, body, carried } => {
                let frame = match first.take() {
                    Some(frame) => Some(Ok(frame)),
                    None => ready!(poll_incoming(body, cx)),
                };
                if frame.is_none() || body.is_end_stream() {
                    carried.finish();
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Own(body) => body.is_end_stream(),
            ResponseBody::Script(script) => script.is_end_stream(),
            ResponseBody::Backend { first, body, .. } => first.is_none() && body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Own(body) => body.size_hint(),
            ResponseBody::Script(script) => script.size_hint(),
            ResponseBody::Backend { first, body, .. } => {
                let here = first.as_ref().and_then(Frame::data_ref).map_or(0, |data| data.len() as u64);
                let (rest, mut hint) = (body.size_hint(), SizeHint::new());
                hint.set_lower(rest.lower() + here);
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper + here);
                }
                hint
            }
        }
    }
}
