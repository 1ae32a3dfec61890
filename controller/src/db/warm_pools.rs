//! The table `warm_pools`: what operators have declared. Its specs are sealed before they come here.

use jetway_protocol::ids::WarmPoolName;
use jetway_protocol::warm::SlotTier;
use serde_json::Value;

use super::{Connection, DbError, parse, readable};

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    pub tier: SlotTier,
    pub min: u32,
    pub max: u32,
    pub target_hit_rate: f64,
}

pub struct PoolRow {
    /// Changes with the row.
    pub version: i64,
    pub name: WarmPoolName,
    pub sizes: Sizes,
    pub sealed: Vec<u8>,
    /// Without secrets.
    pub shown: Value,
}

/// True: there was none of this name.
pub async fn put(
    connection: &mut Connection,
    name: &WarmPoolName,
    sizes: Sizes,
    sealed: &[u8],
    shown: &Value,
) -> Result<bool, DbError> {
    let is_new = sqlx::query_scalar!(
        "insert into warm_pools (name, sealed, shown, tier, slots_min, slots_max, target_hit_rate)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (name) do update
         set sealed = excluded.sealed, shown = excluded.shown, tier = excluded.tier, slots_min = excluded.slots_min,
             slots_max = excluded.slots_max, target_hit_rate = excluded.target_hit_rate,
             updated_at = greatest(clock_timestamp(), warm_pools.updated_at + interval '1 microsecond')
         returning xmax = 0 as \"is_new!\"",
        name.as_str(),
        sealed,
        shown,
        tier_text(sizes.tier),
        i32::try_from(sizes.min).unwrap_or(i32::MAX),
        i32::try_from(sizes.max).unwrap_or(i32::MAX),
        sizes.target_hit_rate
    )
    .fetch_one(connection)
    .await?;
    Ok(is_new)
}

/// False: there is none of this name.
pub async fn delete(connection: &mut Connection, name: &WarmPoolName) -> Result<bool, DbError> {
    let done =
        sqlx::query!("delete from warm_pools where name = $1", name.as_str()).execute(connection).await?;
    Ok(done.rows_affected() > 0)
}

pub async fn count(connection: &mut Connection) -> Result<i64, DbError> {
    Ok(sqlx::query_scalar!("select count(*) as \"count!\" from warm_pools").fetch_one(connection).await?)
}

/// The one read of a connect that names a pool.
pub async fn sealed(connection: &mut Connection, name: &WarmPoolName) -> Result<Option<Vec<u8>>, DbError> {
    let sealed = sqlx::query_scalar!("select sealed from warm_pools where name = $1", name.as_str());
    Ok(sealed.fetch_optional(connection).await?)
}

/// Every pool's name, and a number that changes with its row.
pub async fn versions(connection: &mut Connection) -> Result<Vec<(WarmPoolName, i64)>, DbError> {
    let rows = sqlx::query!(
        "select name, (extract(epoch from updated_at) * 1000000)::bigint as \"version!\" from warm_pools"
    )
    .fetch_all(connection)
    .await?;
    Ok(readable(rows, |row| Ok((parse(&row.name, "warm_pools", "name", &row.name)?, row.version))))
}

/// Those of the pools that are there.
pub async fn read(connection: &mut Connection, names: &[String]) -> Result<Vec<PoolRow>, DbError> {
    let rows = sqlx::query!(
        "select name, sealed, shown, tier, slots_min, slots_max, target_hit_rate,
                (extract(epoch from updated_at) * 1000000)::bigint as \"version!\"
         from warm_pools where name = any($1)",
        names
    )
    .fetch_all(connection)
    .await?;
    Ok(readable(rows, |row| {
        let name: WarmPoolName = parse(&row.name, "warm_pools", "name", &row.name)?;
        let sizes = Sizes {
            tier: tier(&row.tier, "warm_pools", &row.name)?,
            min: u32::try_from(row.slots_min).unwrap_or_default(),
            max: u32::try_from(row.slots_max).unwrap_or_default(),
            target_hit_rate: row.target_hit_rate,
        };
        Ok(PoolRow { version: row.version, name, sizes, sealed: row.sealed, shown: row.shown })
    }))
}

pub fn tier_text(tier: SlotTier) -> &'static str {
    match tier {
        SlotTier::Hot => "hot",
        SlotTier::Parked => "parked",
    }
}

pub fn tier(text: &str, table: &'static str, id: &str) -> Result<SlotTier, DbError> {
    match text {
        "hot" => Ok(SlotTier::Hot),
        "parked" => Ok(SlotTier::Parked),
        _ => Err(DbError::Row { table, column: "tier", id: id.to_owned() }),
    }
}
