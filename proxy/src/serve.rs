//! One request from its head to its answer: whose is it, is the token good, is the backend there. What then happens
//! to it is `forward.rs`.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderValue;
use http::{Request, Response};
use hyper::body::Incoming;
use jetway_protocol::ids::{BackendId, GrantId};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::token::TokenContent;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::answer::{self, Problem};
use crate::attach::{Admission, BackendKey, Drone, Drones, NotAdmitted};
use crate::body::OutBody;
use crate::connection::Connection;
use crate::forward::Exchange;
use crate::headers;
use crate::installation::{Installation, Known};
use crate::route::{self, BackendTarget, Target};

/// Requests that may wait at a time, over all backends.
pub const HELD_MAX: usize = 16 * 1024;
/// A drone's handle may be retired at the moment it is needed; hardly twice in a row.
const ADMISSIONS_TRIED_MAX: u32 = 3;

/// What every request needs.
#[derive(Debug)]
pub struct Server {
    pub drones: Drones,
    pub known: Known,
    pub hold: Duration,
    pub root_redirect: Option<HeaderValue>,
    pub held: Semaphore,
}

impl Server {
    /// Always an answer.
    pub async fn serve(&self, connection: &Connection, request: Request<Incoming>) -> Response<OutBody> {
        let for_a_person = answer::wants_page(request.method(), request.headers());
        let mut backend = None;
        match self.respond(connection, request, &mut backend).await {
            Ok(response) => response,
            Err(problem) => answer::problem(&problem, backend.as_ref(), for_a_person),
        }
    }

    async fn respond(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
        asked_for: &mut Option<BackendId>,
    ) -> Result<Response<OutBody>, Problem> {
        let arrived = (UnixMicros::now(), Instant::now());
        let host = route::host(request.uri(), request.headers()).map_err(bad_request)?;
        let target = match route::target(request.method(), request.uri()).map_err(bad_request)? {
            Target::Ready => return Ok(answer::ready(self.known.borrow().is_some())),
            Target::Root => return self.root_redirect.as_ref().map(answer::redirect).ok_or(Problem::Root),
            Target::Backend(target) => target,
        };
        if !headers::framing_is_plain(request.headers()) {
            return Err(Problem::BadRequest("a request's Transfer-Encoding may be nothing but chunked"));
        }
        let installation = self.installation().await?;
        let content = opened(connection, &installation, &target)?;
        *asked_for = Some(content.backend.clone());
        let key = BackendKey { backend: content.backend.clone(), fencing_token: content.fencing_token };
        let (drone, admission) = self.admit(&content, &key, arrived.1).await?;
        if let Some(subdomain) = &admission.entry.subdomain
            && !route::host_fits(&host, subdomain, &installation.cluster)
        {
            return Err(Problem::WrongHost);
        }
        let scheme = installation.cluster.scheme();
        let (grant, hold) = (content.grant, self.hold);
        let exchange =
            Exchange { connection, drone: &drone, key, grant, target, admission, hold, scheme, arrived };
        exchange.run(request).await
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
    ) -> Result<(Arc<Drone>, Admission), Problem> {
        let _held = self.held.try_acquire().map_err(|_| Problem::Busy)?;
        for _ in 0..ADMISSIONS_TRIED_MAX {
            let drone = self.drones.get(content).ok_or(Problem::Busy)?;
            let hold = self.hold.saturating_sub(arrived.elapsed());
            match drone.enter(key, content.grant, hold).await {
                Ok(admission) => return Ok((drone, admission)),
                // Its task is ending and takes the handle off the list.
                Err(NotAdmitted::Retired) => tokio::task::yield_now().await,
                Err(reason) => return Err(reason.into()),
            }
        }
        Err(Problem::Busy)
    }
}

fn bad_request(reason: route::InvalidTarget) -> Problem {
    Problem::BadRequest(reason.text())
}

fn opened(
    connection: &Connection,
    installation: &Installation,
    target: &BackendTarget,
) -> Result<Arc<TokenContent>, Problem> {
    let content = connection.open(installation, &target.token).ok_or(Problem::TokenInvalid)?;
    // Each form takes its own kind of token only.
    if target.is_static != (content.grant == GrantId::STATIC) {
        return Err(Problem::TokenInvalid);
    }
    let now = u64::try_from(UnixMicros::now().0 / 1_000_000).unwrap_or(0);
    match content.expires_at {
        Some(expires_at) if expires_at <= now => Err(Problem::TokenExpired),
        _ => Ok(content),
    }
}
