//! Bodies on their way through: streamed as they come, their trailers filtered, and the use of the backend given back
//! at the moment the last byte has passed.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::attach::Using;
use crate::headers;

/// From the client to the backend.
#[derive(Debug)]
pub enum RequestBody {
    Client(Incoming),
    None,
}

/// From the proxy to the client.
#[derive(Debug)]
pub enum OutBody {
    Own(Full<Bytes>),
    /// The use ends with the body, or with the client's connection.
    Backend {
        body: Incoming,
        using: Option<Using>,
    },
}

impl OutBody {
    pub fn own(bytes: Bytes) -> Self {
        OutBody::Own(Full::new(bytes))
    }

    pub fn backend(body: Incoming, using: Using) -> Self {
        // hyper never polls a body that has nothing to give.
        let using = (!body.is_end_stream()).then_some(using);
        OutBody::Backend { body, using }
    }
}

type Polled<E> = Poll<Option<Result<Frame<Bytes>, E>>>;

fn poll_incoming(body: &mut Incoming, cx: &mut Context<'_>) -> Polled<hyper::Error> {
    let frame = ready!(Pin::new(body).poll_frame(cx));
    Poll::Ready(frame.map(|frame| {
        frame.map(|mut frame| {
            if let Some(trailers) = frame.trailers_mut() {
                headers::trailers(trailers);
            }
            frame
        })
    }))
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<hyper::Error> {
        match &mut *self {
            RequestBody::Client(body) => poll_incoming(body, cx),
            RequestBody::None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            RequestBody::Client(body) => body.is_end_stream(),
            RequestBody::None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            RequestBody::Client(body) => body.size_hint(),
            RequestBody::None => SizeHint::with_exact(0),
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled<hyper::Error> {
        match &mut *self {
            OutBody::Own(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            OutBody::Backend { body, using } => {
                let frame = ready!(poll_incoming(body, cx));
                if frame.is_none() || body.is_end_stream() {
                    *using = None;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            OutBody::Own(body) => body.is_end_stream(),
            OutBody::Backend { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            OutBody::Own(body) => body.size_hint(),
            OutBody::Backend { body, .. } => body.size_hint(),
        }
    }
}
