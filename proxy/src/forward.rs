//! One admitted request: its headers made the backend's, sent over one of the client connection's own upstreams, and the
//! answer brought back.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HOST};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Frame, Incoming};
use jetway_protocol::ids::GrantId;
use jetway_protocol::spec::{Port, Protocol};
use jetway_protocol::time::UnixMicros;
use tokio::time::{Instant, timeout};

use crate::answer::Problem;
use crate::attach::{Admission, BackendKey, Drone};
use crate::body::{Kept, OutBody, RequestBody};
use crate::connection::Connection;
use crate::driven::Came;
use crate::expect::{self, Expectation};
use crate::headers::{self, Forwarding, Shared, Standing, Told};
use crate::paced::{BodyError, Paced};
use crate::route::BackendTarget;
use crate::switch::{Asked, Switch};
use crate::upgrade;
use crate::upstream::{Call, Leads, Upstream};

/// For the head of an answer, long polls included.
pub const RESPONSE_HEAD_MAX: Duration = Duration::from_secs(600);

pub const UNWRITABLE: Problem =
    Problem::Internal("what the application should be told of you cannot be written as a header");

/// A request on its way to one backend.
pub struct Exchange<'a> {
    pub connection: &'a Arc<Connection>,
    pub drone: &'a Arc<Drone>,
    pub key: BackendKey,
    pub grant: GrantId,
    pub target: BackendTarget,
    /// The one of the backend's ports that was asked for.
    pub port: Port,
    pub admission: Admission,
    /// From the arrival, how long it may wait for its drone.
    pub hold: Duration,
    /// The longest wait for the next piece of an HTTP/1.1 request's body.
    pub body_pause: Option<Duration>,
    pub standing: Arc<Standing>,
    pub scheme: &'static str,
    /// The request's Host.
    pub host: Arc<str>,
    pub arrived: (UnixMicros, Instant),
}

/// What is sent, and what is kept to send it once more.
struct Outgoing {
    request: Request<RequestBody>,
    /// The same again, where repeating does no harm: idempotent, and without a body.
    again: Option<Request<RequestBody>>,
    /// The client waits to be asked for its body.
    expectation: Option<Expectation>,
    has_body: bool,
}

impl Exchange<'_> {
    /// `asked`: the client wants to speak something else than HTTP from now on.
    pub async fn run(
        mut self,
        request: Request<Incoming>,
        asked: Option<Asked>,
    ) -> Result<Response<OutBody>, Problem> {
        let (switch, asked) = asked.map(Asked::into_parts).unzip();
        if switch.is_some() {
            // Whatever the application speaks, a switch is HTTP/1.1's.
            self.port.protocol = Protocol::Http1;
        }
        let outgoing = self.outgoing(request, asked.as_ref())?;
        let linger = u64::from(self.admission.entry.linger_seconds);
        self.admission.using.linger = Some(Duration::from_secs(linger));
        let (mut upstream, response) = self.send(outgoing.request, outgoing.again).await?;
        let (head, mut body) = response.into_parts();
        let came = if !outgoing.has_body && head.status != StatusCode::SWITCHING_PROTOCOLS {
            upstream.take(&mut body).await.map_err(|_| Problem::Terminated)?
        } else {
            Came::Part(None)
        };
        let response = Response::from_parts(head, body);
        let (wall, since) = self.arrived;
        self.drone.first_byte(&self.key, wall, since.elapsed());
        let unmet = outgoing.expectation.is_some_and(|expectation| expectation.ends_unmet(response.status()));
        match came {
            Came::Whole(bytes) => {
                self.connection.keep(upstream);
                Ok(self.as_the_clients(response).map(|_| OutBody::own(bytes)))
            }
            Came::Part(first) => {
                self.connection.let_go(&mut upstream);
                self.bring_back(upstream, response, first, switch, unmet)
            }
        }
    }

    fn outgoing(
        &self,
        request: Request<Incoming>,
        asked: Option<&headers::Upgrade>,
    ) -> Result<Outgoing, Problem> {
        let has_body = asked.is_none() && !request.body().is_end_stream();
        let (mut parts, body) = request.into_parts();
        let told = Told {
            standing: &self.standing,
            verified_path: &self.target.verified_path,
            forwarding: Forwarding { peer: self.connection.peer, scheme: self.scheme, host: &self.host },
            upgrade: asked,
        };
        headers::to_backend(&mut parts.headers, &told).map_err(|reason| {
            tracing::warn!(backend = %self.key.backend, %reason, "a request that no header can tell of");
            UNWRITABLE
        })?;
        // Streams of HTTP/2 may well be quiet for long, and hold up nobody.
        let pause = self.body_pause.filter(|_| parts.version != Version::HTTP_2);
        let body = Paced::new(body, pause);
        let expectation = expect::is_in(&parts.headers).then(expect::pair);
        let (expectation, body) = match (expectation, has_body) {
            (_, false) => (None, RequestBody::None),
            // Of HTTP/2, hyper has no way to ask for a body; its clients wait for a while, and send it all the same.
            (Some((expectation, patience)), true)
                if parts.version == Version::HTTP_11 && self.port.protocol == Protocol::Http1 =>
            {
                (Some(expectation), RequestBody::Expected(body, patience))
            }
            (_, true) => (None, RequestBody::Client(body)),
        };
        if expectation.is_none() {
            parts.headers.remove(EXPECT);
        }
        let method = if asked.is_some() { Method::GET } else { parts.method };
        let again = (method.is_idempotent() && !has_body)
            .then(|| self.head(method.clone(), parts.headers.clone(), RequestBody::None))
            .transpose()?;
        let mut request = self.head(method, parts.headers, body)?;
        if let Some(expectation) = &expectation {
            expectation.listen(&mut request);
        }
        Ok(Outgoing { request, again, expectation, has_body })
    }

    fn head(
        &self,
        method: Method,
        headers: HeaderMap,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, Problem> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.headers_mut() = headers;
        *request.version_mut() = Version::HTTP_11;
        let path = self.target.forward.clone();
        if self.port.protocol == Protocol::H2c {
            // There, the host is part of the target (RFC 9113 §8.3.1).
            request.headers_mut().remove(HOST);
            let uri = Uri::builder().scheme(Scheme::HTTP).authority(&*self.host).path_and_query(path);
            *request.uri_mut() =
                uri.build().map_err(|_| Problem::BadRequest("the host cannot be part of a target"))?;
            *request.version_mut() = Version::HTTP_2;
        } else {
            *request.uri_mut() = Uri::from(path);
        }
        Ok(request)
    }

    /// Sends it over an idle upstream or a new one. An idle one may be closed by the backend at the same moment:
    /// then once more over a new one, if the request never left or does no harm twice.
    async fn send(
        &self,
        request: Request<RequestBody>,
        again: Option<Request<RequestBody>>,
    ) -> Result<(Upstream, Response<Incoming>), Problem> {
        let mut request = request;
        let gate = &self.admission.gate;
        let leads = Leads::to(gate, self.port);
        if let Some(mut upstream) = self.connection.take_idle(&leads).await {
            let exchanged = if upstream.is_driven() {
                tokio::select! {
                    biased;
                    exchanged = exchange(&mut upstream, request) => exchanged,
                    why = gate.closing() => return Err(why.into()),
                }
            } else {
                tokio::select! {
                    exchanged = exchange(&mut upstream, request) => exchanged,
                    why = gate.closed() => return Err(why.into()),
                }
            };
            match exchanged {
                Ok(response) => return Ok((upstream, response)),
                Err(Failed { problem, unsent }) => {
                    match unsent.or(again).filter(|_| problem == Problem::Terminated) {
                        Some(once_more) => request = once_more,
                        None => return Err(problem),
                    }
                }
            }
        }
        tokio::select! {
            answered = self.send_over_a_new_one(&leads, request) => answered,
            why = gate.closed() => Err(why.into()),
        }
    }

    async fn send_over_a_new_one(
        &self,
        leads: &Leads,
        request: Request<RequestBody>,
    ) -> Result<(Upstream, Response<Incoming>), Problem> {
        let hold = self.hold.saturating_sub(self.arrived.1.elapsed());
        let again = self.drone.enter_again(&self.key, self.grant, hold).await?;
        let Admission { entry, door, .. } = again.as_ref().unwrap_or(&self.admission);
        let address = SocketAddr::new(entry.address.ip(), self.port.port);
        let call = Call { key: &self.key, address, door };
        let mut upstream = self.connection.dial(leads, &self.admission.gate, &call).await?;
        match exchange(&mut upstream, request).await {
            Ok(response) => Ok((upstream, response)),
            Err(failed) => Err(failed.problem),
        }
    }

    fn bring_back(
        self,
        upstream: Upstream,
        response: Response<Incoming>,
        first: Option<Frame<Bytes>>,
        switch: Option<Switch>,
        unmet: bool,
    ) -> Result<Response<OutBody>, Problem> {
        match (response.status(), switch) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(switch)) => {
                return upgrade::switch(self, upstream, response, switch);
            }
            (StatusCode::SWITCHING_PROTOCOLS, None) => return Err(Problem::UnaskedUpgrade),
            // To who asked for a tunnel by CONNECT, any success would look like one (RFC 8441 §5).
            (status, Some(switch)) if switch.is_connect() && status.is_success() => {
                return Err(Problem::NotSwitched);
            }
            _ => {}
        }
        let response = self.as_the_clients(response);
        let connection = self.connection.clone();
        let (upstream, last) = if unmet { (None, Some(upstream)) } else { (Some(upstream), None) };
        let open = connection.streams.as_ref().map(crate::streams::Streams::response);
        let Admission { using, gate, .. } = self.admission;
        let lifecycle = self.connection.dialer.lifecycle.clone();
        let kept = Kept { _using: using, upstream, connection, _open: open, _last: last };
        Ok(response.map(|body| OutBody::backend(first, body, kept, &gate, &lifecycle)))
    }

    fn as_the_clients<B>(&self, mut response: Response<B>) -> Response<B> {
        *response.version_mut() = Version::HTTP_11;
        let shared = self.shared();
        headers::to_client(response.headers_mut(), &self.standing.backend, shared.as_ref(), None);
        response
    }

    /// `None`: the session has an origin of its own.
    pub fn shared(&self) -> Option<Shared<'_>> {
        self.admission.entry.subdomain.is_none().then(|| self.target.shared())
    }
}

struct Failed {
    problem: Problem,
    /// The request, where not a byte of it was sent.
    unsent: Option<Request<RequestBody>>,
}

/// Whether it was the client that the backend waited for in vain.
fn is_paused(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if matches!(error.downcast_ref(), Some(BodyError::Paused)) {
            return true;
        }
        source = error.source();
    }
    false
}

async fn exchange(
    upstream: &mut Upstream,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failed> {
    match timeout(RESPONSE_HEAD_MAX, upstream.send(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut failed)) => {
            if is_paused(failed.error()) {
                return Err(Failed { problem: Problem::BodyPaused, unsent: None });
            }
            let unsent = failed.take_message();
            tracing::debug!(reason = %failed.error(), unsent = unsent.is_some(), "no answer from a backend");
            Err(Failed { problem: Problem::Terminated, unsent })
        }
        Err(_) => Err(Failed { problem: Problem::ResponseTimeout, unsent: None }),
    }
}
