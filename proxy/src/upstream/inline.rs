//! An HTTP/1.1 connection to a backend that its client's own task drives: for a request, and for an
//! answer that comes whole, no other task is woken. A connection that has more to carry gets a task
//! of its own from `connection`.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body, Frame};
use hyper::body::Incoming;

use crate::attach::Gate;

pub struct InlineConnection {
    /// `None`: it is over.
    connection: Option<BoxFuture<'static, hyper::Result<()>>>,
    gate: Arc<Gate>,
    /// Wakes the client's task when the gate closes.
    closed: BoxFuture<'static, ()>,
    is_registered: bool,
}

/// The part of an answer's body that is here with its head.
pub enum BodyStart {
    Whole(Bytes),
    Part(Option<Frame<Bytes>>),
}

impl fmt::Debug for InlineConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InlineConnection")
            .field("is_over", &self.connection.is_none())
            .finish_non_exhaustive()
    }
}

impl InlineConnection {
    pub fn new(connection: BoxFuture<'static, hyper::Result<()>>, gate: Arc<Gate>) -> Self {
        let watched = gate.clone();
        let closed = Box::pin(async move { drop(watched.closed().await) });
        Self { connection: Some(connection), gate, closed, is_registered: false }
    }

    pub fn into_parts(self) -> (Option<BoxFuture<'static, hyper::Result<()>>>, Arc<Gate>) {
        (self.connection, self.gate)
    }

    /// Until there is what was wanted. What the connection has to say of its own end, it says
    /// there.
    pub async fn drive<F: Future>(&mut self, wanted: F) -> F::Output {
        let mut wanted = pin!(wanted);
        poll_fn(|cx| {
            self.register(cx);
            self.turn(cx);
            wanted.as_mut().poll(cx)
        })
        .await
    }

    /// For one that waits for a next request, at each of the client's task's turns: whether it may
    /// go on waiting.
    pub fn waits(&mut self, cx: &mut Context<'_>) -> bool {
        self.register(cx);
        !self.gate.is_closing() && self.turn(cx)
    }

    /// Takes the part of a body that has come, without waiting for any.
    pub async fn take(&mut self, body: &mut Incoming) -> hyper::Result<BodyStart> {
        poll_fn(|cx| Poll::Ready(self.take_now(cx, body))).await
    }

    fn take_now(&mut self, cx: &mut Context<'_>, body: &mut Incoming) -> hyper::Result<BodyStart> {
        if body.is_end_stream() {
            return Ok(BodyStart::Whole(Bytes::new()));
        }
        // The connection hands its bytes over once it was asked for them.
        for _ in 0..2 {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(Some(frame)) => {
                    let frame = frame?;
                    return Ok(match frame.into_data() {
                        Ok(data) if body.is_end_stream() => BodyStart::Whole(data),
                        Ok(data) => BodyStart::Part(Some(Frame::data(data))),
                        Err(frame) => BodyStart::Part(Some(frame)),
                    });
                }
                Poll::Ready(None) => return Ok(BodyStart::Whole(Bytes::new())),
                Poll::Pending => {
                    self.turn(cx);
                }
            }
        }
        Ok(BodyStart::Part(None))
    }

    /// False: it is over.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            if let Err(reason) = ended {
                tracing::debug!(%reason, "a connection to a backend broke");
            }
            self.connection = None;
        }
        self.connection.is_some()
    }

    /// Once: the task is always the same. To ask each time would take a lock that all of the gate's
    /// connections share.
    fn register(&mut self, cx: &mut Context<'_>) {
        if !std::mem::replace(&mut self.is_registered, true) {
            let _is_closing_tells = self.closed.as_mut().poll(cx);
        }
    }
}
