//! The table `certificates`: those that are ordered, and those that were issued. Keys are sealed before they come here.

use std::time::Duration;

use jetway_protocol::certificates::HostName;
use jetway_protocol::time::UnixMicros;

use super::{Connection, DbError, storable};

/// A day, so that a busy host is no write a request.
const ASKED_EVERY: Duration = Duration::from_secs(24 * 3600);

/// What is shown, or will be.
pub struct Found {
    pub id: String,
    pub version: i64,
    pub chain: Option<String>,
    pub sealed_key: Option<Vec<u8>>,
    pub failures: i32,
    pub problem: Option<String>,
    /// Its time is over, or it was never issued.
    pub is_wanting: bool,
    /// It will not be ordered by itself.
    pub is_given_up: bool,
    pub on_demand: bool,
    /// From its beginning to its end.
    pub seconds: f64,
}

/// The one to show to a host's clients: issued ones first, the one that lasts longest.
pub async fn covering(connection: &mut Connection, host: &HostName) -> Result<Option<Found>, DbError> {
    let mut names = vec![host.as_str().to_owned()];
    names.extend(host.wildcard());
    let found = sqlx::query_as!(
        Found,
        "with found as (
             select id, version, chain, sealed_key, failures, problem, on_demand, asked_at,
                    coalesce(not_after < now(), true) as is_wanting, next_at = 'infinity' as is_given_up,
                    coalesce(extract(epoch from not_after - not_before), 0)::double precision as seconds
             from certificates
             where names && $1
             order by chain is null, not_after desc nulls last limit 1
         ), asked as (
             update certificates c set asked_at = now() from found f
             where c.id = f.id and f.on_demand and f.asked_at < now() - make_interval(secs => $2)
         )
         select id as \"id!\", version as \"version!\", chain, sealed_key, failures as \"failures!\", problem,
                is_wanting as \"is_wanting!\", is_given_up as \"is_given_up!\", on_demand as \"on_demand!\", seconds as \"seconds!\" from found",
        &names,
        ASKED_EVERY.as_secs_f64()
    )
    .fetch_optional(connection)
    .await?;
    Ok(found)
}

/// One that an operator has named; it is ordered at once if it is new.
pub async fn declare(connection: &mut Connection, id: &str, names: &[String]) -> Result<(), DbError> {
    sqlx::query!(
        "insert into certificates (id, names, on_demand) values ($1, $2, false)
         on conflict (id) do update set on_demand = false where certificates.on_demand",
        id,
        names
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One that somebody came for, for the first time or after it was given up, or an operator names it no more. False: it is on order already, or `waiting_max`
/// others are waited for.
pub async fn wish(connection: &mut Connection, host: &HostName, waiting_max: i64) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "insert into certificates (id, names, on_demand)
         select $1, array[$1], true
         where (select count(*) from certificates where on_demand and chain is null and next_at < 'infinity') < $2
         on conflict (id) do update set next_at = now(), failures = 0, on_demand = true
         where certificates.next_at = 'infinity' or not certificates.on_demand",
        host.as_str(),
        waiting_max
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// One that is to be ordered now.
pub struct Due {
    pub id: String,
    pub names: Vec<String>,
    pub on_demand: bool,
    pub chain: Option<String>,
    pub failures: i32,
}

/// `configured`: what operators have named; with `on_demand`, also whatever somebody came for since `asked_since`.
pub async fn due(
    connection: &mut Connection,
    configured: &[String],
    on_demand: bool,
    asked_since: Duration,
) -> Result<Option<Due>, DbError> {
    let due = sqlx::query_as!(
        Due,
        "select id, names, on_demand, chain, failures from certificates
         where next_at <= now()
           and (id = any($1) or ($2 and on_demand and asked_at > now() - make_interval(secs => $3)))
         order by chain is not null, next_at limit 1",
        configured,
        on_demand,
        asked_since.as_secs_f64()
    )
    .fetch_optional(connection)
    .await?;
    Ok(due)
}

pub struct Issued<'a> {
    pub chain: &'a str,
    pub sealed_key: &'a [u8],
    pub not_before: UnixMicros,
    pub not_after: UnixMicros,
    /// When it is to be renewed.
    pub next_at: UnixMicros,
}

/// False: its time is over by Postgres' clock, and nothing was changed. Whenever it says that it is to be renewed, it is shown for a
/// quarter of what is left of its time.
pub async fn issued(connection: &mut Connection, id: &str, issued: &Issued<'_>) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "update certificates
         set version = version + 1, chain = $2, sealed_key = $3, issued_at = now(), not_before = to_timestamp($4::double precision),
             not_after = to_timestamp($5::double precision), failures = 0, problem = null,
             next_at = greatest(to_timestamp($6::double precision), now() + (to_timestamp($5::double precision) - now()) / 4),
             ari_at = now(), ari_start = null, ari_end = null
         where id = $1 and to_timestamp($5::double precision) > now()",
        id,
        issued.chain,
        issued.sealed_key,
        seconds(issued.not_before),
        seconds(issued.not_after),
        seconds(issued.next_at)
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// As `to_timestamp` takes it.
#[expect(clippy::cast_precision_loss, reason = "microseconds of this age fit into 53 bits until 2255")]
fn seconds(time: UnixMicros) -> f64 {
    time.0 as f64 / 1e6
}

/// What was issued before stays as it is. `wait`: until the next try; `None`: there is none.
pub async fn failed(
    connection: &mut Connection,
    id: &str,
    problem: &str,
    wait: Option<Duration>,
) -> Result<(), DbError> {
    sqlx::query!(
        "update certificates
         set failures = failures + 1, problem = $2,
             next_at = coalesce(now() + make_interval(secs => $3), 'infinity')
         where id = $1",
        id,
        storable(problem),
        wait.map(|wait| wait.as_secs_f64())
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// False: there is none.
pub async fn retry(connection: &mut Connection, id: &str) -> Result<bool, DbError> {
    let done = sqlx::query!("update certificates set next_at = now(), failures = 0 where id = $1", id)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// One whose issuer is to be asked when to renew it. Nobody else asks for it within `claim`.
pub async fn to_ask_about(
    connection: &mut Connection,
    configured: &[String],
    claim: Duration,
) -> Result<Option<(String, String)>, DbError> {
    let row = sqlx::query!(
        "update certificates set ari_at = now() + make_interval(secs => $2)
         where id = (
             select id from certificates
             where ari_at <= now() and chain is not null and failures = 0 and (id = any($1) or on_demand)
             order by ari_at limit 1 for update skip locked
         )
         returning id, chain as \"chain!\"",
        configured,
        claim.as_secs_f64()
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.id, row.chain)))
}

/// When the issuer would like the renewal. `next_at` counts only where the window is new, and not before the certificate was shown
/// for an hour, or a quarter of its time: an issuer that always says "now" is not asked for certificates without end.
pub async fn suggested(
    connection: &mut Connection,
    id: &str,
    (start, end): (UnixMicros, UnixMicros),
    next_at: UnixMicros,
    ask_again: Duration,
) -> Result<(), DbError> {
    sqlx::query!(
        "update certificates
         set next_at = case when ari_start is not distinct from to_timestamp($2::double precision)
                             and ari_end is not distinct from to_timestamp($3::double precision)
                            then next_at
                            else greatest(to_timestamp($4::double precision),
                                          issued_at + least((not_after - issued_at) / 4, interval '1 hour')) end,
             ari_start = to_timestamp($2::double precision), ari_end = to_timestamp($3::double precision),
             ari_at = now() + make_interval(secs => $5)
         where id = $1 and failures = 0",
        id,
        seconds(start),
        seconds(end),
        seconds(next_at),
        ask_again.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The issuer does not say.
pub async fn ask_again(connection: &mut Connection, id: &str, wait: Duration) -> Result<(), DbError> {
    sqlx::query!(
        "update certificates set ari_at = now() + make_interval(secs => $2) where id = $1",
        id,
        wait.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// For people.
pub struct Listed {
    pub id: String,
    pub names: Vec<String>,
    pub on_demand: bool,
    pub version: i64,
    pub not_after_ms: Option<i64>,
    /// `None`: never.
    pub next_ms: Option<i64>,
    pub failures: i32,
    pub problem: Option<String>,
    pub is_valid: bool,
}

/// Those that were least well first.
pub async fn list(connection: &mut Connection, limit: i64) -> Result<Vec<Listed>, DbError> {
    let rows = sqlx::query_as!(
        Listed,
        "select id, names, on_demand, version, failures, problem,
                (extract(epoch from not_after) * 1000)::bigint as not_after_ms,
                case when next_at < 'infinity' then (extract(epoch from next_at) * 1000)::bigint end as next_ms,
                coalesce(not_after > now(), false) as \"is_valid!\"
         from certificates order by failures = 0, not_after nulls first, id limit $1",
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(rows)
}

/// For those who watch.
#[derive(Debug, Default)]
pub struct Counts {
    pub valid: i64,
    pub failing: i64,
    pub without: i64,
    /// Of the one that ends first, of those that are still renewed.
    pub seconds_left: Option<f64>,
}

pub async fn counts(connection: &mut Connection) -> Result<Counts, DbError> {
    let counts = sqlx::query_as!(
        Counts,
        "select count(*) filter (where not_after > now()) as \"valid!\",
                count(*) filter (where failures > 0) as \"failing!\",
                count(*) filter (where chain is null) as \"without!\",
                (extract(epoch from min(not_after) filter (where next_at < 'infinity') - now()))::double precision
                    as seconds_left
         from certificates"
    )
    .fetch_one(connection)
    .await?;
    Ok(counts)
}

/// Forgets what somebody once came for, and nobody since its end, `age` ago.
pub async fn prune(connection: &mut Connection, age: Duration) -> Result<u64, DbError> {
    let done = sqlx::query!(
        "delete from certificates
         where greatest(not_after, asked_at, created_at) < now() - make_interval(secs => $1)
           and on_demand",
        age.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
