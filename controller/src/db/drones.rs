//! The table `drones`: who they are, where they are reached, and what they have. Their registration is
//! `registrations.rs`'s, their leases are `leases.rs`'s.

use std::time::Duration;

use jetway_protocol::controller_api::{Capacity, Load};
use jetway_protocol::ids::{ClusterName, DroneId, DroneName, PoolName, Term};
use jetway_protocol::lease::LeaseTerms;
use jetway_protocol::time::UnixMicros;

use super::leases::terms_of;
use super::{Connection, DbError, from_json, parse, readable};

/// A drone as placement and calls need it.
#[derive(Debug, Clone)]
pub struct Drone {
    pub id: DroneId,
    pub name: DroneName,
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub version: String,
    pub term: Term,
    pub advertise: String,
    pub capacity: Capacity,
    pub load: Load,
    pub draining: bool,
    /// How long what runs there may go on while it drains; less than zero where it should have ended.
    pub drain_seconds_left: Option<f64>,
    /// Since its last heartbeat, by Postgres' clock, when the row was read.
    pub heartbeat_age: Duration,
    /// Since its last registration, alike.
    pub registered_age: Duration,
    pub lease: LeaseState,
    /// Whether all that it has was compared with its rows in its present term.
    pub compared: bool,
}

/// How a drone stands in its present term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// Nothing is ever stopped, or given away, for want of one.
    None,
    Held(LeaseTerms),
    /// It was watched to its end: nothing is placed there before the drone has registered anew.
    Over,
    /// An operator has said that the drone is dead.
    Forgotten,
}

impl LeaseState {
    pub fn is_over(self) -> bool {
        matches!(self, LeaseState::Over | LeaseState::Forgotten)
    }
}

/// Who a drone is reached as, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroneRef {
    pub id: DroneId,
    pub name: DroneName,
    pub term: Term,
    pub advertise: String,
}

/// Every drone: what placement's table is made of.
pub async fn all(connection: &mut Connection) -> Result<Vec<Drone>, DbError> {
    let rows = sqlx::query!(
        "select id, name, cluster, pool, version, term, advertise, capacity, load, draining,
                extract(epoch from now() - last_heartbeat)::double precision as \"age!\",
                extract(epoch from now() - registered_at)::double precision as \"registered_age!\",
                lease_over_below = term as \"over!\", forgotten_term is not distinct from term as \"forgotten!\",
                lease_term is not distinct from term as \"leased!\", lease_length_ms, lease_margin_ms,
                compared_term is not distinct from term as \"compared!\",
                case when draining then extract(epoch from drain_deadline - now())::double precision end as drain_left
         from drones"
    )
    .fetch_all(connection)
    .await?;
    Ok(readable(rows, |row| {
        Ok(Drone {
            id: DroneId(row.id),
            name: parse(&row.name, "drones", "name", row.id)?,
            cluster: parse(&row.cluster, "drones", "cluster", row.id)?,
            pool: parse(&row.pool, "drones", "pool", row.id)?,
            version: row.version,
            term: Term(row.term),
            advertise: row.advertise,
            capacity: from_json(row.capacity, "drones", "capacity", row.id)?,
            load: from_json(row.load, "drones", "load", row.id)?,
            draining: row.draining,
            drain_seconds_left: row.drain_left,
            heartbeat_age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            registered_age: Duration::try_from_secs_f64(row.registered_age).unwrap_or_default(),
            lease: match terms_of(row.lease_length_ms, row.lease_margin_ms) {
                _ if row.forgotten => LeaseState::Forgotten,
                _ if row.over => LeaseState::Over,
                Some(terms) if row.leased => LeaseState::Held(terms),
                Some(_) | None => LeaseState::None,
            },
            compared: row.compared,
        })
    }))
}

/// Where a drone is reached, and when it was last heard of.
pub async fn address(
    connection: &mut Connection,
    id: DroneId,
) -> Result<Option<(DroneRef, UnixMicros)>, DbError> {
    let row = sqlx::query!(
        "select name, term, advertise, (extract(epoch from last_heartbeat) * 1000000)::bigint as \"at!\"
         from drones where id = $1",
        id.0
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        let name = parse(&row.name, "drones", "name", id)?;
        Ok((DroneRef { id, name, term: Term(row.term), advertise: row.advertise }, UnixMicros(row.at)))
    })
    .transpose()
}

/// What became of the wish to set `draining`: the drone, and whether anything changed. `deadline`: from now on, how long what runs
/// there may go on; `None`: as long as it likes.
pub async fn set_draining(
    connection: &mut Connection,
    cluster: &ClusterName,
    name: &DroneName,
    draining: bool,
    deadline: Option<Duration>,
) -> Result<Option<(DroneRef, bool)>, DbError> {
    let row = sqlx::query!(
        "with before as (select id, draining, drain_deadline from drones where name = $1 and cluster = $2 for update)
         update drones set draining = $3, drain_deadline = now() + make_interval(secs => $4)
         from before where drones.id = before.id
         returning drones.id, term, advertise,
                   (before.draining <> $3 or before.drain_deadline is distinct from drones.drain_deadline) as \"updated!\"",
        name.as_str(),
        cluster.as_str(),
        draining,
        deadline.map(|deadline| deadline.as_secs_f64())
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let drone = DroneRef {
            id: DroneId(row.id),
            name: name.clone(),
            term: Term(row.term),
            advertise: row.advertise,
        };
        (drone, row.updated)
    }))
}
