//! One plain request to its backend, and the answer back. It is admitted by the same steps as any
//! other request (`Server::admitted`); when the connection to the backend has ended without an
//! answer, the request is asked once more.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::{Method, Response};
use http_body_util::BodyExt;
use jetway_protocol::ids::BackendId;
use jetway_protocol::spec::Protocol;
use jetway_protocol::time::UnixMicros;
use jetway_protocol::token::HostToken;
use tokio::time::Instant;

use super::Lane;
use super::answer::{self, For};
use super::chunks::Progress;
use super::heads::{Answered, HeadReader};
use super::request::{self, Form, RequestHead};
use super::sockets::{BackendSocket, Received, Stop};
use crate::forward::exchange::RESPONSE_HEAD_MAX;
use crate::forward::response_body::ResponseBody;
use crate::headers::plain::tell_backend;
use crate::headers::{Forwarding, Readers, Served};
use crate::io::buffers::Text;
use crate::limits::shares;
use crate::pages::answer::wants_page;
use crate::pages::entry;
use crate::problem::{Problem, unwritable};
use crate::request::admitted::{Admitted, Asking, Claim};
use crate::request::credentials;
use crate::request::return_url::Reason;
use crate::request::serving::Serving;
use crate::route::session_host::SessionHost;
use crate::route::{PathParts, untokened};
use crate::upstream::dial_target::DialTargets;

/// The end of one request.
pub enum Outcome {
    Served,
    /// The connection is of no more use.
    Over,
    /// It is for hyper, as it came. Nothing of it was sent.
    NotPlain(Received),
}

/// Why a request is not answered by its backend.
enum Unanswered {
    /// It is answered by us.
    Problem(Problem),
    /// It cannot be answered any more.
    Gone,
    NotPlain,
}

impl<P: Into<Problem>> From<P> for Unanswered {
    fn from(problem: P) -> Self {
        Unanswered::Problem(problem.into())
    }
}

/// Before anything of the answer has gone to the client.
fn unanswered(stop: Stop) -> Unanswered {
    match stop {
        Stop::Gone => Unanswered::Gone,
        Stop::Closed(why) => why.into(),
        Stop::TimedOut => Problem::ResponseTimeout.into(),
        Stop::Broken => Problem::Terminated.into(),
    }
}

/// Afterwards.
fn broken_off(_stop: Stop) -> Unanswered {
    Unanswered::Gone
}

/// What leads to a request's session.
enum Leads<'a> {
    Path(PathParts<'a>),
    Host { token: Arc<HostToken>, site: Arc<SessionHost> },
}

impl Leads<'_> {
    fn claim(&self) -> Claim<'_> {
        match self {
            Leads::Path(PathParts { token, is_static, port, .. }) => {
                Claim::Path { token, is_static: *is_static, port: *port }
            }
            Leads::Host { token, site } => Claim::Host { token: &token.content, site },
        }
    }

    fn served<'a>(&'a self, admitted: &'a Admitted) -> Served<'a> {
        match self {
            Leads::Host { .. } => Served::Guarded(admitted.fixed.guard(), &Readers::Own),
            Leads::Path(_) if admitted.admission.entry.subdomain.is_some() => Served::Alone,
            Leads::Path(place) => Served::Shared(place.shared()),
        }
    }
}

/// At a session's host, a person who is not let in goes back to where the session was started.
fn is_for_the_other_lane(form: &Form, problem: &Problem) -> bool {
    match form {
        Form::Path { is_own: true } => false,
        Form::Path { is_own: false } => *problem == Problem::TokenInvalid,
        Form::Host { .. } => Reason::of(problem).is_some(),
    }
}

/// A request as it is sent, and the answer that it wants.
struct Asks<'a> {
    text: &'a [u8],
    wanted: For<'a>,
    is_repeatable: bool,
}

impl Lane<'_> {
    pub async fn serve(&mut self, head: RequestHead, came: Received, text: Text) -> Outcome {
        let (mut backend, method, form) = (None, head.method.clone(), head.form.clone());
        let for_a_person = head.takes_html && wants_page(&method, &request::headers(came.bytes()));
        let mut came = Some(came);
        match self.pass_on(head, &mut came, text, for_a_person, &mut backend).await {
            Ok(()) => Outcome::Served,
            Err(Unanswered::Gone) => Outcome::Over,
            Err(Unanswered::NotPlain) => came.map_or(Outcome::Over, Outcome::NotPlain),
            Err(Unanswered::Problem(reason)) => {
                if for_a_person
                    && is_for_the_other_lane(&form, &reason)
                    && let Some(came) = came.take()
                {
                    self.serving.connection.counted.set();
                    return Outcome::NotPlain(came);
                }
                let reason = match &came {
                    Some(came) if reason == Problem::TokenInvalid => {
                        let bytes = came.bytes();
                        untokened::explained(reason, &request::path(bytes), &request::headers(bytes))
                    }
                    _ => reason,
                };
                let mut answer = self.serving.server.problem(&reason, backend.as_ref(), for_a_person);
                if reason == Problem::Waiting && matches!(form, Form::Host { .. }) {
                    entry::in_no_frame(&mut answer);
                }
                self.answer(answer, &method).await
            }
        }
    }

    async fn pass_on(
        &mut self,
        mut head: RequestHead,
        came: &mut Option<Received>,
        mut text: Text,
        for_a_person: bool,
        asked_for: &mut Option<BackendId>,
    ) -> Result<(), Unanswered> {
        let (wall, since) = (UnixMicros::now(), Instant::now());
        let bytes = came.as_ref().map_or(&b""[..], Received::bytes);
        let Serving { connection, server, .. } = self.serving;
        let host = connection.lone_host(head.host(bytes)).map_err(crate::request::server::bad_request)?;
        let path = head.path(bytes);
        let leads = self.leads(&head, bytes, &host).ok_or(Unanswered::NotPlain)?;
        if let Some(client) = shares::ClientKey::of(connection.peer) {
            server.allowances.clients.ask(client)?;
        }
        let (claim, is_counted) = (leads.claim(), false);
        let asking = Asking { host: &host, claim, for_a_person, stages: None, is_counted };
        let mut admitted = tokio::select! {
            biased;
            admitted = server.admitted(connection, &asking, since, asked_for) => admitted?,
            () = self.client.gone() => return Err(Unanswered::Gone),
        };
        if admitted.port.protocol != Protocol::Http1 {
            connection.counted.set();
            return Err(Unanswered::NotPlain);
        }
        let linger = u64::from(admitted.admission.entry.linger_seconds);
        admitted.admission.using.linger = Some(Duration::from_secs(linger));
        let forwarding = Forwarding { peer: connection.peer, scheme: admitted.scheme, host: &host };
        let told = tell_backend(&mut text.0, &admitted.fixed, path, &mut head.said, &forwarding);
        told.map_err(|reason| unwritable(&admitted.key.backend, &reason))?;
        text.0.extend_from_slice(b"\r\n");
        text.0.extend_from_slice(&bytes[head.body.clone()]);
        let served = leads.served(&admitted);
        let is_head = head.method == Method::HEAD;
        let wanted = For { is_head, backend: &admitted.fixed.backend, served, closes: false };
        let mut reply = Text::borrow();
        let hold = server.hold.saturating_sub(since.elapsed());
        let asks = Asks { text: &text.0, wanted, is_repeatable: head.is_repeatable() };
        let (mut upstream, answered) = self.exchange(&admitted, hold, &asks, &mut reply).await?;
        drop(text);
        *came = None;
        if !std::mem::replace(&mut upstream.is_told, true) {
            admitted.drone.first_byte(&admitted.key, wall, since.elapsed());
        }
        self.bring_back(upstream, answered, reply).await
    }

    /// `None`: the cookie is no good here.
    fn leads<'b>(&self, head: &RequestHead, bytes: &'b [u8], host: &Arc<str>) -> Option<Leads<'b>> {
        let Form::Host { cookie } = &head.form else {
            return PathParts::of(head.path(bytes)).map(Leads::Path);
        };
        let Serving { connection, server, .. } = self.serving;
        let installation = server.known.borrow().clone()?;
        let site = connection.site(&installation, host)?;
        let text = std::str::from_utf8(bytes.get(cookie.clone())?).ok()?;
        let token = credentials::by_cookie(connection, &installation, &site, text)?;
        Some(Leads::Host { token, site })
    }

    /// Over the connection of the last request, or a new one. The first may be closed by the
    /// backend at the same moment: then once more, if that does no harm. What must not be sent
    /// twice goes only where the kernel has not heard of an end.
    async fn exchange(
        &mut self,
        admitted: &Admitted,
        hold: Duration,
        asks: &Asks<'_>,
        reply: &mut Text,
    ) -> Result<(BackendSocket, Answered), Unanswered> {
        let gate = &admitted.admission.gate;
        let mut kept = self.upstream.take().filter(|idle| idle.leads_to(gate, admitted.port));
        let idle = poll_fn(|cx| Poll::Ready(kept.take().and_then(|idle| idle.waiting(cx)))).await;
        let idle = idle.filter(|idle| asks.is_repeatable || idle.is_open());
        if let Some(mut idle) = idle {
            match self.ask(&mut idle, asks, reply).await {
                Err(Unanswered::Problem(Problem::Terminated)) if asks.is_repeatable => reply.0.clear(),
                answered => return answered.map(|answered| (idle, answered)),
            }
        }
        let mut upstream = tokio::select! {
            biased;
            upstream = dial(self.serving, admitted, hold) => upstream?,
            why = gate.closed() => return Err(why.into()),
            () = self.client.gone() => return Err(Unanswered::Gone),
        };
        let answered = self.ask(&mut upstream, asks, reply).await?;
        Ok((upstream, answered))
    }

    /// To the head of the answer.
    async fn ask(
        &mut self,
        upstream: &mut BackendSocket,
        asks: &Asks<'_>,
        reply: &mut Text,
    ) -> Result<Answered, Unanswered> {
        let Self { client, clock, serving, .. } = self;
        clock.set(Some(Instant::now() + RESPONSE_HEAD_MAX));
        upstream.write(asks.text, client, clock).await.map_err(unanswered)?;
        let mut heads = HeadReader::default();
        loop {
            let came = upstream.read(client, clock).await.map_err(unanswered)?;
            if came.bytes().is_empty() {
                return Err(Problem::Terminated.into());
            }
            let closes = serving.connection.drain.is_closing();
            let wanted = For { closes, ..asks.wanted };
            if let Some(answered) = heads.take(came, &wanted, &mut reply.0)? {
                clock.set(None);
                return Ok(answered);
            }
        }
    }

    /// The answer, to its last byte. No buffer is held while there is nothing of it.
    async fn bring_back(
        &mut self,
        mut upstream: BackendSocket,
        answered: Answered,
        mut reply: Text,
    ) -> Result<(), Unanswered> {
        let Self { client, clock, .. } = self;
        let Answered { head: answer::ResponseHead { length, mut body, goes_on }, came } = answered;
        let mut progress = body.take(&came.bytes()[length..], &mut reply.0)?;
        drop(came);
        upstream.write_to(client, &reply.0).await.map_err(broken_off)?;
        drop(reply);
        while progress == Progress::More {
            let came = upstream.read(client, clock).await.map_err(broken_off)?;
            if !came.bytes().is_empty() && body.pass(came.bytes()) {
                upstream.write_to(client, came.bytes()).await.map_err(broken_off)?;
                continue;
            }
            let mut text = Text::borrow();
            if came.bytes().is_empty() {
                body.end(&mut text.0).map_err(|_| Unanswered::Gone)?;
                upstream.write_to(client, &text.0).await.map_err(broken_off)?;
                return Ok(());
            }
            progress = body.take(came.bytes(), &mut text.0).map_err(|_| Unanswered::Gone)?;
            drop(came);
            upstream.write_to(client, &text.0).await.map_err(broken_off)?;
        }
        if goes_on && progress == (Progress::Done { beyond: 0 }) {
            upstream.set_idle();
            self.upstream = Some(upstream);
        }
        Ok(())
    }

    /// An answer of our own.
    async fn answer(&mut self, answer: Response<ResponseBody>, method: &Method) -> Outcome {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let mut text = Text::borrow();
        let closes = self.serving.connection.drain.is_closing();
        answer::own(&Response::from_parts(parts, ()), body.len(), closes, &mut text.0);
        if *method != Method::HEAD {
            text.0.extend_from_slice(&body);
        }
        self.clock.set(Some(Instant::now() + self.serving.limits.head));
        match self.client.write(&text.0, &mut self.clock).await {
            Ok(()) => Outcome::Served,
            Err(_) => Outcome::Over,
        }
    }
}

async fn dial(serving: &Serving, admitted: &Admitted, hold: Duration) -> Result<BackendSocket, Problem> {
    let Admitted { key, grant, drone, admission, port, .. } = admitted;
    let until = Instant::now() + hold;
    let mut targets = DialTargets::new((key, *grant), drone, admission, *port, until);
    loop {
        match serving.connection.dialer.dial_bare(&targets.next().await?).await {
            Err(Problem::DroneSilent) => {}
            dialled => return dialled.map(|stream| BackendSocket::new(stream, &admission.gate, *port)),
        }
    }
}
