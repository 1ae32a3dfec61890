//! One admitted request: its headers made the backend's, sent over one of the client connection's
//! own upstreams, and the answer brought back.

use std::error::Error;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{EXPECT, HOST};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version, response};
use hyper::body::{Body, Frame, Incoming};
use jetway_protocol::ids::GrantId;
use jetway_protocol::spec::{Port, Protocol};
use jetway_protocol::time::UnixMicros;
use tokio::time::{Instant, timeout};

use crate::attach::{Admission, BackendKey, Drone};
use crate::client::connection::Connection;
use crate::forward::response_body::{Kept, ResponseBody};
use crate::forward::switch::{Switch, SwitchRequest};
use crate::forward::upgrade;
use crate::forward::worker;
use crate::headers::framing::Misframed;
use crate::headers::{self, FixedHeaders, Forwarding, Readers, Served, Told};
use crate::problem::{Problem, unwritable};
use crate::route::BackendTarget;
use crate::upstream::body_timeout::TimedBody;
use crate::upstream::dial_target::DialTargets;
use crate::upstream::expect::{self, Expectation};
use crate::upstream::inline::BodyStart;
use crate::upstream::request_body::RequestBody;
use crate::upstream::{Leads, Upstream};

/// For the head of an answer, long polls included.
pub const RESPONSE_HEAD_MAX: Duration = Duration::from_secs(600);

/// A request on its way to one backend.
pub struct Exchange<'a> {
    pub connection: &'a Arc<Connection>,
    pub drone: Arc<Drone>,
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
    pub fixed: Arc<FixedHeaders>,
    pub scheme: &'static str,
    /// The request's Host.
    pub host: Arc<str>,
    pub arrived: (UnixMicros, Instant),
    pub form: Form,
}

/// The form of the request's URL. `is_worker`: a service worker's script is asked for, on a host
/// where the proxy has paths of its own.
#[derive(Debug)]
pub enum Form {
    Path { is_worker: bool },
    Host { readers: Readers, is_worker: bool },
}

impl Form {
    fn is_worker(&self) -> bool {
        let (Form::Path { is_worker } | Form::Host { is_worker, .. }) = self;
        *is_worker
    }

    fn finish(&self, response: Response<ResponseBody>) -> Result<Response<ResponseBody>, Problem> {
        if self.is_worker() { worker::with_first_listener(response) } else { Ok(response) }
    }
}

/// A request as it is sent, and a copy to send it once more.
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
        asked: Option<SwitchRequest>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let (switch, asked) = asked.map(SwitchRequest::into_parts).unzip();
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
            upstream.take(&mut body).await.map_err(|error| broken(&error))?
        } else {
            BodyStart::Part(None)
        };
        let response = Response::from_parts(head, body);
        let (wall, since) = self.arrived;
        self.drone.first_byte(&self.key, wall, since.elapsed());
        let unmet = outgoing.expectation.is_some_and(|expectation| expectation.ends_unmet(response.status()));
        match came {
            BodyStart::Whole(bytes) => {
                self.connection.keep(upstream);
                let (head, _) = response.into_parts();
                let head = self.as_the_clients(head);
                self.form.finish(Response::from_parts(head, ResponseBody::own(bytes)))
            }
            BodyStart::Part(first) => {
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
            fixed: &self.fixed,
            verified_path: &self.target.verified_path,
            forwarding: Forwarding { peer: self.connection.peer, scheme: self.scheme, host: &self.host },
            upgrade: asked,
        };
        headers::to_backend(&mut parts.headers, &told)
            .map_err(|reason| unwritable(&self.key.backend, &reason))?;
        if self.form.is_worker() {
            worker::ask_for_all(&mut parts.headers);
        }
        // Streams of HTTP/2 may well be quiet for long, and hold up no other.
        let pause = self.body_pause.filter(|_| parts.version != Version::HTTP_2);
        let body = TimedBody::new(body, pause);
        let expectation = expect::is_in(&parts.headers).then(expect::pair);
        let (expectation, body) = match (expectation, has_body) {
            (_, false) => (None, RequestBody::None),
            // Of HTTP/2, hyper has no way to ask for a body; its clients wait for a while, and send
            // it all the same.
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
            expectation.go_with(&mut request);
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

    /// Sends it over an idle upstream or a new one. An idle one may be closed by the backend at the
    /// same moment: then once more over a new one, if the request never left or does no harm twice.
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
        let Self { key, grant, drone, admission, port, connection, .. } = self;
        let until = self.arrived.1 + self.hold;
        let mut targets = DialTargets::new((key, *grant), drone, admission, *port, until);
        let mut upstream = loop {
            match connection.dial(leads, &admission.gate, &targets.next().await?).await {
                Err(Problem::DroneSilent) => {}
                dialled => break dialled?,
            }
        };
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
    ) -> Result<Response<ResponseBody>, Problem> {
        match (response.status(), switch) {
            (StatusCode::SWITCHING_PROTOCOLS, Some(switch)) => {
                return upgrade::switch(self, upstream, response, switch);
            }
            (StatusCode::SWITCHING_PROTOCOLS, None) => return Err(Problem::UnaskedUpgrade),
            // A client that asked for a tunnel by CONNECT takes any success for one (RFC 8441 §5).
            (status, Some(switch)) if switch.is_connect() && status.is_success() => {
                return Err(Problem::NotSwitched);
            }
            _ => {}
        }
        let (head, body) = response.into_parts();
        let head = self.as_the_clients(head);
        let connection = self.connection.clone();
        let (upstream, last) = if unmet { (None, Some(upstream)) } else { (Some(upstream), None) };
        let open = connection.streams.as_ref().map(crate::client::streams::Streams::response);
        let Admission { using, gate, .. } = self.admission;
        let lifecycle = self.connection.dialer.lifecycle.clone();
        let kept = Kept { _using: using, upstream, connection, _open: open, _last: last };
        let body = ResponseBody::backend(first, body, kept, &gate, &lifecycle);
        self.form.finish(Response::from_parts(head, body))
    }

    fn as_the_clients(&self, mut head: response::Parts) -> response::Parts {
        head.version = Version::HTTP_11;
        headers::to_client(&mut head.headers, &self.fixed.backend, &self.served(), None);
        head
    }

    pub fn served(&self) -> Served<'_> {
        match &self.form {
            Form::Host { readers, .. } => Served::Guarded(self.fixed.guard(), readers),
            Form::Path { .. } if self.admission.entry.subdomain.is_some() => Served::Alone,
            Form::Path { .. } => Served::Shared(self.target.shared()),
        }
    }
}

struct Failed {
    problem: Problem,
    /// The request, where not a byte of it was sent.
    unsent: Option<Request<RequestBody>>,
}

/// Why there is no answer, or no more of one.
fn broken(error: &hyper::Error) -> Problem {
    let mut source = error.source();
    while let Some(error) = source {
        // hyper's word for chunks that are none.
        let kind = error.downcast_ref().map(std::io::Error::kind);
        if matches!(kind, Some(ErrorKind::InvalidData | ErrorKind::InvalidInput)) {
            return Problem::BadAnswer;
        }
        source = error.source();
    }
    if error.is_parse() { Problem::BadAnswer } else { Problem::Terminated }
}

async fn exchange(
    upstream: &mut Upstream,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failed> {
    let fault = request.body().fault();
    let answered = timeout(RESPONSE_HEAD_MAX, upstream.send(request)).await;
    if upstream.is_flooding() {
        return Err(Failed { problem: Problem::TooManyInterim, unsent: None });
    }
    match answered {
        Ok(Ok(mut response)) => match headers::framing::checked(&mut response) {
            Ok(()) => Ok(response),
            Err(Misframed) => Err(Failed { problem: Problem::BadAnswer, unsent: None }),
        },
        Ok(Err(mut failed)) => {
            if let Some(problem) = fault.get() {
                return Err(Failed { problem, unsent: None });
            }
            let unsent = failed.take_message();
            tracing::debug!(reason = %failed.error(), unsent = unsent.is_some(), "no answer from a backend");
            // A request that was never sent was not answered, either.
            let problem = if unsent.is_some() { Problem::Terminated } else { broken(failed.error()) };
            Err(Failed { problem, unsent })
        }
        Err(_) => Err(Failed { problem: Problem::ResponseTimeout, unsent: None }),
    }
}
