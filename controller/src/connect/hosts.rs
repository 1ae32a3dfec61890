//! The hosts of sessions in the host form, as connects take them. A spawn takes them in the
//! transaction of its row. A connect to a live key reads once whether its backend has them, and
//! takes those that it lacks; hosts that this process knows to be written cost nothing. Statements
//! are `db/hosts.rs`'s.

use std::sync::Arc;
use std::time::Duration;

use jetway_protocol::error::Code;
use jetway_protocol::host::LabelKey;
use jetway_protocol::ids::{BackendId, ClusterName, PortName};
use jetway_protocol::spec::BackendSpec;
use serde_json::Value;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::approvals::Approvals;
use super::form::{HostForm, check_apart, static_token};
use super::known_hosts::KnownHosts;
use super::session_hosts::{Hosted, Owner, Ports, SessionHosts};
use super::validate::Wanted;
use crate::coalesce::Coalesce;
use crate::db::backends::{self, Inserted, LiveBackend, NewBackend};
use crate::db::hosts::{self, Claim, Claimed, Taken};
use crate::db::pool::Pool;
use crate::db::{DbError, deadlines};
use crate::error::{ApiError, ApiResult};
use crate::fleet::Fleet;
use crate::host_names;
use crate::lease::Leases;
use crate::return_urls::ReturnUrls;

/// Connections of connects that may wait for hosts at once: half of them.
pub const CONTESTS_MAX: usize = 8;

pub struct Hosts {
    pub labels: LabelKey,
    /// How long a host stays its owner's after the end of its backend.
    pub hold: Duration,
    /// The default.
    pub cluster: ClusterName,
    pub hot: Arc<Pool>,
    pub leases: Arc<Leases>,
    pub fleet: Arc<Fleet>,
    pub approvals: Approvals,
    pub return_urls: Arc<ReturnUrls>,
    pub known: KnownHosts,
    /// Reads and takes for live backends: a crowd for one key asks once.
    pub looking: Coalesce<(BackendId, Vec<String>), ApiResult<Ports>>,
    /// Inserts of keys that need hosts: of a crowd for one key one tries.
    pub inserting: Coalesce<Demand, Tried>,
    /// Transactions that may wait for another one's host. They leave connections to the others.
    pub contests: Semaphore,
}

/// Namespace and name of a key, and the hosts that it needs.
pub type Demand = (String, String, Vec<String>);

/// How a try went, for connects with the same demand.
#[derive(Debug, Clone)]
pub enum Tried {
    Taken(Taken),
    /// The row is there, or another try is worth it.
    LookAgain,
}

/// The outcome of an insert, for one connect.
pub enum Insertion {
    Inserted(Inserted),
    Taken(Taken),
    /// Another connect with the same demand has tried.
    LookAgain,
}

impl Hosts {
    /// Refuses before anything is looked up.
    pub fn check(&self, form: &HostForm) -> ApiResult<()> {
        self.approvals.check_hook(&form.hosts)?;
        let table = self.fleet.table();
        let clusters = table.drones.iter().map(|drone| &drone.cluster);
        check_apart(&form.hosts, clusters.chain([&self.cluster]))
    }

    /// Of a backend that is about to be made. `None`: the path form.
    pub fn of_spawn(
        &self,
        wanted: &Wanted,
        spec: &BackendSpec,
        cluster: &ClusterName,
        backend: &BackendId,
    ) -> ApiResult<Option<Hosted>> {
        let Some(form) = &wanted.host_form else { return Ok(None) };
        check_apart(&form.hosts, [cluster])?;
        let owner = Owner { key: wanted.key.as_ref(), backend };
        let hosts = SessionHosts::new(&self.labels, form, owner, spec.subdomain.as_ref(), cluster)?;
        Ok(Some(Hosted { hosts, ports: spec.executable.ports.keys().cloned().collect() }))
    }

    /// In the path form without a subdomain no host is at stake, and this is one statement.
    pub async fn insert(
        &self,
        new: &NewBackend<'_>,
        form: Option<&HostForm>,
        hosted: Option<&Hosted>,
    ) -> Result<Insertion, DbError> {
        if hosted.is_none() && new.spec.subdomain.is_none() {
            let inserted = backends::insert(&mut *self.hot.acquire().await?, new).await?;
            return Ok(Insertion::Inserted(inserted));
        }
        // On the heap, so that the others do not carry its room about.
        Box::pin(self.insert_with_hosts(new, form, hosted)).await
    }

    async fn insert_with_hosts(
        &self,
        new: &NewBackend<'_>,
        form: Option<&HostForm>,
        hosted: Option<&Hosted>,
    ) -> Result<Insertion, DbError> {
        let (takes, checked) = match (hosted, &new.spec.subdomain) {
            (Some(Hosted { hosts, .. }), _) => (hosts.names(), hosts.contested()),
            (None, Some(subdomain)) => (Vec::new(), host_names::of_subdomain(subdomain, new.cluster)),
            (None, None) => (Vec::new(), Vec::new()),
        };
        let claim = Claim {
            backend: new.id,
            key: new.key,
            takes: &takes,
            checked: &checked,
            label: hosted.and_then(|hosted| hosted.hosts.chosen()),
            return_url: return_url(form),
            hold: self.hold,
        };
        let Some(key) = new.key else { return self.try_insert(new, &claim, hosted).await };
        let demand = (key.namespace.clone(), key.name.clone(), [&takes[..], &checked].concat());
        let mut own = None;
        let tried = self.inserting.share(demand, async || {
            let outcome = self.try_insert(new, &claim, hosted).await;
            let tried = match &outcome {
                Ok(Insertion::Taken(taken)) => Tried::Taken(taken.clone()),
                Ok(Insertion::Inserted(_) | Insertion::LookAgain) | Err(_) => Tried::LookAgain,
            };
            own = Some(outcome);
            tried
        });
        let tried = tried.await;
        own.unwrap_or_else(|| {
            Ok(match tried {
                Tried::Taken(taken) => Insertion::Taken(taken),
                Tried::LookAgain => Insertion::LookAgain,
            })
        })
    }

    async fn try_insert(
        &self,
        new: &NewBackend<'_>,
        claim: &Claim<'_>,
        hosted: Option<&Hosted>,
    ) -> Result<Insertion, DbError> {
        // A failover after the commit may lose it: the note is of the timeline before.
        let timeline = self.leases.timeline();
        let claimed = {
            let _turn = self.turn(claim).await?;
            hosts::insert(&mut *self.hot.acquire().await?, new, claim).await?
        };
        Ok(match claimed {
            Claimed::Taken(taken) => Insertion::Taken(taken),
            Claimed::Inserted(inserted) => {
                if let (Inserted::Placed { .. }, Some(hosted)) = (&inserted, hosted) {
                    self.known.note(new.id, timeline, claim.takes, hosted.ports.clone());
                }
                Insertion::Inserted(inserted)
            }
        })
    }

    /// Where no host is contested, none is needed.
    async fn turn(&self, claim: &Claim<'_>) -> Result<Option<SemaphorePermit<'_>>, DbError> {
        if claim.checked.is_empty() {
            return Ok(None);
        }
        let turn = timeout(deadlines::CONNECT, self.contests.acquire()).await;
        let turn = turn.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        Ok(Some(turn))
    }

    /// Of a backend that lives, where all is known. `None`: it has to be read, or is refused.
    pub fn known_of(&self, wanted: &Wanted, form: &HostForm, live: &LiveBackend) -> Option<Hosted> {
        let hosts = self.hosts_of(wanted, form, live).ok()?;
        let ports = self.known.ports(&live.id, self.leases.timeline(), &hosts.names())?;
        Some(Hosted { hosts, ports })
    }

    /// Of a backend that lives; it has them when this returns.
    pub async fn of_live(&self, wanted: &Wanted, form: &HostForm, live: &LiveBackend) -> ApiResult<Hosted> {
        if live.use_static_token {
            return Err(static_token());
        }
        let hosts = self.hosts_of(wanted, form, live)?;
        let names = hosts.names();
        let ports = match self.known.ports(&live.id, self.leases.timeline(), &names) {
            Some(ports) => ports,
            None => {
                let look = async || self.look(wanted, form, live, &hosts, &names).await;
                self.looking.share((live.id.clone(), names.clone()), look).await?
            }
        };
        Ok(Hosted { hosts, ports })
    }

    /// A connect that has joined a live backend gives the URL for those who come later. It is written
    /// in a moment, if it is another one.
    pub fn return_later(&self, form: Option<&HostForm>, hosted: Option<&Hosted>, backend: &BackendId) {
        if let (Some(url), Some(Hosted { hosts, .. })) = (return_url(form), hosted) {
            self.return_urls.put(hosts.names(), backend, url);
        }
    }

    fn hosts_of(&self, wanted: &Wanted, form: &HostForm, live: &LiveBackend) -> ApiResult<SessionHosts> {
        check_apart(&form.hosts, [&live.cluster])?;
        let owner = Owner { key: wanted.key.as_ref(), backend: &live.id };
        SessionHosts::new(&self.labels, form, owner, live.subdomain.as_ref(), &live.cluster)
    }

    async fn look(
        &self,
        wanted: &Wanted,
        form: &HostForm,
        live: &LiveBackend,
        hosts: &SessionHosts,
        names: &[String],
    ) -> ApiResult<Ports> {
        let timeline = self.leases.timeline();
        let standing = hosts::standing(&mut *self.hot.acquire().await?, &live.id, names).await?;
        let lacks = |host: &str| !standing.hosts.iter().any(|has| has == host);
        let takes: Vec<String> = names.iter().filter(|host| lacks(host)).cloned().collect();
        if !takes.is_empty() {
            let others: Vec<_> = form.hosts.iter().filter(|host| lacks(host.as_str())).cloned().collect();
            self.approvals.approve(&others).await?;
            let checked: Vec<String> = hosts.contested().into_iter().filter(|host| lacks(host)).collect();
            let claim = Claim {
                backend: &live.id,
                key: wanted.key.as_ref(),
                takes: &takes,
                checked: &checked,
                label: hosts.chosen(),
                return_url: return_url(Some(form)),
                hold: self.hold,
            };
            let taken = {
                let _turn = self.turn(&claim).await?;
                hosts::take_for_live(&mut *self.hot.acquire().await?, &claim, live.fencing_token).await?
            };
            if let Some(taken) = taken {
                return Err(host_taken(&taken));
            }
        }
        // A row that was put back does not say its ports; the request may.
        let of_request = || wanted.spawn.iter().flat_map(|spawn| spawn.spec.executable.ports.keys().cloned());
        let ports: Ports = match &standing.ports {
            Some(ports) => named_ports(ports),
            None => of_request().collect(),
        };
        self.known.note(&live.id, timeline, names, ports.clone());
        Ok(ports)
    }
}

fn return_url(form: Option<&HostForm>) -> Option<&str> {
    form.and_then(|form| form.return_url.as_ref()).map(|url| url.as_str())
}

/// Of a stored spec. A name that is no port's is left out.
fn named_ports(ports: &Value) -> Ports {
    let names = ports.as_object().into_iter().flat_map(|ports| ports.keys());
    names.filter_map(|name| name.parse::<PortName>().ok()).collect()
}

/// Where waiting helps, it says how long.
pub fn host_taken(taken: &Taken) -> ApiError {
    let host = &taken.host;
    match taken.free_in {
        None => ApiError::new(
            Code::HostTaken,
            format!("the host {host} belongs to another key's session, which lives: choose another subdomain or host"),
        ),
        Some(left) => ApiError::new(
            Code::HostTaken,
            format!(
                "the host {host} was another key's a short time ago, and browsers may have kept its data: it is free in {} s; or choose another subdomain or host",
                left.as_secs() + 1
            ),
        )
        .retry_after_ms(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
    }
}
