//! The table `backend_events`, and what an event does to its backend's row: a status only rises, and an event counts
//! only under its backend's own fencing token and drone.

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::ids::{BackendId, DroneId};
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{DbError, from_json, status, to_json};

/// Stores the events of a batch that Postgres has refused, each in a savepoint: one that cannot be stored must not keep
/// back the others, which would be sent with it for ever. It is logged and left out.
pub async fn store_one_by_one(
    transaction: &mut Transaction<'_, Postgres>,
    drone: DroneId,
    events: &[BackendEvent],
) -> Result<(), DbError> {
    for event in events {
        let mut savepoint = transaction.begin().await?;
        match store(&mut savepoint, drone, std::slice::from_ref(event)).await {
            Ok(()) => savepoint.commit().await?,
            Err(error) if is_about_the_data(&error) => {
                savepoint.rollback().await?;
                let (backend, status) = (&event.backend, event.entry.status);
                tracing::error!(%drone, %backend, %status, %error, "an event cannot be stored and is left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// SQLSTATE class 22, "data exception", or 23, "integrity constraint violation": repeating it will not help.
pub fn is_about_the_data(error: &DbError) -> bool {
    let DbError::Query(sqlx::Error::Database(error)) = error else { return false };
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

/// Stores a batch. Repeating it, or parts of it in any order, changes nothing.
pub async fn store(
    transaction: &mut Transaction<'_, Postgres>,
    drone: DroneId,
    events: &[BackendEvent],
) -> Result<(), DbError> {
    // In the order of ids, so that two batches cannot wait for each other.
    let mut events: Vec<&BackendEvent> = events.iter().collect();
    events.sort_by(|a, b| (&a.backend, a.entry.status).cmp(&(&b.backend, b.entry.status)));
    insert(transaction, drone, &events).await?;

    // Of each backend the highest status says it all; `dedup_by` keeps the first, so it is laid in reverse.
    events.reverse();
    events.dedup_by(|a, b| a.backend == b.backend && a.fencing_token == b.fencing_token);
    events.reverse();
    apply(transaction, drone, &events).await
}

async fn insert(
    connection: &mut PgConnection,
    drone: DroneId,
    events: &[&BackendEvent],
) -> Result<(), DbError> {
    let (ids, tokens, ranks) = columns(events);
    let at: Vec<i64> = events.iter().map(|event| event.entry.at.0).collect();
    let ends: Vec<Option<serde_json::Value>> = events.iter().map(|event| end(event)).collect();
    sqlx::query!(
        "insert into backend_events (backend, status, at, end_json)
         select b.id, e.status, e.at, e.end_json
         from unnest($1::text[], $2::bigint[], $3::smallint[], $4::bigint[], $5::jsonb[])
              as e (id, fencing_token, status, at, end_json)
         join backends b on b.id = e.id
         where b.fencing_token = e.fencing_token and b.drone_id = $6 and b.ended_at is null
         on conflict do nothing",
        &ids,
        &tokens,
        &ranks,
        &at,
        &ends as &[Option<serde_json::Value>],
        drone.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn apply(
    connection: &mut PgConnection,
    drone: DroneId,
    events: &[&BackendEvent],
) -> Result<(), DbError> {
    let (ids, tokens, ranks) = columns(events);
    let ends: Vec<Option<serde_json::Value>> = events.iter().map(|event| end(event)).collect();
    let timelines: Vec<serde_json::Value> = events.iter().map(|event| to_json(&event.timeline)).collect();
    sqlx::query!(
        "update backends b
         set status = e.status,
             end_json = coalesce(e.end_json, b.end_json),
             timeline = case when jsonb_array_length(e.timeline) >= jsonb_array_length(b.timeline)
                             then e.timeline else b.timeline end,
             ended_at = case when e.status = $7 then now() end,
             acknowledged_at = coalesce(b.acknowledged_at, now()),
             first_grant = null,
             spec = case when b.acknowledged_at is null then without_secrets(b.spec) else b.spec end
         from unnest($1::text[], $2::bigint[], $3::smallint[], $4::jsonb[], $5::jsonb[])
              as e (id, fencing_token, status, end_json, timeline)
         where b.id = e.id and b.fencing_token = e.fencing_token and b.drone_id = $6
           and b.ended_at is null and b.status <= e.status",
        &ids,
        &tokens,
        &ranks,
        &ends as &[Option<serde_json::Value>],
        &timelines,
        drone.0,
        Status::Terminated.rank()
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn columns(events: &[&BackendEvent]) -> (Vec<String>, Vec<i64>, Vec<i16>) {
    (
        events.iter().map(|event| event.backend.as_str().to_owned()).collect(),
        events.iter().map(|event| event.fencing_token.0).collect(),
        events.iter().map(|event| event.entry.status.rank()).collect(),
    )
}

fn end(event: &BackendEvent) -> Option<serde_json::Value> {
    event.entry.end.as_ref().map(to_json)
}

/// A backend's history as far as Postgres knows it, oldest first.
pub async fn of_backend(connection: &mut PgConnection, id: &BackendId) -> Result<Vec<StatusEntry>, DbError> {
    let rows = sqlx::query!(
        "select status, at, end_json from backend_events where backend = $1 order by status",
        id.as_str()
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(StatusEntry {
                status: status(row.status, "backend_events", id)?,
                at: UnixMicros(row.at),
                end: row.end_json.map(|end| from_json(end, "backend_events", "end_json", id)).transpose()?,
            })
        })
        .collect()
}
