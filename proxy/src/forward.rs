//! One admitted request: its headers made the backend's, sent over the client connection's own upstream, and the
//! answer brought back.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use jetway_protocol::ids::GrantId;
use jetway_protocol::time::UnixMicros;
use tokio::time::{Instant, timeout};

use crate::answer::Problem;
use crate::attach::{Admission, BackendKey, Drone};
use crate::body::{OutBody, RequestBody};
use crate::connection::Connection;
use crate::headers::{self, Told};
use crate::route::BackendTarget;
use crate::upgrade;
use crate::upstream::Upstream;

/// For the head of an answer, long polls included.
const RESPONSE_HEAD_MAX: Duration = Duration::from_secs(600);

/// A request on its way to one backend.
pub struct Exchange<'a> {
    pub connection: &'a Connection,
    pub drone: &'a Arc<Drone>,
    pub key: BackendKey,
    pub grant: GrantId,
    pub target: BackendTarget,
    pub admission: Admission,
    /// From the arrival, how long it may wait for its drone.
    pub hold: Duration,
    pub scheme: &'static str,
    pub arrived: (UnixMicros, Instant),
}

/// What is sent, and what is kept to send it once more.
struct Outgoing {
    request: Request<RequestBody>,
    /// The same again, where repeating does no harm: idempotent, and without a body.
    again: Option<Request<RequestBody>>,
    /// The client's side of the switch that is asked for.
    upgrade: Option<OnUpgrade>,
}

impl Exchange<'_> {
    pub async fn run(mut self, request: Request<Incoming>) -> Result<Response<OutBody>, Problem> {
        let outgoing = self.outgoing(request)?;
        let linger = u64::from(self.admission.entry.linger_seconds);
        self.admission.using.linger = Some(Duration::from_secs(linger));
        let upgrade = outgoing.upgrade;
        let gate = self.admission.gate.clone();
        let (upstream, response) = tokio::select! {
            answered = self.send(outgoing.request, outgoing.again) => answered?,
            why = gate.closed() => return Err(why.into()),
        };
        let (wall, since) = self.arrived;
        self.drone.first_byte(&self.key, wall, since.elapsed());
        self.bring_back(upstream, response, upgrade)
    }

    fn outgoing(&self, mut request: Request<Incoming>) -> Result<Outgoing, Problem> {
        let has_body = !request.body().is_end_stream();
        let wanted =
            headers::upgrade_wanted(request.version(), request.method(), request.headers(), has_body);
        let upgrade = wanted.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let told = Told {
            entry: &self.admission.entry,
            backend: &self.key.backend,
            verified_path: &self.target.verified_path,
            peer: self.peer(),
            scheme: self.scheme,
            upgrade: wanted,
        };
        headers::to_backend(&mut parts.headers, &told).map_err(|reason| {
            tracing::warn!(backend = %self.key.backend, %reason, "a grant that no header can carry");
            Problem::Internal("what the application should be told of you cannot be written as a header")
        })?;
        let uri = Uri::from(self.target.forward.clone());
        let idempotent = parts.method.is_idempotent();
        let again =
            (idempotent && !has_body).then(|| head(&parts.method, &uri, &parts.headers, RequestBody::None));
        let body = if has_body { RequestBody::Client(body) } else { RequestBody::None };
        Ok(Outgoing { request: head(&parts.method, &uri, &parts.headers, body), again, upgrade })
    }

    fn peer(&self) -> IpAddr {
        self.connection.peer.ip().to_canonical()
    }

    /// Sends it over the idle upstream or a new one. An idle one may be closed by the backend at the same moment:
    /// then once more over a new one, if the request never left or does no harm twice.
    async fn send(
        &self,
        request: Request<RequestBody>,
        again: Option<Request<RequestBody>>,
    ) -> Result<(Upstream, Response<Incoming>), Problem> {
        let mut request = request;
        if let Some(mut upstream) = self.connection.take_idle(&self.admission.gate).await {
            match exchange(&mut upstream, request).await {
                Ok(response) => return Ok((upstream, response)),
                Err(Failed { problem, unsent }) => {
                    match unsent.or(again).filter(|_| problem == Problem::Terminated) {
                        Some(once_more) => request = once_more,
                        None => return Err(problem),
                    }
                }
            }
        }
        let gate = &self.admission.gate;
        let again = self.admitted_again().await?;
        let Admission { entry, door, .. } = again.as_ref().unwrap_or(&self.admission);
        let Connection { dialer, cut, .. } = self.connection;
        let mut upstream = dialer.dial(&self.key, entry.address, door, gate, cut).await?;
        match exchange(&mut upstream, request).await {
            Ok(response) => Ok((upstream, response)),
            Err(failed) => Err(failed.problem),
        }
    }

    /// Another admission, where the stream of the first is gone: it may be long ago, if an idle upstream kept the
    /// request and then broke, and only a drone that is there knows whose the address is now.
    async fn admitted_again(&self) -> Result<Option<Admission>, Problem> {
        if self.drone.vouches_for(&self.key, self.grant) {
            return Ok(None);
        }
        let hold = self.hold.saturating_sub(self.arrived.1.elapsed());
        Ok(Some(self.drone.enter(&self.key, self.grant, hold).await?))
    }

    fn bring_back(
        self,
        upstream: Upstream,
        response: Response<Incoming>,
        upgrade: Option<OnUpgrade>,
    ) -> Result<Response<OutBody>, Problem> {
        let mut response = response;
        *response.version_mut() = Version::HTTP_11;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client) = upgrade else { return Err(Problem::UnaskedUpgrade) };
            return upgrade::switch(self, upstream, response, client);
        }
        headers::to_client(response.headers_mut(), &self.key.backend, false);
        self.connection.keep_idle(upstream.now_idle());
        let using = self.admission.using;
        Ok(response.map(|body| OutBody::backend(body, using)))
    }
}

struct Failed {
    problem: Problem,
    /// The request, where not a byte of it was sent.
    unsent: Option<Request<RequestBody>>,
}

async fn exchange(
    upstream: &mut Upstream,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, Failed> {
    match timeout(RESPONSE_HEAD_MAX, upstream.sender.try_send_request(request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut failed)) => {
            let unsent = failed.take_message();
            tracing::debug!(reason = %failed.error(), unsent = unsent.is_some(), "no answer from a backend");
            Err(Failed { problem: Problem::Terminated, unsent })
        }
        Err(_) => Err(Failed { problem: Problem::ResponseTimeout, unsent: None }),
    }
}

fn head(method: &Method, uri: &Uri, headers: &HeaderMap, body: RequestBody) -> Request<RequestBody> {
    let mut request = Request::new(body);
    *request.method_mut() = method.clone();
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers.clone();
    *request.version_mut() = Version::HTTP_11;
    request
}
