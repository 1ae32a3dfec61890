//! The table `drones`: who they are, where they are reached, what they have, and their lease's renewal number.

use std::time::Duration;

use jetway_protocol::controller_api::{Capacity, Heartbeat, Load, Register};
use jetway_protocol::ids::{ClusterName, DroneId, DroneName, PoolName, Term};
use jetway_protocol::time::UnixMicros;
use sqlx::PgConnection;

use super::{DbError, from_json, parse, readable, storable, to_json};

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
    /// Since its last heartbeat, by Postgres' clock, when the row was read.
    pub heartbeat_age: Duration,
    /// Since its last registration, alike.
    pub registered_age: Duration,
}

/// Who a drone is reached as, now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroneRef {
    pub id: DroneId,
    pub name: DroneName,
    pub term: Term,
    pub advertise: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registration {
    Registered {
        term: Term,
        cluster: ClusterName,
        draining: bool,
    },
    NameTaken,
    /// The row's last heartbeat came after this host's boot, from another boot: two hosts say they are this drone.
    OtherHost,
}

/// How much two clocks that both count from a boot may differ before a second host is suspected.
const BOOT_SLACK: Duration = Duration::from_secs(10);

/// Raises the drone's term in one statement.
pub async fn register(
    connection: &mut PgConnection,
    drone: &Register,
    cluster: &ClusterName,
) -> Result<Registration, DbError> {
    let uptime = Duration::from_millis(drone.uptime_ms).saturating_sub(BOOT_SLACK);
    let row = sqlx::query!(
        "insert into drones (id, name, cluster, pool, advertise, version, boot_id, capacity, load)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (id) do update
         set name = excluded.name, cluster = excluded.cluster, pool = excluded.pool, advertise = excluded.advertise,
             version = excluded.version, boot_id = excluded.boot_id, capacity = excluded.capacity,
             load = excluded.load, term = nextval('drone_terms'), registered_at = now(), last_heartbeat = now()
         where drones.boot_id = excluded.boot_id
            or drones.last_heartbeat <= now() - make_interval(secs => $10)
         returning term, draining",
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
        uptime.as_secs_f64(),
    )
    .fetch_optional(connection)
    .await;
    match row {
        Ok(Some(row)) => Ok(Registration::Registered {
            term: Term(row.term),
            cluster: cluster.clone(),
            draining: row.draining,
        }),
        Ok(None) => Ok(Registration::OtherHost),
        Err(sqlx::Error::Database(error)) if error.constraint() == Some("drones_name_unique") => {
            Ok(Registration::NameTaken)
        }
        Err(error) => Err(error.into()),
    }
}

/// `None`: that term is over, or there is no such drone. Else whether it is draining.
pub async fn heartbeat(
    connection: &mut PgConnection,
    id: DroneId,
    heartbeat: &Heartbeat,
) -> Result<Option<bool>, DbError> {
    let draining = sqlx::query_scalar!(
        "update drones set renewal = $3, load = $4, last_heartbeat = now()
         where id = $1 and term = $2 returning draining",
        id.0,
        heartbeat.term.0,
        heartbeat.renewal,
        to_json(&heartbeat.load)
    )
    .fetch_optional(connection)
    .await?;
    Ok(draining)
}

/// Every drone: what placement's table is made of.
pub async fn all(connection: &mut PgConnection) -> Result<Vec<Drone>, DbError> {
    let rows = sqlx::query!(
        "select id, name, cluster, pool, version, term, advertise, capacity, load, draining,
                extract(epoch from now() - last_heartbeat)::double precision as \"age!\",
                extract(epoch from now() - registered_at)::double precision as \"registered_age!\"
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
            heartbeat_age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            registered_age: Duration::try_from_secs_f64(row.registered_age).unwrap_or_default(),
        })
    }))
}

/// The term of a drone, or `None` where there is no such drone.
pub async fn term(connection: &mut PgConnection, id: DroneId) -> Result<Option<Term>, DbError> {
    let term =
        sqlx::query_scalar!("select term from drones where id = $1", id.0).fetch_optional(connection).await?;
    Ok(term.map(Term))
}

/// Where a drone is reached, and when it was last heard of.
pub async fn address(
    connection: &mut PgConnection,
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

/// What became of the wish to set `draining`: the drone, and whether anything changed.
pub async fn set_draining(
    connection: &mut PgConnection,
    cluster: &ClusterName,
    name: &DroneName,
    draining: bool,
) -> Result<Option<(DroneRef, bool)>, DbError> {
    let row = sqlx::query!(
        "with before as (select id, draining from drones where name = $1 and cluster = $2 for update)
         update drones set draining = $3 from before where drones.id = before.id
         returning drones.id, term, advertise, before.draining <> $3 as \"updated!\"",
        name.as_str(),
        cluster.as_str(),
        draining
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
