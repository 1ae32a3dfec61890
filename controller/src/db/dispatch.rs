//! The table `backends`, seen by the tasks that repeat what a drone may have missed: rows that no drone has
//! acknowledged, wishes to stop, and the rows of one drone.

use std::time::Duration;

use jetway_protocol::grant::Grant;
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, Term};
use jetway_protocol::key::Key;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::status::{Status, TerminationKind};
use uuid::Uuid;

use super::backends::{Inserted, stop_rank};
use super::drones::DroneRef;
use super::{Connection, DbError, from_json, parse, readable};

/// A row that nobody has heard of from its drone.
pub struct Undispatched {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub key: Option<Key>,
    pub spec: Option<BackendSpec>,
    pub grant: Option<Grant>,
    pub use_static_token: bool,
    pub stop_requested: bool,
    pub age_seconds: f64,
    pub drone: DroneRef,
}

/// Takes rows whose last sender has had its time; until `seconds` from now this sender is the only one. Each is moved to
/// its drone's present term, under which it is sent: so nobody ends it for the end of an older one meanwhile. Rows of
/// drones that are silent are left alone: nobody can be told anything, and they would fill the batch.
pub async fn claim_undispatched(
    connection: &mut Connection,
    dispatcher: Uuid,
    seconds: f64,
    heartbeat_age_max: Duration,
    limit: i64,
) -> Result<Vec<Undispatched>, DbError> {
    let rows = sqlx::query!(
        "with due as (
             select b.id from backends b join drones d on d.id = b.drone_id
             where b.ended_at is null and b.acknowledged_at is null and b.dispatch_until < now()
               and d.last_heartbeat > now() - make_interval(secs => $4) and d.lease_over_below < d.term
               and b.drone_term >= d.dead_below and (b.keeps or b.drone_term >= d.lease_over_below)
             order by b.dispatch_until limit $3 for update of b skip locked
         )
         update backends b
         set dispatcher = $1, dispatch_until = now() + make_interval(secs => $2), drone_term = d.term,
             puts_sent = b.puts_sent + 1
         from due, drones d where b.id = due.id and d.id = b.drone_id and b.ended_at is null
         returning b.id, b.fencing_token, b.key_namespace, b.key_name, b.key_tag, b.spec, b.first_grant,
                   b.use_static_token, b.stop_requested is not null as \"stop_requested!\",
                   extract(epoch from now() - b.created_at)::double precision as \"age!\",
                   b.drone_id, d.name, d.term, d.advertise",
        dispatcher,
        seconds,
        limit,
        heartbeat_age_max.as_secs_f64()
    )
    .fetch_all(connection)
    .await?;
    Ok(readable(rows, |row| {
        Ok(Undispatched {
            fencing_token: FencingToken(row.fencing_token),
            key: key(row.key_namespace, row.key_name, row.key_tag),
            spec: row.spec.map(|spec| from_json(spec, "backends", "spec", &row.id)).transpose()?,
            grant: row
                .first_grant
                .map(|grant| from_json(grant, "backends", "first_grant", &row.id))
                .transpose()?,
            use_static_token: row.use_static_token,
            stop_requested: row.stop_requested,
            age_seconds: row.age,
            drone: DroneRef {
                id: DroneId(row.drone_id),
                name: parse(&row.name, "drones", "name", row.drone_id)?,
                term: Term(row.term),
                advertise: row.advertise,
            },
            id: parse(&row.id, "backends", "id", &row.id)?,
        })
    }))
}

/// What an insert that had no answer has made: its row, as long as its first sender is the only
/// one.
pub async fn inserted(
    connection: &mut Connection,
    id: &BackendId,
    dispatcher: Uuid,
) -> Result<Option<Inserted>, DbError> {
    let row = sqlx::query!(
        "select b.fencing_token, b.drone_term, d.advertise
         from backends b join drones d on d.id = b.drone_id
         where b.id = $1 and b.dispatcher = $2 and b.dispatch_until > now() and b.ended_at is null",
        id.as_str(),
        dispatcher
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Inserted::Placed {
        fencing_token: FencingToken(row.fencing_token),
        term: Term(row.drone_term),
        advertise: row.advertise,
    }))
}

pub fn key(namespace: Option<String>, name: Option<String>, tag: Option<String>) -> Option<Key> {
    Some(Key { namespace: namespace?, name: name?, tag: tag? })
}

/// The drone has it in its journal: what only the drone needs is forgotten here.
pub async fn acknowledge(
    connection: &mut Connection,
    id: &BackendId,
    fencing_token: FencingToken,
) -> Result<(), DbError> {
    sqlx::query!(
        "update backends set acknowledged_at = now(), first_grant = null, spec = without_secrets(spec)
         where id = $1 and fencing_token = $2 and acknowledged_at is null and ended_at is null",
        id.as_str(),
        fencing_token.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A wish to stop that the drone's status does not show yet.
pub struct StopDue {
    pub id: BackendId,
    pub kind: TerminationKind,
    /// Because its drone is drained: its clients are to come back.
    pub leaves: bool,
    pub drone: DroneRef,
}

/// Wishes for the end of what is left on drones that should be empty by now, oldest first, at most `limit` of them.
pub async fn stop_overdue(connection: &mut Connection, limit: i64) -> Result<(), DbError> {
    sqlx::query!(
        "update backends set stop_requested = $2 where id in (
             select b.id from drones d join backends b on b.drone_id = d.id
             where d.draining and d.drain_deadline <= now() and b.ended_at is null and b.stop_requested is null
             order by b.fencing_token limit $1
             for update of b skip locked)",
        limit,
        stop_rank(TerminationKind::Soft)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Wishes that are not yet seen in the status, oldest first. Those of silent drones wait until these are heard of:
/// they would fill the batch.
pub async fn stops_due(
    connection: &mut Connection,
    heartbeat_age_max: Duration,
    limit: i64,
) -> Result<Vec<StopDue>, DbError> {
    let rows = sqlx::query!(
        "select b.id, b.stop_requested as \"stop!\", b.drone_id, d.name, d.term, d.advertise,
                (d.draining and d.drain_deadline <= now()) is true as \"leaves!\"
         from backends b join drones d on d.id = b.drone_id
         where b.ended_at is null and b.stop_requested is not null and b.acknowledged_at is not null
           and b.status < case when b.stop_requested = 1 then $1::smallint else $2::smallint end
           and d.last_heartbeat > now() - make_interval(secs => $4)
         order by b.fencing_token limit $3",
        Status::Terminating.rank(),
        Status::HardTerminating.rank(),
        limit,
        heartbeat_age_max.as_secs_f64()
    )
    .fetch_all(connection)
    .await?;
    Ok(readable(rows, |row| {
        Ok(StopDue {
            id: parse(&row.id, "backends", "id", &row.id)?,
            kind: if row.stop == 1 { TerminationKind::Soft } else { TerminationKind::Hard },
            leaves: row.leaves,
            drone: DroneRef {
                id: DroneId(row.drone_id),
                name: parse(&row.name, "drones", "name", row.drone_id)?,
                term: Term(row.term),
                advertise: row.advertise,
            },
        })
    }))
}

/// A row as the inventory's comparison needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowOfDrone {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub placed_term: Term,
    pub acknowledged: bool,
    pub young: bool,
}

/// Whether the row is still as it was read: it lives, under the same term.
pub async fn is_unchanged(connection: &mut Connection, row: &RowOfDrone) -> Result<bool, DbError> {
    let same = sqlx::query_scalar!(
        "select 1 as \"same!\" from backends
         where id = $1 and fencing_token = $2 and drone_term = $3 and ended_at is null",
        row.id.as_str(),
        row.fencing_token.0,
        row.placed_term.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(same.is_some())
}

/// The live rows of one drone, at most `limit`, after the one with `after` (pages by fencing token), and where the next
/// page begins, if there is one.
pub async fn live_of_drone(
    connection: &mut Connection,
    drone: DroneId,
    young_seconds: f64,
    after: FencingToken,
    limit: i64,
) -> Result<(Vec<RowOfDrone>, Option<FencingToken>), DbError> {
    let rows = sqlx::query!(
        "select id, fencing_token, drone_term, acknowledged_at is not null as \"acknowledged!\",
                created_at > now() - make_interval(secs => $2) as \"young!\"
         from backends where drone_id = $1 and ended_at is null and fencing_token > $3
         order by fencing_token limit $4",
        drone.0,
        young_seconds,
        after.0,
        limit
    )
    .fetch_all(connection)
    .await?;
    let full = i64::try_from(rows.len()).is_ok_and(|rows| rows == limit);
    let next = rows.last().filter(|_| full).map(|last| FencingToken(last.fencing_token));
    let rows = readable(rows, |row| {
        Ok(RowOfDrone {
            id: parse(&row.id, "backends", "id", &row.id)?,
            fencing_token: FencingToken(row.fencing_token),
            placed_term: Term(row.drone_term),
            acknowledged: row.acknowledged,
            young: row.young,
        })
    });
    Ok((rows, next))
}
