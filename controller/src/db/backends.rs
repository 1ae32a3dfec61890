//! The table `backends`: one row a backend, made by a connect, moved by the drone's events, ended once.

use std::sync::Arc;

use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, ClusterName, DroneId, FencingToken, Subdomain, Term};
use jetway_protocol::key::Key;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::status::{Status, TerminationKind};
use sqlx::types::Json;
use uuid::Uuid;

use super::drones::DroneRef;
use super::{Connection, DbError, parse, status};

/// A backend that has not ended, and its drone as it is reached now: all that a connect needs to know.
#[derive(Debug, Clone)]
pub struct LiveBackend {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub tag: String,
    pub status: Status,
    pub cluster: ClusterName,
    pub subdomain: Option<Subdomain>,
    pub use_static_token: bool,
    pub stop_requested: bool,
    pub acknowledged: bool,
    /// Its drone's lease is over, or its drone is dead: its row is about to be ended.
    pub is_released: bool,
    pub drone: DroneRef,
}

impl LiveBackend {
    /// The same backend, at the same place, reached in the same way.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let (here, there) = (&self.drone, &other.drone);
        (&self.id, self.fencing_token) == (&other.id, other.fencing_token)
            && (here.id, here.term, &here.advertise) == (there.id, there.term, &there.advertise)
    }
}

/// Whether a key is live, as far as its row can be read.
pub type Found = Result<Option<LiveBackend>, DbError>;

/// The same, as it is told to each of those who asked together.
pub type FoundTogether = Result<Option<LiveBackend>, Arc<DbError>>;

/// What is read of a backend that lives, and of its drone.
struct LiveRow {
    id: String,
    fencing_token: i64,
    tag: String,
    status: i16,
    cluster: String,
    subdomain: Option<String>,
    use_static_token: bool,
    stop_requested: bool,
    acknowledged: bool,
    is_released: bool,
    drone: Uuid,
    name: String,
    term: i64,
    advertise: String,
}

impl LiveRow {
    fn read(self) -> Result<LiveBackend, DbError> {
        let subdomain = self.subdomain.map(|subdomain| parse(&subdomain, "backends", "subdomain", &self.id));
        Ok(LiveBackend {
            fencing_token: FencingToken(self.fencing_token),
            tag: self.tag,
            status: status(self.status, "backends", &self.id)?,
            cluster: parse(&self.cluster, "backends", "cluster", &self.id)?,
            subdomain: subdomain.transpose()?,
            use_static_token: self.use_static_token,
            stop_requested: self.stop_requested,
            acknowledged: self.acknowledged,
            is_released: self.is_released,
            drone: DroneRef {
                id: DroneId(self.drone),
                name: parse(&self.name, "drones", "name", self.drone)?,
                term: Term(self.term),
                advertise: self.advertise,
            },
            id: parse(&self.id, "backends", "id", &self.id)?,
        })
    }
}

/// The one read of a connect.
pub async fn live_by_key(connection: &mut Connection, key: &Key) -> Found {
    let row = sqlx::query_as!(
        LiveRow,
        "select b.id, b.fencing_token, b.key_tag as \"tag!\", b.status, b.cluster, b.subdomain, b.use_static_token,
                b.stop_requested is not null as \"stop_requested!\",
                b.acknowledged_at is not null as \"acknowledged!\",
                b.drone_term < d.dead_below or (not b.keeps and b.drone_term < d.lease_over_below)
                    as \"is_released!\",
                b.drone_id as drone, d.name, d.term, d.advertise
         from backends b join drones d on d.id = b.drone_id
         where b.key_namespace = $1 and b.key_name = $2 and b.ended_at is null",
        key.namespace,
        key.name
    )
    .fetch_optional(connection)
    .await?;
    row.map(LiveRow::read).transpose()
}

/// The same read of all connects that come at one time: what is found for each key, in their order. The limit, which a unique
/// index implies, has each key looked up by itself, however small the table was when the plan was made.
pub async fn live_by_keys(connection: &mut Connection, keys: &[&Key]) -> Result<Vec<Found>, DbError> {
    if let [one] = keys {
        // A row that cannot be read is its caller's trouble, a statement that fails everybody's.
        return match live_by_key(connection, one).await {
            Err(error) if !matches!(error, DbError::Row { .. }) => Err(error),
            found => Ok(vec![found]),
        };
    }
    let namespaces: Vec<String> = keys.iter().map(|key| key.namespace.clone()).collect();
    let names: Vec<String> = keys.iter().map(|key| key.name.clone()).collect();
    let rows = sqlx::query!(
        "select k.place as \"place!\", found.*
         from unnest($1::text[], $2::text[]) with ordinality as k(namespace, name, place)
         cross join lateral (
             select b.id, b.fencing_token, b.key_tag as \"tag!\", b.status, b.cluster, b.subdomain, b.use_static_token,
                    b.stop_requested is not null as \"stop_requested!\",
                    b.acknowledged_at is not null as \"acknowledged!\",
                    b.drone_term < d.dead_below or (not b.keeps and b.drone_term < d.lease_over_below)
                        as \"is_released!\",
                    b.drone_id as drone, d.name, d.term, d.advertise
             from backends b join drones d on d.id = b.drone_id
             where b.key_namespace = k.namespace and b.key_name = k.name and b.ended_at is null
             limit 1
         ) found",
        &namespaces,
        &names
    )
    .fetch_all(connection)
    .await?;
    let mut found: Vec<Found> = keys.iter().map(|_| Ok(None)).collect();
    for row in rows {
        let place = usize::try_from(row.place - 1).ok();
        let Some(place) = place.and_then(|place| found.get_mut(place)) else { continue };
        let live = LiveRow {
            id: row.id,
            fencing_token: row.fencing_token,
            tag: row.tag,
            status: row.status,
            cluster: row.cluster,
            subdomain: row.subdomain,
            use_static_token: row.use_static_token,
            stop_requested: row.stop_requested,
            acknowledged: row.acknowledged,
            is_released: row.is_released,
            drone: row.drone,
            name: row.name,
            term: row.term,
            advertise: row.advertise,
        };
        *place = live.read().map(Some);
    }
    Ok(found)
}

pub struct NewBackend<'a> {
    pub id: &'a BackendId,
    pub key: Option<&'a Key>,
    pub cluster: &'a ClusterName,
    pub spec: &'a BackendSpec,
    pub drone: DroneId,
    pub grant: Option<&'a Grant>,
    /// Who sends the drone its `PUT` first.
    pub dispatcher: Uuid,
    pub dispatch_seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    Placed {
        fencing_token: FencingToken,
        term: Term,
        advertise: String,
    },
    /// The key, the id or the subdomain is taken.
    Conflict,
    /// The drone has gone, began draining or lost its lease since it was chosen.
    DroneGone,
    /// Postgres has failed over, and not every drone has been outwaited: an absent key may be held.
    Unsettled,
}

/// The one commit of a connect for a new key. The drone's term is read in the same statement, so it is never old.
pub async fn insert(connection: &mut Connection, new: &NewBackend<'_>) -> Result<Inserted, DbError> {
    let row = sqlx::query!(
        "with chosen as (
             select d.id, d.term, d.advertise,
                    case when d.lease_term is distinct from d.term then 'keep' end as on_isolation,
                    $3::text is null or i.settled_timeline = jetway_timeline() as settled
             from drones d cross join installation i
             where d.id = $1 and not d.draining and d.lease_over_below < d.term
         ), placed as (
             insert into backends (id, key_namespace, key_name, key_tag, cluster, subdomain, drone_id, drone_term,
                                   status, spec, use_static_token, first_grant, dispatcher, dispatch_until,
                                   on_isolation)
             select $2, $3, $4, $5, $6, $7, chosen.id, chosen.term, $8, $9, $10, $11, $12,
                    now() + make_interval(secs => $13), chosen.on_isolation
             from chosen where chosen.settled
             on conflict do nothing
             returning fencing_token
         )
         select chosen.term, chosen.advertise, chosen.settled as \"settled!\", placed.fencing_token as \"fencing_token?\"
         from chosen left join placed on true",
        new.drone.0,
        new.id.as_str(),
        new.key.map(|key| key.namespace.as_str()),
        new.key.map(|key| key.name.as_str()),
        new.key.map(|key| key.tag.as_str()),
        new.cluster.as_str(),
        new.spec.subdomain.as_ref().map(Subdomain::as_str),
        Status::Scheduled.rank(),
        // Written as they are: what a request may say has no U+0000.
        Json(new.spec) as _,
        new.spec.use_static_token,
        new.grant.map(Json) as _,
        new.dispatcher,
        new.dispatch_seconds
    )
    .fetch_optional(connection)
    .await?;
    Ok(match row {
        None => Inserted::DroneGone,
        Some(row) if !row.settled => Inserted::Unsettled,
        Some(row) => match row.fencing_token {
            None => Inserted::Conflict,
            Some(token) => Inserted::Placed {
                fencing_token: FencingToken(token),
                term: Term(row.term),
                advertise: row.advertise,
            },
        },
    })
}

/// What an insert may have met besides its key: (the id was used, the subdomain is in use).
pub async fn conflicts(
    connection: &mut Connection,
    id: &BackendId,
    cluster: &ClusterName,
    subdomain: Option<&Subdomain>,
) -> Result<(bool, bool), DbError> {
    let row = sqlx::query!(
        "select exists (select 1 from backends where id = $1) as \"id!\",
                exists (select 1 from backends
                        where cluster = $2 and subdomain = $3 and ended_at is null) as \"subdomain!\"",
        id.as_str(),
        cluster.as_str(),
        subdomain.map(Subdomain::as_str)
    )
    .fetch_one(connection)
    .await?;
    Ok((row.id, row.subdomain))
}

/// Whether a backend has ended (or was pruned since).
pub async fn has_ended(connection: &mut Connection, id: &BackendId) -> Result<bool, DbError> {
    let live = sqlx::query_scalar!(
        "select 1 as \"live!\" from backends where id = $1 and ended_at is null",
        id.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(live.is_none())
}

/// What became of the wish to stop a backend. `None` where it is unknown.
pub struct StopWish {
    pub ended: bool,
    pub drone: DroneRef,
}

/// Writes down that somebody asked for the end. A hard wish outranks a soft one; an ended backend stays as it is.
pub async fn request_stop(
    connection: &mut Connection,
    id: &BackendId,
    kind: TerminationKind,
) -> Result<Option<StopWish>, DbError> {
    let row = sqlx::query!(
        "with asked as (
             update backends set stop_requested = greatest(coalesce(stop_requested, 0::smallint), $2)
             where id = $1 and ended_at is null
         )
         select b.ended_at is not null as \"ended!\", b.drone_id, d.name, d.term, d.advertise
         from backends b join drones d on d.id = b.drone_id where b.id = $1",
        id.as_str(),
        stop_rank(kind)
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(StopWish {
            ended: row.ended,
            drone: DroneRef {
                id: DroneId(row.drone_id),
                name: parse(&row.name, "drones", "name", row.drone_id)?,
                term: Term(row.term),
                advertise: row.advertise,
            },
        })
    })
    .transpose()
}

pub fn stop_rank(kind: TerminationKind) -> i16 {
    match kind {
        TerminationKind::Soft => 1,
        TerminationKind::Hard => 2,
    }
}

/// Forgets backends, with their events, that ended longer ago than `age_seconds`; at most `limit` of
/// them. Hosts that they had last keep the time from which they are held.
pub async fn prune(connection: &mut Connection, age_seconds: f64, limit: i64) -> Result<u64, DbError> {
    let count = sqlx::query_scalar!(
        "with gone as (
             delete from backends where id in (
                 select id from backends where ended_at < now() - make_interval(secs => $1)
                 limit $2 for update skip locked
             )
             returning id, ended_at, jetway_never_ready(end_json) as never_ready
         ), locked as materialized (
             select h.host, case when gone.never_ready then coalesce(h.before_ended_at, '-infinity')
                                 else gone.ended_at end as ended_at
             from gone join hosts h on h.backend = gone.id
             order by h.host for update of h
         ), kept as (
             update hosts h set ended_at = locked.ended_at from locked where h.host = locked.host
         )
         select count(*) as \"count!\" from gone",
        age_seconds,
        limit
    )
    .fetch_one(connection)
    .await?;
    Ok(count.unsigned_abs())
}
