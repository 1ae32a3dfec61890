//! The registration of a drone, in its row of `drones`: one transaction that compares what the drone replaces with what
//! is there, and gives it a new term. What the comparison means is `protocol::lease::registration`'s.

use std::time::Duration;

use jetway_protocol::controller_api::{Load, Register};
use jetway_protocol::ids::{BootId, ClusterName, Term};
use jetway_protocol::lease::{
    Claim, Known, LeaseTerms, RegistrationVerdict as Verdict, Replaces, Seat, registration,
};
use uuid::Uuid;

use super::leases::{ms, terms_of};
use super::{Connection, DbError, storable, to_json};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    Registered {
        term: Term,
        draining: bool,
        /// Its host was booted anew: what ran there is dead.
        booted_anew: bool,
    },
    /// It does not replace what is there; this is what is.
    Moved {
        present: Option<Replaces>,
    },
    NameTaken,
    /// That host was up when the drone was last heard of from another one.
    OtherHost,
    /// Another agent process has registered as this drone since this one did.
    OtherAgent,
}

/// The row as the registration finds it.
struct Present {
    known: Known,
    silent_ms: u64,
    agent: Option<Uuid>,
    agent_before: Option<Uuid>,
    /// The lease of its present term.
    lease: Option<LeaseTerms>,
    /// Its lease is over: nobody counts on it any more.
    over: bool,
    /// An operator has said that it is dead.
    forgotten: bool,
}

/// Raises the drone's term. `lease`: what it is to hold, if it can.
pub async fn register(
    connection: &mut Connection,
    drone: &Register,
    cluster: &ClusterName,
    lease: Option<LeaseTerms>,
) -> Result<Registration, DbError> {
    let mut transaction = connection.begin().await?;
    let registration = register_in(&mut transaction, drone, cluster, lease).await?;
    match &registration {
        Registration::Registered { .. } => transaction.commit().await?,
        // Its statement has failed, and the transaction with it: the connection is closed.
        Registration::NameTaken => drop(transaction),
        Registration::Moved { .. } | Registration::OtherHost | Registration::OtherAgent => {
            transaction.rollback().await?;
        }
    }
    Ok(registration)
}

async fn register_in(
    transaction: &mut Connection,
    drone: &Register,
    cluster: &ClusterName,
    lease: Option<LeaseTerms>,
) -> Result<Registration, DbError> {
    let present = present(transaction, drone).await?;
    let replaces = match &present {
        // An agent from before the lease compares nothing: it replaces whatever is there.
        Some(present) if !drone.holds_lease => {
            Some(Replaces { seat: present.known.seat, silent_ms: present.silent_ms })
        }
        Some(_) => drone.replaces,
        None if !drone.holds_lease => None,
        None => drone.replaces,
    };
    let claim = Claim { boot_id: drone.boot_id, uptime: Duration::from_millis(drone.uptime_ms), replaces };
    let verdict = match registration(present.as_ref().map(|present| &present.known), &claim) {
        // Whatever the clocks say: an operator has said that the other host is dead.
        Verdict::OtherHost if present.as_ref().is_some_and(|present| present.forgotten) => Verdict::NewBoot,
        verdict => verdict,
    };
    let came_back = |present: &Present| drone.agent.is_some() && present.agent_before == drone.agent;
    match (&verdict, &present) {
        (Verdict::OtherHost, _) => return Ok(Registration::OtherHost),
        (Verdict::SameBoot | Verdict::NewBoot | Verdict::Moved { .. }, Some(present))
            if came_back(present) && present.agent != drone.agent =>
        {
            return Ok(Registration::OtherAgent);
        }
        (Verdict::Moved { .. }, present) => return Ok(moved(present.as_ref())),
        (Verdict::First | Verdict::SameBoot | Verdict::NewBoot, _) => {}
    }
    free_name(transaction, drone).await?;
    let written = write(transaction, drone, cluster, &verdict, present.as_ref(), lease).await;
    match written {
        Ok(Some((term, draining))) => {
            let booted_anew = verdict == Verdict::NewBoot;
            Ok(Registration::Registered { term, draining, booted_anew })
        }
        // Another one came first.
        Ok(None) => Ok(moved(None)),
        Err(DbError::Query(sqlx::Error::Database(error)))
            if error.constraint() == Some("drones_name_unique") =>
        {
            Ok(Registration::NameTaken)
        }
        Err(error) => Err(error),
    }
}

fn moved(present: Option<&Present>) -> Registration {
    let present = present.map(|present| Replaces { seat: present.known.seat, silent_ms: present.silent_ms });
    Registration::Moved { present }
}

async fn present(connection: &mut Connection, drone: &Register) -> Result<Option<Present>, DbError> {
    // now() is the transaction's beginning, before any wait for the row: the silence is never too long.
    let row = sqlx::query!(
        "select boot_id, term, renewal, agent, agent_before, lease_length_ms, lease_margin_ms,
                lease_term is not distinct from term as \"leased!\", lease_over_below = term as \"over!\",
                forgotten_term is not distinct from term as \"forgotten!\",
                greatest(extract(epoch from now() - last_heartbeat) * 1000, 0)::bigint as \"silent_ms!\"
         from drones where id = $1 for update",
        drone.drone.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Present {
        known: Known {
            seat: Seat { term: Term(row.term), renewal: row.renewal },
            boot_id: BootId(row.boot_id),
        },
        silent_ms: row.silent_ms.unsigned_abs(),
        agent: row.agent,
        agent_before: row.agent_before,
        lease: terms_of(row.lease_length_ms, row.lease_margin_ms).filter(|_| row.leased),
        over: row.over,
        forgotten: row.forgotten,
    }))
}

/// A drone that an operator has declared dead does not keep its name from the one that comes in its place.
async fn free_name(connection: &mut Connection, drone: &Register) -> Result<(), DbError> {
    sqlx::query!(
        "update drones set name = left(name, 54) || '.' || left(id::text, 8)
         where name = $1 and id <> $2 and forgotten_term = term",
        drone.name.as_str(),
        drone.drone.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The lease that the row is watched for from now on, until the drone's first heartbeat says what it counts by. The reply
/// may be lost: then the drone goes on under what it had, so the row's can only become longer, and a drone that had none is
/// not watched yet.
fn watched(verdict: &Verdict, present: Option<&Present>, granted: Option<LeaseTerms>) -> Option<LeaseTerms> {
    let granted = granted?;
    match (verdict, present) {
        (Verdict::SameBoot, Some(present)) if !present.over => Some(present.lease?.or_longer(granted)),
        _ => Some(granted),
    }
}

/// The new term, and whether it is draining. `None`: the seat has moved.
async fn write(
    connection: &mut Connection,
    drone: &Register,
    cluster: &ClusterName,
    verdict: &Verdict,
    present: Option<&Present>,
    lease: Option<LeaseTerms>,
) -> Result<Option<(Term, bool)>, DbError> {
    let watched = watched(verdict, present, lease.filter(|_| drone.holds_lease));
    let (length_ms, margin_ms) = watched.map_or((0, 0), |terms| (ms(terms.length()), ms(terms.margin())));
    let seat = present.map(|present| present.known.seat);
    let row = sqlx::query!(
        "with next as materialized (select jetway_next('drone_terms') as term)
         insert into drones as d
             (id, name, cluster, pool, advertise, version, boot_id, capacity, load, term, agent,
              lease_length_ms, lease_margin_ms, lease_term)
         select $1, $2, $3, $4, $5, $6, $7, $8, $9, next.term, $10,
                $11::bigint, $12::bigint, case when $11::bigint > 0 then next.term end
         from next
         on conflict (id) do update
         set name = excluded.name, cluster = excluded.cluster, pool = excluded.pool, advertise = excluded.advertise,
             version = excluded.version, boot_id = excluded.boot_id, capacity = excluded.capacity,
             load = excluded.load, term = excluded.term, renewal = 0, registered_at = now(), last_heartbeat = now(),
             agent_before = case when d.agent is distinct from excluded.agent then d.agent else d.agent_before end,
             agent = excluded.agent, lease_length_ms = excluded.lease_length_ms,
             lease_margin_ms = excluded.lease_margin_ms, lease_term = excluded.lease_term,
             dead_below = case when $13 then excluded.term else d.dead_below end
         where d.term = $14 and d.renewal = $15
         returning d.term, d.draining",
        drone.drone.0,
        drone.name.as_str(),
        cluster.as_str(),
        drone.pool.as_str(),
        drone.advertise,
        storable(&drone.version),
        drone.boot_id.0,
        to_json(&drone.capacity),
        // Nothing is placed on it before its first heartbeat has said that it serves.
        to_json(&Load::default()),
        drone.agent,
        length_ms,
        margin_ms,
        *verdict == Verdict::NewBoot,
        seat.map(|seat| seat.term.0),
        seat.map(|seat| seat.renewal),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (Term(row.term), row.draining)))
}
