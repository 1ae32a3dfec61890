//! Whose a request is, and leave for it: its token is opened, its share is asked, the drone admits.
//! Both forms and both lanes come this way.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::attach::{Entry, PAGE_AFTER};
use jetway_protocol::ids::{BackendId, GrantId, PortName};
use jetway_protocol::spec::Port;
use jetway_protocol::time::UnixMicros;
use jetway_protocol::token::TokenContent;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::attach::{Admission, BackendKey, Drone, NotAdmitted, Stages};
use crate::client::connection::Connection;
use crate::headers::{FixedHeaders, Forwarding};
use crate::installation::Installation;
use crate::limits::shares::TokenKey;
use crate::problem::{Problem, unwritable};
use crate::request::server::{Server, bad_request};
use crate::route;
use crate::route::hosts::{HostKind, OwnHost};
use crate::route::session_host::SessionHost;

/// A drone's handle may be retired at the moment it is needed; hardly twice in a row.
const ADMISSIONS_TRIED_MAX: u32 = 3;

/// The parts of a request that say where it belongs.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    pub host: &'a Arc<str>,
    pub claim: Claim<'a>,
    /// A person looks at the answer, and is not to wait long without a word.
    pub for_a_person: bool,
    /// Hears the stages that it waits for.
    pub stages: Option<&'a Stages>,
    /// The rate limits have heard of it already, or hear of it later.
    pub is_counted: bool,
}

/// What leads to a session.
#[derive(Clone, Copy)]
pub enum Claim<'a> {
    /// A token in the path, not opened yet, and a port's name as the path has it.
    Path { token: &'a str, is_static: bool, port: Option<&'a str> },
    /// A token that was opened for the host: both are of one session by that.
    Host { token: &'a TokenContent, site: &'a SessionHost },
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
        let opened;
        let content = match asking.claim {
            Claim::Path { token, is_static, .. } => {
                if HostKind::of(asking.host, &installation.cluster) == HostKind::Foreign {
                    return Err(Problem::WrongHost);
                }
                opened = opened_in_path(connection, &installation, token, is_static)?;
                &*opened
            }
            Claim::Host { token, .. } => token,
        };
        *asked_for = Some(content.backend.clone());
        let (key, token) = (key_of(content), TokenKey(content.fencing_token, content.grant));
        if !asking.is_counted {
            self.allowances.tokens.ask(token)?;
        }
        let place = self.allowances.tokens.enter(token)?;
        // Of a person's ask the drone knows, so that it waits a moment for them who come in after a
        // page.
        let unseen = asking.for_a_person.then(|| watch::Sender::new(None));
        let stages = asking.stages.or(unseen.as_ref());
        let admit = self.admit(content, &key, arrived, stages);
        let (drone, mut admission) = match asking.for_a_person {
            true => timeout(PAGE_AFTER, admit).await.unwrap_or(Err(Problem::Waiting))?,
            false => admit.await?,
        };
        admission.using.place = place;
        let port = port(&admission.entry, asking, &installation)?;
        let scheme = if connection.is_tls { "https" } else { installation.cluster.scheme() };
        let forwarding = Forwarding { peer: connection.peer, scheme, host: asking.host };
        let fixed = connection.fixed_headers(&admission.entry, &key.backend, &forwarding);
        let fixed = fixed.map_err(|reason| unwritable(&key.backend, &reason))?;
        Ok(Admitted { key, grant: content.grant, drone, admission, port, fixed, scheme })
    }

    /// The installation, waited for if no controller has answered yet.
    pub async fn installation(&self) -> Result<Arc<Installation>, Problem> {
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

    /// What the drone knows of a grant, without a use of its session. `patience`: `None` asks it
    /// nothing. `Ok(None)`: it does not say so soon.
    pub async fn known_entry(
        &self,
        content: &TokenContent,
        patience: Option<Duration>,
    ) -> Result<Option<Arc<Entry>>, Problem> {
        let Some(drone) = self.drones.get(content) else { return Ok(None) };
        let key = key_of(content);
        if let Some(entry) = drone.entry(&key, content.grant) {
            return Ok(Some(entry));
        }
        let (Some(patience), Ok(_held)) = (patience, self.held.try_acquire()) else { return Ok(None) };
        match drone.enter(&key, content.grant, patience, None).await {
            Ok(admission) => Ok(Some(admission.entry.clone())),
            Err(NotAdmitted::TimedOut { .. } | NotAdmitted::Busy | NotAdmitted::Retired) => Ok(None),
            Err(reason) => Err(reason.into()),
        }
    }
}

fn key_of(content: &TokenContent) -> BackendKey {
    BackendKey { backend: content.backend.clone(), fencing_token: content.fencing_token }
}

/// The port that the URL names, if the spec has it; and, of a token in a path, whether the backend
/// is to be had under this host at all.
fn port(entry: &Entry, asking: &Asking<'_>, installation: &Installation) -> Result<Port, Problem> {
    let name = match asking.claim {
        Claim::Host { site, .. } => site.port.as_ref().map(PortName::as_str),
        Claim::Path { port, .. } => {
            let host = HostKind::of(asking.host, &installation.cluster);
            let own_host = host.leads_to(entry.subdomain.as_deref());
            if own_host == OwnHost::No {
                return Err(Problem::WrongHost);
            }
            route::port_named(own_host, port).map_err(bad_request)?
        }
    };
    let Some(name) = name else {
        return Ok(Port { port: entry.address.port(), protocol: entry.protocol });
    };
    let named = name.parse().ok().and_then(|name: PortName| entry.ports.get(&name).copied());
    named.ok_or_else(|| Problem::PortUnknown(entry.ports.keys().cloned().collect()))
}

fn opened_in_path(
    connection: &Connection,
    installation: &Installation,
    token: &str,
    is_static: bool,
) -> Result<Arc<TokenContent>, Problem> {
    let content = connection.open(installation, token).ok_or(Problem::TokenInvalid)?;
    // Each form takes its own kind of token only.
    if is_static != (content.grant == GrantId::STATIC) {
        return Err(Problem::TokenInvalid);
    }
    unexpired(&content)?;
    Ok(content)
}

pub fn unexpired(content: &TokenContent) -> Result<(), Problem> {
    let now = u64::try_from(UnixMicros::now().0 / 1_000_000).unwrap_or(0);
    match content.expires_at {
        Some(expires_at) if expires_at <= now => Err(Problem::TokenExpired),
        _ => Ok(()),
    }
}
