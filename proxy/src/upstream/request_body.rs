//! A request's body on its way to a backend: streamed as it comes, its trailers filtered.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::headers;
use crate::upstream::body_timeout::{BodyError, Fault, TimedBody};
use crate::upstream::expect::Patience;

/// From the client to the backend.
#[derive(Debug)]
pub enum RequestBody {
    Client(TimedBody<Incoming>),
    /// The client sends it once the backend has said that it wants it.
    Expected(TimedBody<Incoming>, Patience),
    None,
}

impl RequestBody {
    /// Says later on whether it was the client's own fault that it did not come whole.
    pub fn fault(&self) -> Fault {
        match self {
            RequestBody::Client(body) | RequestBody::Expected(body, _) => body.fault().clone(),
            RequestBody::None => Fault::default(),
        }
    }
}

pub type Polled<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

pub fn poll_incoming<B: Body<Data = Bytes> + Unpin>(body: &mut B, cx: &mut Context<'_>) -> Polled<B::Error> {
    let frame = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(frame.map(|frame| frame.map(filtered)))
}

/// Without the trailers that must not come late.
pub fn filtered(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        headers::trailers(trailers);
    }
    frame
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<BodyError> {
        match &mut *self {
            RequestBody::Client(body) => poll_incoming(body, cx),
            RequestBody::Expected(body, patience) => {
                ready!(patience.poll_wanted(cx));
                poll_incoming(body, cx)
            }
            RequestBody::None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Client(body) | RequestBody::Expected(body, _) => body.is_end_stream(),
            RequestBody::None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Client(body) | RequestBody::Expected(body, _) => body.size_hint(),
            RequestBody::None => SizeHint::with_exact(0),
        }
    }
}
