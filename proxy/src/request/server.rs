//! One request from its head to its answer: the token is opened, the limits are asked, the drone
//! admits. `forward` takes it from there.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderValue, ORIGIN, STRICT_TRANSPORT_SECURITY};
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use jetway_protocol::attach::{Entry, PAGE_AFTER};
use jetway_protocol::ids::{BackendId, GrantId, PortName};
use jetway_protocol::spec::Port;
use jetway_protocol::time::UnixMicros;
use jetway_protocol::token::TokenContent;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::attach::{Admission, BackendKey, Drone, Drones, NotAdmitted, Stages};
use crate::client::connection::Connection;
use crate::forward::exchange::Exchange;
use crate::forward::response_body::ResponseBody;
use crate::forward::switch::{self, SwitchRequest};
use crate::headers::{self, FixedHeaders, Forwarding};
use crate::installation::{Installation, Known};
use crate::limits::shares::{Allowances, ClientKey, TokenKey};
use crate::pages::answer;
use crate::problem::{Problem, unwritable};
use crate::request::handshake::WebSocketHandshake;
use crate::request::stage;
use crate::route::hosts::{HostKind, OwnHost};
use crate::route::untokened;
use crate::route::{self, InvalidTarget, Target};
use crate::tls::challenges::{self, Challenges};

/// Requests that may wait at a time, over all backends.
pub const HELD_MAX: usize = 16 * 1024;
/// A drone's handle may be retired at the moment it is needed; hardly twice in a row.
const ADMISSIONS_TRIED_MAX: u32 = 3;

/// The state that all requests share.
#[derive(Debug)]
pub struct Server {
    pub drones: Drones,
    pub known: Known,
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

/// The parts of a request that say where it belongs.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub host: &'a Arc<str>,
    pub token: &'a str,
    pub is_static: bool,
    /// A port's name, as the path has it.
    pub port: Option<&'a str>,
    /// A person looks at the answer, and is not to wait long without a word.
    pub for_a_person: bool,
    /// Hears the stages that it waits for.
    pub stages: Option<&'a Stages>,
    /// The rate limits have heard of it already.
    pub is_counted: bool,
}

/// A request that may go to its backend.
pub struct Admitted {
    pub key: BackendKey,
    pub grant: GrantId,
    pub drone: Arc<Drone>,
    pub admission: Admission,
    pub port: Port,
    pub fixed: Arc<FixedHeaders>,
    pub scheme: &'static str,
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
        mut request: Request<Incoming>,
        for_a_person: bool,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let arrived = (UnixMicros::now(), Instant::now());
        let host = connection.host(&request).map_err(bad_request)?;
        let is_plain_connect = request.method() == Method::CONNECT && !switch::is_for_a_websocket(&request);
        let target = route::target(is_plain_connect, request.uri()).map_err(bad_request)?;
        let target = match target {
            Target::Ready => {
                let is_known = self.known.borrow().is_some();
                return Ok(answer::ready(is_known && !connection.dialer.lifecycle.is_stopping()));
            }
            Target::Root => return self.root_redirect.as_ref().map(answer::redirect).ok_or(Problem::Root),
            Target::Backend(target) => target,
        };
        let is_counted = connection.counted.take();
        if let Some(client) = ClientKey::of(connection.peer).filter(|_| !is_counted) {
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
        let (token, port) = (&*target.token, target.port.as_deref());
        let is_static = target.is_static;
        let asking = Asking { host: &host, token, is_static, port, for_a_person, stages: None, is_counted };
        if stage::is_asked_for(request.headers()) {
            return self.stage(connection, &asking, stage::Seen::of(&request), asked_for).await;
        }
        let admitted = self.admitted(connection, &asking, arrived.1, asked_for).await;
        let admitted = admitted
            .map_err(|problem| untokened::explained(problem, request.uri().path(), request.headers()))?;
        let asked = SwitchRequest::of(&mut request)?;
        if asked.is_some() && !origin_is_allowed(request.headers(), &admitted.admission.entry.allowed_origins)
        {
            return Err(Problem::WrongOrigin);
        }
        let (hold, body_pause) = (self.hold, self.body_pause);
        let Admitted { key, grant, drone, port, admission, fixed, scheme } = admitted;
        let exchange = Exchange {
            connection,
            drone: &drone,
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
        };
        exchange.run(request, asked).await
    }

    /// Whose a request is, as soon as its backend is there. `asked_for`: what is known of it when
    /// it is not let through.
    pub async fn admitted(
        &self,
        connection: &Connection,
        asking: &Asking<'_>,
        arrived: Instant,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Admitted, Problem> {
        let known = self.installation();
        let installation = match asking.for_a_person {
            true => timeout(PAGE_AFTER, known).await.unwrap_or(Err(Problem::Waiting))?,
            false => known.await?,
        };
        let host = HostKind::of(asking.host, &installation.cluster);
        if host == HostKind::Foreign {
            return Err(Problem::WrongHost);
        }
        let content = opened(connection, &installation, asking)?;
        *asked_for = Some(content.backend.clone());
        let key = BackendKey { backend: content.backend.clone(), fencing_token: content.fencing_token };
        let token = TokenKey(content.fencing_token, content.grant);
        if !asking.is_counted {
            self.allowances.tokens.ask(token)?;
        }
        let place = self.allowances.tokens.enter(token)?;
        // Of a person's ask the drone knows, so that it waits a moment for them who come in after a
        // page.
        let unseen = asking.for_a_person.then(|| watch::Sender::new(None));
        let stages = asking.stages.or(unseen.as_ref());
        let admit = self.admit(&content, &key, arrived, stages);
        let (drone, mut admission) = match asking.for_a_person {
            true => timeout(PAGE_AFTER, admit).await.unwrap_or(Err(Problem::Waiting))?,
            false => admit.await?,
        };
        admission.using.place = place;
        let port = port(&admission.entry, asking, host)?;
        let scheme = if connection.is_tls { "https" } else { installation.cluster.scheme() };
        let forwarding = Forwarding { peer: connection.peer, scheme, host: asking.host };
        let fixed = connection.fixed_headers(&admission.entry, &key.backend, &forwarding);
        let fixed = fixed.map_err(|reason| unwritable(&key.backend, &reason))?;
        Ok(Admitted { key, grant: content.grant, drone, admission, port, fixed, scheme })
    }

    /// The installation, waited for if no controller has answered yet.
    async fn installation(&self) -> Result<Arc<Installation>, Problem> {
        let known = self.known.borrow().clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let _held = self.held.try_acquire().map_err(|_| Problem::Busy)?;
        let mut known = self.known.clone();
        let known = timeout(self.hold, known.wait_for(Option::is_some)).await;
        known.ok().and_then(Result::ok).and_then(|known| known.clone()).ok_or(Problem::NoInstallation)
    }

    async fn admit(
        &self,
        content: &TokenContent,
        key: &BackendKey,
        arrived: Instant,
        stages: Option<&Stages>,
    ) -> Result<(Arc<Drone>, Admission), Problem> {
        let _held = self.held.try_acquire().map_err(|_| Problem::Busy)?;
        for _ in 0..ADMISSIONS_TRIED_MAX {
            let drone = self.drones.get(content).ok_or(Problem::Busy)?;
            let hold = self.hold.saturating_sub(arrived.elapsed());
            match drone.enter(key, content.grant, hold, stages).await {
                Ok(admission) => return Ok((drone, admission)),
                // Its task is ending and takes the handle off the list.
                Err(NotAdmitted::Retired) => tokio::task::yield_now().await,
                Err(reason) => return Err(reason.into()),
            }
        }
        Err(Problem::Busy)
    }
}

/// The port that the URL names, if the spec has it; and whether the backend is to be had under this
/// host at all.
fn port(entry: &Entry, asking: &Asking<'_>, host: HostKind<'_>) -> Result<Port, Problem> {
    let own_host = host.leads_to(entry.subdomain.as_deref());
    if own_host == OwnHost::No {
        return Err(Problem::WrongHost);
    }
    let Some(name) = route::port_named(own_host, asking.port).map_err(bad_request)? else {
        return Ok(Port { port: entry.address.port(), protocol: entry.protocol });
    };
    let named = name.parse().ok().and_then(|name: PortName| entry.ports.get(&name).copied());
    named.ok_or_else(|| Problem::PortUnknown(entry.ports.keys().cloned().collect()))
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

fn opened(
    connection: &Connection,
    installation: &Installation,
    asking: &Asking<'_>,
) -> Result<Arc<TokenContent>, Problem> {
    let content = connection.open(installation, asking.token).ok_or(Problem::TokenInvalid)?;
    // Each form takes its own kind of token only.
    if asking.is_static != (content.grant == GrantId::STATIC) {
        return Err(Problem::TokenInvalid);
    }
    let now = u64::try_from(UnixMicros::now().0 / 1_000_000).unwrap_or(0);
    match content.expires_at {
        Some(expires_at) if expires_at <= now => Err(Problem::TokenExpired),
        _ => Ok(content),
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
