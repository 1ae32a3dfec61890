//! A request at a session's host: all of it is the application's but `/.jetway/`, for those whom a
//! token or the cookie lets in. Where neither is there, the path may carry a token, if the host's
//! label is none that was derived. Any other person is sent back to where the session was started
//! (`return_url`).

use std::sync::Arc;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, UPGRADE};
use http::{Method, Request, Response, Uri};
use hyper::body::Incoming;
use jetway_protocol::host::{RESERVED, TOKEN_HEADER};
use jetway_protocol::ids::BackendId;

use crate::client::connection::Connection;
use crate::forward::exchange::Form;
use crate::forward::response_body::ResponseBody;
use crate::forward::switch::{self, SwitchRequest};
use crate::forward::worker;
use crate::headers::Readers;
use crate::installation::Installation;
use crate::limits::shares::{ClientKey, TokenKey};
use crate::pages::{answer, entry};
use crate::problem::Problem;
use crate::request::admitted::{Asking, Claim, unexpired};
use crate::request::ambient::{Ambient, Other, Page, Wants};
use crate::request::credentials::{self, Access};
use crate::request::return_url::{Back, Reason};
use crate::request::server::{Arrived, Server, bad_request};
use crate::request::stage;
use crate::route::session_host::{OwnOrigin, SessionHost};
use crate::route::wanted::WantedPath;
use crate::route::{self, Target, untokened};

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The session's host that a request came to.
#[derive(Debug)]
pub struct Visit {
    pub installation: Arc<Installation>,
    pub site: Arc<SessionHost>,
}

/// Who comes, as far as the answer depends on it if there is nothing here for them.
pub struct Visitor {
    /// A page is loaded, in a frame too.
    pub navigates: bool,
    /// A browser looks for a newer script of a service worker.
    pub wants_worker: bool,
    pub has_bearer: bool,
    pub wanted: Wanted,
    /// Whose share of questions to controllers it is.
    pub asker: Option<ClientKey>,
}

/// The path that a person wants to see.
pub enum Wanted {
    /// That of the request.
    Asked(Uri),
    /// One that the request tells of.
    Told(WantedPath),
}

/// Why a request is not the application's.
enum TurnedAway {
    /// Another connect may help.
    Lost(Problem),
    /// As in the path form.
    Path(Problem),
}

impl<P: Into<Problem>> From<P> for TurnedAway {
    fn from(problem: P) -> Self {
        TurnedAway::Lost(problem.into())
    }
}

/// The page behind a request, apart from the request.
struct Judged {
    readers: Readers,
    /// One that must be listed.
    other: Option<(Option<Vec<u8>>, Wants)>,
}

impl Visitor {
    pub fn of<B>(arrived: &Arrived<'_>, request: &Request<B>) -> Self {
        let headers = request.headers();
        let peer = arrived.connection.peer;
        let said = headers.get_all(&FORWARDED_FOR).iter().rfind(|_| peer.trusted);
        Self {
            navigates: arrived.for_a_person,
            wants_worker: worker::is_the_script(headers),
            has_bearer: headers.contains_key(TOKEN_HEADER),
            wanted: Wanted::Asked(request.uri().clone()),
            asker: ClientKey::behind(peer, said.and_then(|said| said.to_str().ok())),
        }
    }
}

impl Server {
    pub async fn on_host(
        &self,
        visit: &Visit,
        arrived: &Arrived<'_>,
        target: Target,
        request: Request<Incoming>,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let is_for_balancers = target == Target::Ready && !visit.site.is_derived && !arrived.for_a_person;
        if is_for_balancers && !credentials::are_shown(request.headers()) {
            return Ok(self.ready(arrived.connection));
        }
        self.checked(arrived, &request)?;
        if request.uri().path().starts_with(RESERVED) {
            return self.reserved(visit, arrived, &request).await;
        }
        let mut visitor = Visitor::of(arrived, &request);
        match self.let_in(visit, arrived, target, request, &mut visitor, asked_for).await {
            Ok(response) => Ok(response),
            Err(TurnedAway::Path(problem)) => Err(problem),
            Err(TurnedAway::Lost(problem)) => self.turned_away(visit, &visitor, problem).await,
        }
    }

    async fn let_in(
        &self,
        visit: &Visit,
        arrived: &Arrived<'_>,
        target: Target,
        request: Request<Incoming>,
        visitor: &mut Visitor,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, TurnedAway> {
        let Visit { installation, site } = visit;
        let access = credentials::access(arrived.connection, installation, site, request.headers())?;
        let access = access.filter(|access| !path_is_newer(arrived.connection, visit, &target, access));
        visitor.has_bearer |= access.as_ref().is_some_and(Access::is_bearer);
        match access {
            Some(access) => Ok(self.by_access(visit, arrived, &access, request, asked_for).await?),
            None => self.without_access(visit, arrived, target, request, asked_for).await,
        }
    }

    async fn by_access(
        &self,
        visit: &Visit,
        arrived: &Arrived<'_>,
        access: &Access,
        mut request: Request<Incoming>,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let is_plain_connect = request.method() == Method::CONNECT && !switch::is_for_a_websocket(&request);
        let target = route::whole(is_plain_connect, request.uri()).map_err(bad_request)?;
        if !access.is_bearer()
            && let Some(origin) = preflight_of(request.method(), request.headers())
        {
            return Ok(answer::preflight(origin, request.headers()));
        }
        let content = &access.token().content;
        unexpired(content)?;
        let (judged, is_frame) = judged(arrived, access, &request)?;
        if judged.other.is_some()
            && let Some(entry) = self.known_entry(content, None).await?
        {
            // Known already, it costs the session's people nothing, and is no use of it.
            judged.is_listed(&entry.allowed_origins, &request)?;
        }
        let asking = Asking {
            host: &arrived.host,
            claim: Claim::Host { token: content, site: &visit.site },
            // In a frame, a page of the proxy's would be seen by the frame's owner. It is held instead.
            for_a_person: arrived.for_a_person && !is_frame,
            stages: None,
            is_counted: arrived.is_counted || judged.other.is_some(),
        };
        if stage::is_asked_for(request.headers()) {
            if judged.other.is_some() {
                return Err(Problem::OtherOrigin);
            }
            return self.stage(arrived.connection, &asking, stage::Seen::of(&request), asked_for).await;
        }
        let admitted = self.admitted(arrived.connection, &asking, arrived.at.1, asked_for).await?;
        if judged.other.is_some() {
            judged.is_listed(&admitted.admission.entry.allowed_origins, &request)?;
            if !arrived.is_counted {
                self.allowances.tokens.ask(TokenKey(content.fencing_token, content.grant))?;
            }
        }
        let is_worker = worker::is_asked_for(request.headers());
        credentials::take_off(arrived.connection, &visit.installation, &visit.site, request.headers_mut());
        let asked = SwitchRequest::of(&mut request)?;
        let form = Form::Host { readers: judged.readers, is_worker };
        self.exchange(arrived, admitted, target, form).run(request, asked).await
    }

    /// Nothing lets in but what the path may carry.
    async fn without_access(
        &self,
        visit: &Visit,
        arrived: &Arrived<'_>,
        target: Target,
        mut request: Request<Incoming>,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<ResponseBody>, TurnedAway> {
        let (Visit { installation, site }, connection) = (visit, arrived.connection);
        let target = match target {
            Target::Backend(target)
                if site.takes_paths() && connection.open(installation, &target.token).is_some() =>
            {
                let is_worker = worker::is_asked_for(request.headers());
                credentials::take_off(connection, installation, site, request.headers_mut());
                let served = self.by_path(arrived, request, target, is_worker, asked_for).await;
                return served.map_err(TurnedAway::Path);
            }
            target => target,
        };
        if let Some(origin) = preflight_of(request.method(), request.headers()) {
            return Ok(answer::preflight(origin, request.headers()));
        }
        let problem = match target {
            _ if site.is_derived => Problem::NoSession,
            Target::Root => Problem::Root,
            _ if site.is_foreign => Problem::WrongHost,
            Target::Ready | Target::Backend(_) => {
                untokened::explained(Problem::TokenInvalid, request.uri().path(), request.headers())
            }
        };
        Err(problem.into())
    }

    /// A person is sent back to where the session was started, a worker goes, and anything else is
    /// told why.
    pub async fn turned_away(
        &self,
        visit: &Visit,
        visitor: &Visitor,
        problem: Problem,
    ) -> Result<Response<ResponseBody>, Problem> {
        let reason = Reason::of(&problem).filter(|_| !visitor.has_bearer);
        if visitor.wants_worker && reason.is_some() {
            return Ok(entry::unregistering());
        }
        if problem == Problem::Waiting {
            let mut page = self.problem(&problem, None, visitor.navigates);
            entry::in_no_frame(&mut page);
            return Ok(page);
        }
        let is_strange = matches!(problem, Problem::Root | Problem::WrongHost | Problem::TokenInvalid);
        if let Some(reason) = reason.filter(|_| visitor.navigates) {
            let path = visitor.wanted.path();
            match self.way_back(visit, visitor.asker, reason, &path).await {
                Back::To(location) => return Ok(entry::see_other(&location, &[])),
                Back::Nowhere if is_strange => return Err(Problem::NoSession),
                Back::Nowhere | Back::Unknown => {}
            }
        }
        match &self.root_redirect {
            Some(location) if problem == Problem::Root => Ok(answer::redirect(location)),
            _ => Err(problem),
        }
    }
}

impl Wanted {
    fn path(&self) -> WantedPath {
        match self {
            Wanted::Asked(uri) => WantedPath::of(uri),
            Wanted::Told(path) => path.clone(),
        }
    }
}

impl Judged {
    fn is_listed<B>(&self, allowed: &[String], request: &Request<B>) -> Result<(), Problem> {
        let Some((origin, wants)) = &self.other else { return Ok(()) };
        match (Other { origin: origin.as_deref(), wants: *wants }).is_listed(allowed) {
            true => Ok(()),
            false => Err(refusal(request)),
        }
    }
}

fn refusal<B>(request: &Request<B>) -> Problem {
    if is_for_a_socket(request) { Problem::WrongOrigin } else { Problem::OtherOrigin }
}

fn is_for_a_socket<B>(request: &Request<B>) -> bool {
    request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE)
}

/// Whether the request may be in the name of its cookie's user, and who reads the answer; and
/// whether it is a frame's. A token of the client's own is sent by no page of others.
fn judged<B>(
    arrived: &Arrived<'_>,
    access: &Access,
    request: &Request<B>,
) -> Result<(Judged, bool), Problem> {
    if access.is_bearer() {
        return Ok((Judged { readers: Readers::Bearer, other: None }, false));
    }
    let own = own_origin(arrived, request.headers());
    let ambient = Ambient::of(request.method(), is_for_a_socket(request), request.headers());
    let judged = match ambient.page(Some(&own)) {
        Page::Own => Judged { readers: Readers::Own, other: None },
        Page::Refused => return Err(refusal(request)),
        Page::Other(Other { origin, wants }) => {
            let readers = match wants {
                Wants::Frame => Readers::Frame,
                Wants::Part => Readers::Part,
                Wants::Fetch => {
                    let origin = origin.and_then(|origin| HeaderValue::from_bytes(origin).ok());
                    Readers::Script(origin.ok_or_else(|| refusal(request))?)
                }
            };
            Judged { readers, other: Some((origin.map(<[u8]>::to_vec), wants)) }
        }
    };
    Ok((judged, ambient.is_frame()))
}

/// As the client came: a trusted forwarder says how it did.
pub fn own_origin<'a>(arrived: &'a Arrived<'_>, headers: &HeaderMap) -> OwnOrigin<'a> {
    let connection = arrived.connection;
    let mut said = headers.get_all(&FORWARDED_PROTO).iter().filter(|_| connection.peer.trusted);
    let said = match (said.next(), said.next()) {
        _ if connection.is_tls => Some("https"),
        (Some(said), None) if said.as_bytes().eq_ignore_ascii_case(b"https") => Some("https"),
        (Some(said), None) if said.as_bytes().eq_ignore_ascii_case(b"http") => Some("http"),
        _ => None,
    };
    OwnOrigin::of(&arrived.host, said)
}

/// A browser's question before another page's request (Fetch §3.2.2). It comes without a cookie.
fn preflight_of<'a>(method: &Method, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    let origin = headers.get(ORIGIN).filter(|origin| *origin != "null");
    origin.filter(|_| method == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD))
}

/// A cookie of a run that is over does not hide the path of a newer one, where paths carry tokens.
fn path_is_newer(connection: &Connection, visit: &Visit, target: &Target, access: &Access) -> bool {
    let Target::Backend(target) = target else { return false };
    if !visit.site.takes_paths() || access.is_bearer() || !credentials::may_be_ours(target.token.as_bytes()) {
        return false;
    }
    let opened = connection.open(&visit.installation, &target.token);
    opened.is_some_and(|content| content.fencing_token > access.token().content.fencing_token)
}
