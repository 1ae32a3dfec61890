//! `/ctrl/pools`: declared pools of warm slots. Putting, changing or deleting one never ends a session: it changes what is kept
//! ready. What drones say of the slots is theirs, by their last heartbeats.

use axum::Json;
use axum::extract::State;
use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, SlotTier};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extract::{ApiJson, ApiPath};
use crate::app::App;
use crate::connect::request::SpawnConfig;
use crate::connect::validate::{check_pool_name, check_template, number};
use crate::connect::{no_pool, unreadable};
use crate::db::warm_demand::DemandRow;
use crate::db::{warm_demand, warm_pools};
use crate::error::{ApiError, ApiResult};
use crate::object;
use crate::warm::pool::{Pool, Sizes, Template};
use crate::warm::stats::{self, Stats};

/// Slots of one pool.
const SLOTS_MAX: i64 = 10_000;
/// Where nothing is said.
const MIN: i64 = 1;
const MAX: i64 = 64;
const TARGET_HIT_RATE: f64 = 0.99;
const TARGET_HIT_RATE_MIN: f64 = 0.5;
/// Pools of an installation: each is looked at every second.
const POOLS_MAX: i64 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    #[serde(deserialize_with = "object::required")]
    spawn_config: SpawnConfig,
    #[serde(default)]
    min: Option<i64>,
    #[serde(default)]
    max: Option<i64>,
    #[serde(default)]
    target_hit_rate: Option<f64>,
    #[serde(default)]
    tier: Option<SlotTier>,
}

pub async fn put(
    State(app): State<App>,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<PoolRequest>,
) -> ApiResult<Json<Value>> {
    let name = check_pool_name(&name)?;
    let sizes = check_sizes(&request)?;
    let template = check_template(request.spawn_config, &app.cluster)?;
    check_ahead(sizes.tier, &template.spec.executable)?;
    let (sealed, shown) = (template.seal(&app.at_rest, &name), template.shown());
    let mut connection = app.db.acquire().await?;
    if warm_pools::count(&mut connection).await? >= POOLS_MAX
        && warm_pools::read(&mut connection, &app.at_rest, &[name.to_string()]).await?.is_empty()
    {
        return Err(ApiError::invalid(format!("there are {POOLS_MAX} warm pools, and no more are kept")));
    }
    warm_pools::put(&mut connection, &name, sizes, &sealed, &shown).await?;
    drop(connection);
    Ok(Json(shown_pool(&app, &Pool { name, sizes, shown, template: Ok(template) })))
}

pub async fn get(State(app): State<App>, ApiPath(name): ApiPath<String>) -> ApiResult<Json<Value>> {
    let name = check_pool_name(&name)?;
    let mut connection = app.db.acquire().await?;
    let mut pools = warm_pools::read(&mut connection, &app.at_rest, &[name.to_string()]).await?;
    drop(connection);
    let (_, pool) = pools.pop().ok_or_else(|| no_pool(&name))?;
    Ok(Json(shown_pool(&app, &pool)))
}

pub async fn delete(State(app): State<App>, ApiPath(name): ApiPath<String>) -> ApiResult<Json<Value>> {
    let name = check_pool_name(&name)?;
    let mut connection = app.db.acquire().await?;
    if warm_pools::delete(&mut connection, &name).await? {
        Ok(Json(json!({ "deleted": true })))
    } else {
        Err(no_pool(&name))
    }
}

pub async fn list(State(app): State<App>) -> ApiResult<Json<Value>> {
    let mut connection = app.db.acquire().await?;
    let versions = warm_pools::versions(&mut connection).await?;
    let names: Vec<String> = versions.into_iter().map(|(name, _)| name.to_string()).collect();
    let pools = warm_pools::read(&mut connection, &app.at_rest, &names).await?;
    let demand = warm_demand::all(&mut connection).await?;
    drop(connection);
    let mut pools: Vec<Pool> = pools.into_iter().map(|(_, pool)| pool).collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    let kinds: Vec<Kind> = pools.iter().filter_map(Pool::kind).collect();
    let mut learned: Vec<&DemandRow> =
        demand.iter().filter(|row| row.executable.is_some() && !kinds.contains(&row.place.kind)).collect();
    learned.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(Json(json!({
        "pools": pools.iter().map(|pool| shown_pool(&app, pool)).collect::<Vec<_>>(),
        "learned": learned.into_iter().map(|row| shown_learned(&app, row)).collect::<Vec<_>>(),
    })))
}

fn check_sizes(request: &PoolRequest) -> ApiResult<Sizes> {
    let min = number("min", request.min, 0, SLOTS_MAX)?.unwrap_or(MIN);
    let max = number("max", request.max, 0, SLOTS_MAX)?.unwrap_or(MAX.max(min));
    if max < min {
        return Err(ApiError::invalid(format!("max is {max}, less than min, which is {min}")));
    }
    let target_hit_rate = request.target_hit_rate.unwrap_or(TARGET_HIT_RATE);
    if !(TARGET_HIT_RATE_MIN..1.0).contains(&target_hit_rate) {
        return Err(ApiError::invalid(format!(
            "target_hit_rate is {target_hit_rate}; it must be at least {TARGET_HIT_RATE_MIN} and less than 1"
        )));
    }
    let slots = |n: i64| u32::try_from(n).unwrap_or_default();
    let tier = request.tier.unwrap_or_default();
    Ok(Sizes { tier, min: slots(min), max: slots(max), target_hit_rate })
}

fn check_ahead(tier: SlotTier, executable: &Executable) -> ApiResult<()> {
    Kind::of(tier, executable).map(drop).map_err(|reason| {
        ApiError::invalid(format!("no slot of spawn_config.executable can be made ahead: {reason}"))
    })
}

fn shown_pool(app: &App, pool: &Pool) -> Value {
    let Pool { name, sizes, shown, template } = pool;
    let mut answer = json!({
        "name": name,
        "min": sizes.min,
        "max": sizes.max,
        "target_hit_rate": sizes.target_hit_rate,
        "tier": sizes.tier,
        "cluster": shown["cluster"],
        "pool": shown["pool"],
        "spawn_config": shown_spec(shown),
        "error": null,
    });
    let kind = pool.kind();
    let (all, drones) = match (template, &kind) {
        (Ok(Template { cluster, pool, .. }), Some(kind)) => {
            stats::of_kind(&app.fleet.table(), cluster, pool, kind)
        }
        _ => (Stats::default(), Vec::new()),
    };
    if template.is_err() {
        answer["error"] = json!(unreadable(name).message());
    }
    answer["hash"] = json!(kind.map(|kind| kind.hash));
    merge(&mut answer, all.shown());
    answer["drones"] = json!(drones);
    answer
}

/// Of the environment only the names, as everywhere.
fn shown_spec(shown: &Value) -> Value {
    let mut spec = shown["spec"].clone();
    let names: Vec<&String> =
        shown["spec"]["executable"]["env"].as_object().map(|env| env.keys().collect()).unwrap_or_default();
    spec["executable"]["env"] = json!(names);
    if let Some(fields) = spec["executable"].as_object_mut() {
        fields.remove("credentials");
    }
    spec["on_isolation"] = shown["on_isolation"].clone();
    spec
}

fn shown_learned(app: &App, row: &DemandRow) -> Value {
    let place = &row.place;
    let mut answer = json!({
        "cluster": place.cluster,
        "pool": place.pool,
        "tier": place.kind.tier,
        "hash": place.kind.hash,
        "image": row.executable.as_ref().map(|executable| &executable.image),
        "rate_per_second": row.demand.rate(),
        "peakedness": row.demand.peakedness(),
        "last_arrival": row.demand.last_arrival(),
        "slots": row.demand.slots,
    });
    let (all, drones) = stats::of_kind(&app.fleet.table(), &place.cluster, &place.pool, &place.kind);
    merge(&mut answer, all.shown());
    answer["drones"] = json!(drones);
    answer
}

fn merge(into: &mut Value, more: Value) {
    if let (Value::Object(into), Value::Object(more)) = (into, more) {
        into.extend(more);
    }
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
