//! `/ctrl/pools`: declared pools of warm slots. Putting, changing or deleting one never ends a session: it changes what is kept
//! ready. What drones say of the slots is theirs, by their last heartbeats.

use axum::Json;
use axum::extract::State;
use jetway_api::ErrorBody;
use jetway_api::backends::ShownSpec;
use jetway_api::pools::{self, Deleted, LearnedKind, PoolRequest, Pools};
use jetway_api::refusal::number;
use jetway_protocol::spec::Executable;
use jetway_protocol::warm::{Kind, SlotTier};
use serde_json::Value;

use super::extract::{ApiJson, ApiPath};
use crate::app::App;
use crate::connect::validate::{check_pool_name, check_template};
use crate::connect::{no_pool, unreadable};
use crate::db::{warm_demand, warm_pools};
use crate::error::{ApiError, ApiResult};
use crate::warm::demand::DemandRow;
use crate::warm::pool::{self, Pool, Sizes, Template};
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

/// Declare a pool of warm slots, or replace it. No session ends by it.
#[utoipa::path(
    put, path = "/pools/{name}", tag = "pools",
    operation_id = "put_pool",
    params(("name" = String, Path, description = "The pool's name")),
    request_body = PoolRequest,
    responses((status = 200, description = "The pool as it is kept", body = pools::Pool)),
)]
pub async fn put(
    State(app): State<App>,
    ApiPath(name): ApiPath<String>,
    ApiJson(request): ApiJson<PoolRequest>,
) -> ApiResult<Json<pools::Pool>> {
    let name = check_pool_name(&name)?;
    let sizes = check_sizes(&request)?;
    let template = check_template(request.spawn_config, &app.identity.cluster)?;
    check_ahead(sizes.tier, &template.spec.executable)?;
    let (sealed, shown) = (template.seal(&app.at_rest, &name), template.shown());
    let mut connection = app.pools.requests.acquire().await?;
    if warm_pools::count(&mut connection).await? >= POOLS_MAX
        && pool::read(&mut connection, &app.at_rest, &[name.to_string()]).await?.is_empty()
    {
        return Err(ApiError::invalid(format!("there are {POOLS_MAX} warm pools, and no more are kept")));
    }
    warm_pools::put(&mut connection, &name, sizes, &sealed, &shown).await?;
    drop(connection);
    Ok(Json(shown_pool(&app, &Pool { name, sizes, shown, template: Ok(template) })))
}

/// One pool, drone by drone.
#[utoipa::path(
    get, path = "/pools/{name}", tag = "pools",
    operation_id = "get_pool",
    params(("name" = String, Path, description = "The pool's name")),
    responses(
        (status = 200, description = "The pool", body = pools::Pool),
        (status = 404, description = "`pool_not_found`: no warm pool has this name", body = ErrorBody),
        (status = 422, description = "`invalid_request`: no pool can have this name", body = ErrorBody),
    ),
)]
pub async fn get(State(app): State<App>, ApiPath(name): ApiPath<String>) -> ApiResult<Json<pools::Pool>> {
    let name = check_pool_name(&name)?;
    let mut connection = app.pools.requests.acquire().await?;
    let mut pools = pool::read(&mut connection, &app.at_rest, &[name.to_string()]).await?;
    drop(connection);
    let (_, pool) = pools.pop().ok_or_else(|| no_pool(&name))?;
    Ok(Json(shown_pool(&app, &pool)))
}

/// Take a pool back: free slots are discarded, sessions go on.
#[utoipa::path(
    delete, path = "/pools/{name}", tag = "pools",
    operation_id = "delete_pool",
    params(("name" = String, Path, description = "The pool's name")),
    responses(
        (status = 200, description = "It is deleted", body = Deleted),
        (status = 404, description = "`pool_not_found`: no warm pool has this name", body = ErrorBody),
        (status = 422, description = "`invalid_request`: no pool can have this name", body = ErrorBody),
    ),
)]
pub async fn delete(State(app): State<App>, ApiPath(name): ApiPath<String>) -> ApiResult<Json<Deleted>> {
    let name = check_pool_name(&name)?;
    let mut connection = app.pools.requests.acquire().await?;
    if warm_pools::delete(&mut connection, &name).await? {
        Ok(Json(Deleted { deleted: true }))
    } else {
        Err(no_pool(&name))
    }
}

/// Every pool, and the kinds that were learned.
#[utoipa::path(
    get, path = "/pools", tag = "pools",
    operation_id = "list_pools",
    responses((status = 200, description = "By name", body = Pools)),
)]
pub async fn list(State(app): State<App>) -> ApiResult<Json<Pools>> {
    let mut connection = app.pools.requests.acquire().await?;
    let versions = warm_pools::versions(&mut connection).await?;
    let names: Vec<String> = versions.into_iter().map(|(name, _)| name.to_string()).collect();
    let pools = pool::read(&mut connection, &app.at_rest, &names).await?;
    let demand = warm_demand::all(&mut connection).await?;
    drop(connection);
    let mut pools: Vec<Pool> = pools.into_iter().map(|(_, pool)| pool).collect();
    pools.sort_by(|a, b| a.name.cmp(&b.name));
    let kinds: Vec<Kind> = pools.iter().filter_map(Pool::kind).collect();
    let mut learned: Vec<&DemandRow> =
        demand.iter().filter(|row| row.executable.is_some() && !kinds.contains(&row.place.kind)).collect();
    learned.sort_by(|a, b| a.place.cmp(&b.place));
    Ok(Json(Pools {
        pools: pools.iter().map(|pool| shown_pool(&app, pool)).collect(),
        learned: learned.into_iter().map(|row| shown_learned(&app, row)).collect(),
    }))
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

fn shown_pool(app: &App, pool: &Pool) -> pools::Pool {
    let Pool { name, sizes, shown, template } = pool;
    let kind = pool.kind();
    let (all, drones) = match (template, &kind) {
        (Ok(Template { cluster, pool, .. }), Some(kind)) => {
            stats::of_kind(&app.fleet.table(), cluster, pool, kind)
        }
        _ => (Stats::default(), Vec::new()),
    };
    pools::Pool {
        name: name.clone(),
        min: sizes.min,
        max: sizes.max,
        target_hit_rate: sizes.target_hit_rate,
        tier: sizes.tier,
        cluster: serde_json::from_value(shown["cluster"].clone()).ok(),
        pool: serde_json::from_value(shown["pool"].clone()).ok(),
        spawn_config: shown_spec(shown),
        error: template.is_err().then(|| unreadable(name).message().to_owned()),
        hash: kind.map(|kind| kind.hash),
        slots: all.shown(),
        drones,
    }
}

/// With what the pool says of isolation, which may be nothing: a connect's key decides then.
fn shown_spec(shown: &Value) -> Option<ShownSpec> {
    let mut spec = shown["spec"].clone();
    spec.as_object_mut()?.insert("on_isolation".to_owned(), shown["on_isolation"].clone());
    ShownSpec::of_json(spec)
}

fn shown_learned(app: &App, row: &DemandRow) -> LearnedKind {
    let place = &row.place;
    let (all, drones) = stats::of_kind(&app.fleet.table(), &place.cluster, &place.pool, &place.kind);
    LearnedKind {
        cluster: place.cluster.clone(),
        pool: place.pool.clone(),
        tier: place.kind.tier,
        hash: place.kind.hash.clone(),
        image: row.executable.as_ref().map(|executable| executable.image.clone()),
        rate_per_second: row.demand.rate(),
        peakedness: row.demand.peakedness(),
        last_arrival: row.demand.last_arrival(),
        wanted: row.demand.slots,
        slots: all.shown(),
        drones,
    }
}

#[cfg(test)]
#[path = "pools_tests.rs"]
mod tests;
