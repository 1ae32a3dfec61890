//! The table `warm_demand`: what arrives of each kind of slot. Read and written as a whole, once a second at most, by the one
//! controller that has the lock; a row changes only when something arrived or a number changed.

use jetway_protocol::ids::{ClusterName, PoolName};
use jetway_protocol::spec::Executable;
use jetway_protocol::warm::Kind;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::warm_pools::{tier, tier_text};
use super::{Connection, DbError, from_json, parse, readable, to_json};

/// The one look's advisory lock: "warm".
const LOCK: i64 = 0x7761_726d;
/// Kinds that are kept. More are not noted: specs that are all different are not worth a slot each.
pub const KINDS_MAX: i64 = 1000;

/// Which demand a row is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub kind: Kind,
}

/// A kind that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    pub cluster: ClusterName,
    pub pool: PoolName,
    pub kind: Kind,
    /// Without its environment and login.
    pub executable: Executable,
    pub needs_image: bool,
    pub start_timeout_seconds: u32,
}

/// `D`: what arrives, as it is kept in the column `state`.
#[derive(Debug, Clone, PartialEq)]
pub struct DemandRow<D> {
    pub place: Place,
    /// `None`: a declared pool has it.
    pub executable: Option<Executable>,
    pub needs_image: bool,
    pub start_timeout_seconds: u32,
    pub demand: D,
}

/// What a look begins with.
pub struct Begun {
    /// No other controller looks until this transaction's end.
    pub is_mine: bool,
    /// Milliseconds since the epoch, Postgres' clock.
    pub now: i64,
}

/// Whether there is anything to look at.
pub async fn is_any(connection: &mut Connection) -> Result<bool, DbError> {
    let is_any = sqlx::query_scalar!(
        "select exists (select 1 from warm_pools) or exists (select 1 from warm_demand) as \"is_any!\""
    );
    Ok(is_any.fetch_one(connection).await?)
}

pub async fn begin(connection: &mut Connection) -> Result<Begun, DbError> {
    let row = sqlx::query!(
        "select pg_try_advisory_xact_lock($1) as \"is_mine!\", (extract(epoch from now()) * 1000)::bigint as \"now!\"",
        LOCK
    )
    .fetch_one(connection)
    .await?;
    Ok(Begun { is_mine: row.is_mine, now: row.now })
}

pub async fn all<D: DeserializeOwned>(connection: &mut Connection) -> Result<Vec<DemandRow<D>>, DbError> {
    let rows = sqlx::query!(
        "select cluster, pool, tier, hash, executable, needs_image, start_timeout_seconds, state from warm_demand"
    )
    .fetch_all(connection)
    .await?;
    let table = "warm_demand";
    Ok(readable(rows, |row| {
        let kind = Kind {
            tier: tier(&row.tier, table, &row.hash)?,
            hash: parse(&row.hash, table, "hash", &row.hash)?,
        };
        Ok(DemandRow {
            place: Place {
                cluster: parse(&row.cluster, table, "cluster", &row.hash)?,
                pool: parse(&row.pool, table, "pool", &row.hash)?,
                kind,
            },
            executable: row
                .executable
                .map(|json| from_json(json, table, "executable", &row.hash))
                .transpose()?,
            needs_image: row.needs_image,
            start_timeout_seconds: u32::try_from(row.start_timeout_seconds).unwrap_or_default(),
            demand: from_json(row.state, table, "state", &row.hash)?,
        })
    }))
}

/// Kinds that this controller has placed. Those that are known already are left as they are, but for an executable that a
/// declared pool had until now. `state`: what arrives of a new one, from Postgres' time.
pub async fn note<D: Serialize>(
    connection: &mut Connection,
    notes: &[Note],
    state: impl FnOnce(i64) -> D,
) -> Result<(), DbError> {
    let text =
        |part: fn(&Note) -> &str| -> Vec<String> { notes.iter().map(|n| part(n).to_owned()).collect() };
    let executables: Vec<serde_json::Value> = notes.iter().map(|note| to_json(&note.executable)).collect();
    let needs_image: Vec<bool> = notes.iter().map(|note| note.needs_image).collect();
    let timeouts: Vec<i32> =
        notes.iter().map(|note| i32::try_from(note.start_timeout_seconds).unwrap_or(i32::MAX)).collect();
    let now = sqlx::query_scalar!("select (extract(epoch from now()) * 1000)::bigint as \"now!\"")
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query!(
        "insert into warm_demand (cluster, pool, tier, hash, executable, needs_image, start_timeout_seconds, state)
         select note.cluster, note.pool, note.tier, note.hash, note.executable, note.needs_image, note.timeout, $8
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::boolean[], $7::integer[])
             as note (cluster, pool, tier, hash, executable, needs_image, timeout)
         where (select count(*) from warm_demand) < $9
         on conflict (cluster, pool, tier, hash) do update set executable = excluded.executable
         where warm_demand.executable is null",
        &text(|note| note.cluster.as_str()),
        &text(|note| note.pool.as_str()),
        &text(|note| tier_text(note.kind.tier)),
        &text(|note| note.kind.hash.as_str()),
        &executables,
        &needs_image,
        &timeouts,
        to_json(&state(now)),
        KINDS_MAX
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Rows that are new or have changed.
pub async fn write<D: Serialize>(connection: &mut Connection, rows: &[&DemandRow<D>]) -> Result<(), DbError> {
    let text = |part: fn(&DemandRow<D>) -> &str| -> Vec<String> {
        rows.iter().map(|r| part(r).to_owned()).collect()
    };
    let states: Vec<serde_json::Value> = rows.iter().map(|row| to_json(&row.demand)).collect();
    let timeouts: Vec<i32> =
        rows.iter().map(|row| i32::try_from(row.start_timeout_seconds).unwrap_or(i32::MAX)).collect();
    sqlx::query!(
        "insert into warm_demand (cluster, pool, tier, hash, start_timeout_seconds, state)
         select * from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::jsonb[])
         on conflict (cluster, pool, tier, hash) do update set state = excluded.state",
        &text(|row| row.place.cluster.as_str()),
        &text(|row| row.place.pool.as_str()),
        &text(|row| tier_text(row.place.kind.tier)),
        &text(|row| row.place.kind.hash.as_str()),
        &timeouts,
        &states,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Rows of kinds that have become cold.
pub async fn forget(connection: &mut Connection, places: &[Place]) -> Result<(), DbError> {
    let text =
        |part: fn(&Place) -> &str| -> Vec<String> { places.iter().map(|p| part(p).to_owned()).collect() };
    sqlx::query!(
        "delete from warm_demand w
         using unnest($1::text[], $2::text[], $3::text[], $4::text[]) as cold (cluster, pool, tier, hash)
         where (w.cluster, w.pool, w.tier, w.hash) = (cold.cluster, cold.pool, cold.tier, cold.hash)",
        &text(|place| place.cluster.as_str()),
        &text(|place| place.pool.as_str()),
        &text(|place| tier_text(place.kind.tier)),
        &text(|place| place.kind.hash.as_str()),
    )
    .execute(connection)
    .await?;
    Ok(())
}
