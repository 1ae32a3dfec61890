//! The leases of drones: renewals in batches, the watch's one transaction, the statement that ends a lease, and what an
//! operator knows to be dead. When a lease may be ended is `protocol::lease`'s to say.

use std::time::Duration;

use jetway_protocol::controller_api::Load;
use jetway_protocol::ids::{ClusterName, DroneId, DroneName, Term};
use jetway_protocol::lease::{LeaseTerms, Reading, Seat};
use uuid::Uuid;

use super::{Connection, DbError, to_json};

/// One drone's renewal, as its heartbeat has it.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub drone: DroneId,
    pub seat: Seat,
    pub lease: Option<LeaseTerms>,
    pub load: Load,
}

/// A drone whose renewal is in Postgres, and whether it is draining.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Renewed {
    pub drone: DroneId,
    pub draining: bool,
}

/// Writes a batch of renewals, at most one a drone. Only what is returned was renewed: a row that somebody else has locked
/// is left out, as is one of another term, of a term that an earlier timeline gave (after a failover every drone registers
/// anew), or of this renewal or a later one. While absent keys are not granted yet after a failover, so is a drone that was
/// not compared in its term: what it runs may have lost its row, and ends with its lease before its key is granted again.
pub async fn renew(connection: &mut Connection, renewals: &[Renewal]) -> Result<Vec<Renewed>, DbError> {
    let ids: Vec<Uuid> = renewals.iter().map(|renewal| renewal.drone.0).collect();
    let terms: Vec<i64> = renewals.iter().map(|renewal| renewal.seat.term.0).collect();
    let numbers: Vec<i64> = renewals.iter().map(|renewal| renewal.seat.renewal).collect();
    let loads: Vec<serde_json::Value> = renewals.iter().map(|renewal| to_json(&renewal.load)).collect();
    let part = |part: fn(LeaseTerms) -> Duration| -> Vec<Option<i64>> {
        renewals.iter().map(|renewal| renewal.lease.map(|lease| ms(part(lease)))).collect()
    };
    // A term that the executable from before the lease has given leaves the number as it was: then any number counts.
    let rows = sqlx::query!(
        "with beat as materialized (
             select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::jsonb[], $5::bigint[], $6::bigint[])
                 as beat (id, term, renewal, load, length_ms, margin_ms)
         ), mine as materialized (
             select d.id from drones d join beat on beat.id = d.id
             where d.term = beat.term and (d.renewal < beat.renewal or d.lease_term is distinct from d.term)
               and (beat.length_ms is null
                    or beat.term >> 40 >= (select least(jetway_timeline(), 8191))
                       and (d.compared_term = d.term
                            or (select settled_timeline = jetway_timeline() from installation)))
             order by d.id for update of d skip locked
         )
         update drones d
         set renewal = beat.renewal, load = beat.load, last_heartbeat = now(),
             lease_term = case when beat.length_ms is not null then beat.term end,
             lease_length_ms = coalesce(beat.length_ms, 0), lease_margin_ms = coalesce(beat.margin_ms, 0)
         from beat join mine on mine.id = beat.id
         where d.id = beat.id and d.term = beat.term
         returning d.id, d.draining",
        &ids,
        &terms,
        &numbers,
        &loads,
        &part(LeaseTerms::length) as &[Option<i64>],
        &part(LeaseTerms::margin) as &[Option<i64>],
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| Renewed { drone: DroneId(row.id), draining: row.draining }).collect())
}

/// A drone's present seat, and whether its term is of an earlier timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    pub seat: Seat,
    pub is_outdated: bool,
}

/// The present seats of drones; of those that do not exist, none.
pub async fn seats(
    connection: &mut Connection,
    drones: &[DroneId],
) -> Result<Vec<(DroneId, Present)>, DbError> {
    let ids: Vec<Uuid> = drones.iter().map(|drone| drone.0).collect();
    let rows = sqlx::query!(
        "select id, term, renewal, term >> 40 < least(jetway_timeline(), 8191) as \"is_outdated!\"
         from drones where id = any($1)",
        &ids
    )
    .fetch_all(connection)
    .await?;
    let present =
        |term, renewal, is_outdated| Present { seat: Seat { term: Term(term), renewal }, is_outdated };
    let rows = rows.into_iter();
    Ok(rows.map(|row| (DroneId(row.id), present(row.term, row.renewal, row.is_outdated))).collect())
}

/// What one tick of the watch has read.
#[derive(Debug, Clone)]
pub struct Turn {
    pub reading: Reading,
    /// The timeline on which absent keys are granted.
    pub settled: u32,
    /// Whether this Postgres waits for a standby before it acknowledges a commit.
    pub synchronous: bool,
}

/// One transaction that writes and then reads: every drone that has a lease, and the timeline.
pub async fn take_turn(connection: &mut Connection, controller: Uuid) -> Result<Turn, DbError> {
    let mut transaction = connection.begin().await?;
    let turn = sqlx::query!(
        "insert into controllers (id) values ($1)
         on conflict (id) do update set turn = controllers.turn + 1, last_turn = now()
         returning jetway_timeline() as \"timeline!\", (select settled_timeline from installation) as \"settled!\",
                   current_setting('synchronous_standby_names') <> ''
                   and current_setting('synchronous_commit') not in ('off', 'local') as \"synchronous!\"",
        controller
    )
    .fetch_one(&mut *transaction)
    .await?;
    let rows = sqlx::query!(
        "select id, term, renewal, lease_length_ms, lease_margin_ms from drones where lease_term = term"
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let drones = rows.into_iter().filter_map(|row| {
        // Terms that this controller does not understand: another one watches, or nobody.
        let terms = terms_of(row.lease_length_ms, row.lease_margin_ms)?;
        Some((DroneId(row.id), Seat { term: Term(row.term), renewal: row.renewal }, terms))
    });
    let number = |timeline: i64| u32::try_from(timeline).unwrap_or_default();
    Ok(Turn {
        reading: Reading { timeline: number(turn.timeline), drones: drones.collect() },
        settled: number(turn.settled),
        synchronous: turn.synchronous,
    })
}

/// Ends the lease of a drone whose seat has not changed, on the same timeline: it gets a term that it does not know.
pub async fn end(
    connection: &mut Connection,
    drone: DroneId,
    seat: Seat,
    timeline: u32,
) -> Result<Option<Term>, DbError> {
    let term = sqlx::query_scalar!(
        "with next as materialized (select jetway_next('drone_terms') as term)
         update drones d set term = next.term, lease_over_below = next.term
         from next
         where d.id = $1 and d.term = $2 and d.renewal = $3 and d.lease_term = d.term and jetway_timeline() = $4
         returning d.term",
        drone.0,
        seat.term.0,
        seat.renewal,
        i64::from(timeline)
    )
    .fetch_optional(connection)
    .await?;
    Ok(term.map(Term))
}

/// All that the drone had in this term has its row, or none that it could have.
pub async fn compared(connection: &mut Connection, drone: DroneId, term: Term) -> Result<(), DbError> {
    sqlx::query!(
        "update drones set compared_term = $2 where id = $1 and term = $2 and compared_term is distinct from $2",
        drone.0,
        term.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// From now on absent keys are granted on this timeline.
pub async fn settle(connection: &mut Connection, timeline: u32) -> Result<(), DbError> {
    sqlx::query!(
        "update installation set settled_timeline = $1 where settled_timeline <> $1 and jetway_timeline() = $1",
        i64::from(timeline)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// An operator says that a drone's host is dead: whatever was placed there is known to be gone. `None`: no such drone.
pub async fn forget(
    connection: &mut Connection,
    cluster: &ClusterName,
    name: &DroneName,
) -> Result<Option<(DroneId, Term)>, DbError> {
    let row = sqlx::query!(
        "with next as materialized (select jetway_next('drone_terms') as term)
         update drones d
         set term = next.term, dead_below = next.term, lease_over_below = next.term, forgotten_term = next.term
         from next where d.name = $1 and d.cluster = $2
         returning d.id, d.term",
        name.as_str(),
        cluster.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (DroneId(row.id), Term(row.term))))
}

/// Forgets controllers whose last turn is long ago.
pub async fn prune_controllers(connection: &mut Connection, age: Duration) -> Result<(), DbError> {
    sqlx::query!(
        "delete from controllers where last_turn < now() - make_interval(secs => $1)",
        age.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// `None`: no lease, or not one that this version understands.
pub fn terms_of(length_ms: i64, margin_ms: i64) -> Option<LeaseTerms> {
    let part = |ms: i64| u64::try_from(ms).ok().map(Duration::from_millis);
    LeaseTerms::new(part(length_ms)?, part(margin_ms)?).ok()
}

pub fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
