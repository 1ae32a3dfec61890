//! One request from its head to its answer: the token is opened, the limits are asked, the drone
//! admits. `forward` takes it from there.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue, ORIGIN, STRICT_TRANSPORT_SECURITY};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use jetway_protocol::attach::PAGE_AFTER;
use jetway_protocol::ids::BackendId;
use jetway_protocol::time::UnixMicros;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::attach::Drones;
use crate::client::connection::Connection;
use crate::forward::exchange::{Exchange, Form};
use crate::forward::response_body::ResponseBody;
use crate::forward::switch::{self, SwitchRequest};
use crate::headers;
use crate::installation::Known;
use crate::limits::shares::{Allowances, ClientKey};
use crate::owners::Owners;
use crate::pages::answer;
use crate::problem::Problem;
use crate::request::admitted::{Admitted, Asking, Claim};
use crate::request::handshake::WebSocketHandshake;
use crate::request::on_host::Visit;
use crate::request::{credentials, stage};
use crate::route::hosts::{is_address, split_port};
use crate::route::untokened;
use crate::route::{self, BackendTarget, InvalidTarget, Target};
use crate::tls::challenges::{self, Challenges};

/// Requests that may wait at a time, over all backends.
pub const HELD_MAX: usize = 16 * 1024;

/// The state that all requests share.
#[derive(Debug)]
pub struct Server {
    pub drones: Drones,
    pub known: Known,
    /// Where people go whose way ends at a session's host.
    pub owners: Arc<Owners>,
    pub hold: Duration,
    pub root_redirect: Option<HeaderValue>,
    pub held: Semaphore,
    pub allowances: Arc<Allowances>,
    /// The longest wait for the next piece of an HTTP/1.1 request's body.
    pub body_pause: Option<Duration>,
    pub https: Https,
    /// Every page begins with it.
    pub brand: Box<str>,
    /// The answers for issuers of certificates.
    pub challenges: Option<Arc<Challenges>>,
}

/// The proxy's word to clients on HTTPS.
#[derive(Debug, Default)]
pub struct Https {
    /// The port to which requests by HTTP are sent, as browsers know it.
    pub redirect: Option<u16>,
    /// `Strict-Transport-Security` (RFC 6797), in answers by HTTPS.
    pub hsts: Option<HeaderValue>,
}

/// A request that has come, before it is known whose it is.
pub struct Arrived<'a> {
    pub connection: &'a Arc<Connection>,
    pub host: Arc<str>,
    /// A person looks at the answer.
    pub for_a_person: bool,
    /// The rate limits have heard of it already.
    pub is_counted: bool,
    pub at: (UnixMicros, Instant),
}

impl Server {
    /// Always an answer.
    pub async fn serve(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let for_a_person = answer::wants_page(request.method(), request.headers());
        let mut backend = None;
        if let Some(answer) = self.for_an_issuer(connection, &request).await {
            return answer;
        }
        let handshake = WebSocketHandshake::of(&request);
        let answered = match self.elsewhere(connection, &request) {
            Ok(None) => self.respond(connection, request, for_a_person, &mut backend).await,
            Ok(Some(location)) => Ok(answer::moved(&location)),
            Err(problem) => Err(problem),
        };
        let mut response = answered.unwrap_or_else(|problem| {
            let closed = handshake.and_then(|handshake| handshake.close(&problem, connection));
            closed.unwrap_or_else(|| self.problem(&problem, backend.as_ref(), for_a_person))
        });
        if let Some(hsts) = self.https.hsts.as_ref().filter(|_| connection.is_tls) {
            response.headers_mut().insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
        response
    }

    /// An issuer's look at a challenge: by HTTP, and under no token.
    async fn for_an_issuer<B>(
        &self,
        connection: &Connection,
        request: &Request<B>,
    ) -> Option<Response<ResponseBody>> {
        let token = request.uri().path().strip_prefix(challenges::PATH)?;
        let challenges = self.challenges.as_ref()?;
        if let Some(Err(refused)) =
            ClientKey::of(connection.peer).map(|client| self.allowances.clients.ask(client))
        {
            return Some(self.problem(&refused.into(), None, false));
        }
        Some(match challenges.by_http(token).await {
            Ok(Some(shown)) => answer::shown(shown),
            Ok(None) => self.problem(&Problem::NoChallenge, None, false),
            Err(challenges::Unknown) => self.problem(&Problem::Busy, None, false),
        })
    }

    pub fn problem(
        &self,
        problem: &Problem,
        backend: Option<&BackendId>,
        for_a_person: bool,
    ) -> Response<ResponseBody> {
        answer::problem(problem, backend, for_a_person.then_some(&*self.brand))
    }

    /// Whether requests of this connection are sent elsewhere. A forwarder has rules of its own for
    /// its clients.
    pub fn moves(&self, connection: &Connection) -> bool {
        self.https.redirect.is_some() && !connection.is_tls && !connection.peer.trusted
    }

    /// The same place, by HTTPS. Balancers ask in their own way.
    fn elsewhere<B>(
        &self,
        connection: &Connection,
        request: &Request<B>,
    ) -> Result<Option<HeaderValue>, Problem> {
        let Some(port) = self.https.redirect.filter(|_| self.moves(connection)) else { return Ok(None) };
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        if !path.starts_with('/') || path == "/ready" {
            return Ok(None);
        }
        let host = connection.host(request).map_err(bad_request)?;
        let location = HeaderValue::try_from(route::by_https(&host, port, path));
        location.map(Some).map_err(|_| Problem::BadRequest("the target cannot be written as a header"))
    }

    async fn respond(
        &self,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
        for_a_person: bool,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let at = (UnixMicros::now(), Instant::now());
        let host = connection.host(&request).map_err(bad_request)?;
        let is_plain_connect = request.method() == Method::CONNECT && !switch::is_for_a_websocket(&request);
        let target = route::target(is_plain_connect, request.uri()).map_err(bad_request)?;
        let is_counted = connection.counted.take();
        let visit = self.visit(connection, &host, &target, &request, for_a_person).await?;
        let arrived = Arrived { connection, host, for_a_person, is_counted, at };
        match (visit, target) {
            (Some(visit), target) => self.on_host(&visit, &arrived, target, request, asked_for).await,
            (None, Target::Ready) => Ok(self.ready(connection)),
            (None, Target::Root) => self.root_redirect.as_ref().map(answer::redirect).ok_or(Problem::Root),
            (None, Target::Backend(target)) => {
                self.checked(&arrived, &request)?;
                self.by_path(&arrived, request, target, false, asked_for).await
            }
        }
    }

    /// The session's host that a request came to. `None`: the cluster's own, where the path decides.
    async fn visit<B>(
        &self,
        connection: &Connection,
        host: &Arc<str>,
        target: &Target,
        request: &Request<B>,
        for_a_person: bool,
    ) -> Result<Option<Visit>, Problem> {
        let known = self.known.borrow().clone();
        let installation = match known {
            Some(known) => known,
            None if is_address(split_port(host).0) => return Ok(None),
            // Balancers ask a proxy that knows no host yet.
            None if *target == Target::Ready && !credentials::are_shown(request.headers()) => {
                return Ok(None);
            }
            None if for_a_person => {
                timeout(PAGE_AFTER, self.installation()).await.unwrap_or(Err(Problem::Waiting))?
            }
            None => self.installation().await?,
        };
        let site = connection.site(&installation, host);
        Ok(site.map(|site| Visit { installation, site }))
    }

    pub fn ready(&self, connection: &Connection) -> Response<ResponseBody> {
        let is_known = self.known.borrow().is_some();
        answer::ready(is_known && !connection.dialer.lifecycle.is_stopping())
    }

    /// What each request is asked before anything is asked about it.
    pub fn checked<B>(&self, arrived: &Arrived<'_>, request: &Request<B>) -> Result<(), Problem> {
        if let Some(client) = ClientKey::of(arrived.connection.peer).filter(|_| !arrived.is_counted) {
            self.allowances.clients.ask(client)?;
        }
        if !headers::framing_is_plain(request.headers()) {
            return Err(Problem::BadRequest("a request's Transfer-Encoding may be nothing but chunked"));
        }
        if request.version() == Version::HTTP_2
            && let Some(odd) = headers::oddity(request.headers())
        {
            return Err(Problem::BadRequest(odd));
        }
        Ok(())
    }

    /// A request whose path carries its token. `is_worker`: a service worker's script, on a host
    /// that the host form may have too.
    pub async fn by_path(
        &self,
        arrived: &Arrived<'_>,
        mut request: Request<Incoming>,
        target: BackendTarget,
        is_worker: bool,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let Arrived { connection, host, for_a_person, is_counted, at } = arrived;
        let claim =
            Claim::Path { token: &target.token, is_static: target.is_static, port: target.port.as_deref() };
        let (for_a_person, is_counted) = (*for_a_person, *is_counted);
        let asking = Asking { host, claim, for_a_person, stages: None, is_counted };
        if stage::is_asked_for(request.headers()) {
            return self.stage(connection, &asking, stage::Seen::of(&request), asked_for).await;
        }
        let admitted = self.admitted(connection, &asking, at.1, asked_for).await;
        let admitted = admitted
            .map_err(|problem| untokened::explained(problem, request.uri().path(), request.headers()))?;
        let asked = SwitchRequest::of(&mut request)?;
        if asked.is_some() && !origin_is_allowed(request.headers(), &admitted.admission.entry.allowed_origins)
        {
            return Err(Problem::WrongOrigin);
        }
        self.exchange(arrived, admitted, target, Form::Path { is_worker }).run(request, asked).await
    }

    pub fn exchange<'a>(
        &self,
        arrived: &'a Arrived<'_>,
        admitted: Admitted,
        target: BackendTarget,
        form: Form,
    ) -> Exchange<'a> {
        let Admitted { key, grant, drone, port, admission, fixed, scheme } = admitted;
        let (connection, host) = (arrived.connection, arrived.host.clone());
        let (hold, body_pause, arrived) = (self.hold, self.body_pause, arrived.at);
        Exchange {
            connection,
            drone,
            key,
            grant,
            target,
            port,
            admission,
            hold,
            body_pause,
            fixed,
            scheme,
            host,
            arrived,
            form,
        }
    }
}

/// Whether the page that opens a WebSocket may (RFC 6455 §10.2). A client that is no browser sends
/// no Origin, and can send any.
fn origin_is_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(ORIGIN).iter();
    match (origins.next(), origins.next()) {
        _ if allowed.is_empty() => true,
        (None, _) => true,
        (Some(origin), None) => {
            allowed.iter().any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
        }
        (Some(_), Some(_)) => false,
    }
}

pub fn bad_request(reason: InvalidTarget) -> Problem {
    match reason {
        InvalidTarget::Misdirected => Problem::Misdirected(reason.text()),
        _ => Problem::BadRequest(reason.text()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_pages_may_open_websockets() {
        let allowed = ["https://app.example.com".to_owned(), "null".to_owned()];
        let table: &[(&[&str], bool)] = &[
            (&["https://app.example.com"], true),
            (&["HTTPS://App.Example.com"], true),
            (&["null"], true),
            (&[], true),
            (&[""], false),
            (&["https://app.example.com.evil.org"], false),
            (&["https://evil.org"], false),
            (&["http://app.example.com"], false),
            (&["https://app.example.com:8443"], false),
            (&["https://app.example.com https://evil.org"], false),
            (&["https://app.example.com", "https://evil.org"], false),
            (&["https://app.example.com", "https://app.example.com"], false),
        ];
        for (origins, expect) in table {
            let mut headers = HeaderMap::new();
            for origin in *origins {
                headers.append(ORIGIN, origin.parse().unwrap());
            }
            assert_eq!(origin_is_allowed(&headers, &allowed), *expect, "{origins:?}");
            assert!(origin_is_allowed(&headers, &[]), "{origins:?}: nobody asked for a list");
        }
    }
}
