//! The table `backend_events`, and what an event does to its backend's row: a status only rises, and an event counts
//! only under its backend's own fencing token and drone, and its drone's present term.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use jetway_protocol::controller_api::BackendEvent;
use jetway_protocol::ids::{BackendId, DroneId, FencingToken, Term};
use jetway_protocol::status::{Status, StatusEntry};
use jetway_protocol::time::UnixMicros;
use uuid::Uuid;

use super::{Connection, DbError, from_json, status, to_json};

/// What one drone says, in one call, of its backends.
#[derive(Debug, Clone)]
pub struct Report {
    pub drone: DroneId,
    pub term: Term,
    pub events: Vec<BackendEvent>,
}

/// What became of one report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All of it that ever can be.
    Stored,
    /// Its drone has another term, or is not known.
    TermOver,
    /// Somebody else works on a row of its: nothing of that backend was stored.
    Locked,
}

/// Stores reports, in their order: one statement, as long as Postgres has nothing against any of the events. Else each report
/// is stored by itself, and of one with such an event each event: one that cannot be stored must not keep back the others, which
/// would be sent with it for ever. It is logged and left out.
pub async fn store_all(
    connection: &mut Connection,
    reports: &[Arc<Report>],
) -> Result<Vec<Outcome>, DbError> {
    match store(connection, reports).await {
        Err(error) if is_about_the_data(&error) => {}
        outcome => return outcome,
    }
    let mut outcomes = Vec::new();
    for report in reports {
        outcomes.push(match store_one(connection, report).await {
            Err(error) if is_about_the_data(&error) => {
                tracing::warn!(drone = %report.drone, %error, "a batch of events is stored one by one");
                one_by_one(connection, report).await?
            }
            outcome => outcome?,
        });
    }
    Ok(outcomes)
}

async fn one_by_one(connection: &mut Connection, report: &Report) -> Result<Outcome, DbError> {
    let mut all = Outcome::Stored;
    for event in &report.events {
        let one = Report { events: vec![event.clone()], ..*report };
        match store_one(connection, &Arc::new(one)).await {
            Ok(Outcome::Stored) => {}
            Ok(outcome) => all = outcome,
            Err(error) if is_about_the_data(&error) => {
                let (drone, backend, status) = (report.drone, &event.backend, event.entry.status);
                tracing::error!(%drone, %backend, %status, %error, "an event cannot be stored and is left out");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// SQLSTATE class 22, "data exception", or 23, "integrity constraint violation": repeating it will not help.
fn is_about_the_data(error: &DbError) -> bool {
    let DbError::Query(sqlx::Error::Database(error)) = error else { return false };
    error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
}

async fn store_one(connection: &mut Connection, report: &Arc<Report>) -> Result<Outcome, DbError> {
    let outcomes = store(connection, std::slice::from_ref(report)).await?;
    Ok(outcomes.first().copied().unwrap_or(Outcome::Stored))
}

/// Repeating it, or parts of it in any order, changes nothing.
async fn store(connection: &mut Connection, reports: &[Arc<Report>]) -> Result<Vec<Outcome>, DbError> {
    let batch = Batch::of(reports);
    let stored = if batch.latest.is_empty() { HashSet::new() } else { batch.write(connection).await? };
    // Where each backend of a report was stored, there is nothing to ask.
    let is_left = |report: &Report| {
        report.events.is_empty() || !report.events.iter().all(|event| stored.contains(&of(report, event)))
    };
    let left: Vec<&Report> = reports.iter().map(AsRef::as_ref).filter(|report| is_left(report)).collect();
    let why = if left.is_empty() { Vec::new() } else { why_left(connection, &left, &stored).await? };
    let mut why = why.into_iter();
    let outcome = |report: &Arc<Report>| if is_left(report) { why.next() } else { None };
    Ok(reports.iter().map(outcome).map(|why| why.unwrap_or(Outcome::Stored)).collect())
}

/// Of each backend the highest status says it all; all statuses are its history.
struct Batch<'a> {
    latest: BTreeMap<Of<'a>, &'a BackendEvent>,
    events: Vec<(Of<'a>, &'a BackendEvent)>,
}

/// Whose word on which backend.
type Of<'a> = (&'a BackendId, FencingToken, DroneId, Term);

fn of<'a>(report: &Report, event: &'a BackendEvent) -> Of<'a> {
    (&event.backend, event.fencing_token, report.drone, report.term)
}

impl<'a> Batch<'a> {
    fn of(reports: &'a [Arc<Report>]) -> Self {
        let of_report = |report: &'a Arc<Report>| report.events.iter().map(move |e| (of(report, e), e));
        let events: Vec<(Of<'a>, &'a BackendEvent)> = reports.iter().flat_map(of_report).collect();
        let mut latest: BTreeMap<Of<'a>, &'a BackendEvent> = BTreeMap::new();
        for &(of, event) in &events {
            let known = latest.entry(of).or_insert(event);
            if known.entry.status < event.entry.status {
                *known = event;
            }
        }
        Self { latest, events }
    }

    /// What was found, and what nobody else had locked: nobody waits for anybody here, so nobody can do so in a circle. An event
    /// whose status is no higher is history only. Written so that no plan can begin with the rows of the table.
    async fn write(&self, connection: &mut Connection) -> Result<HashSet<Of<'a>>, DbError> {
        let keys: Vec<&Of<'a>> = self.latest.keys().collect();
        let ids: Vec<String> = keys.iter().map(|of| of.0.as_str().to_owned()).collect();
        let tokens: Vec<i64> = keys.iter().map(|of| of.1.0).collect();
        let drones: Vec<Uuid> = keys.iter().map(|of| of.2.0).collect();
        let terms: Vec<i64> = keys.iter().map(|of| of.3.0).collect();
        let ranks: Vec<i16> = self.latest.values().map(|event| event.entry.status.rank()).collect();
        let ends: Vec<Option<serde_json::Value>> = self.latest.values().map(|event| end(event)).collect();
        let timelines: Vec<serde_json::Value> =
            self.latest.values().map(|event| to_json(&event.timeline)).collect();

        let numbers: HashMap<&Of<'a>, i64> = keys.iter().copied().zip(1..).collect();
        let owners: Vec<i64> = self.events.iter().map(|(of, _)| numbers[of]).collect();
        let events = || self.events.iter().map(|(_, event)| event);
        let event_ranks: Vec<i16> = events().map(|event| event.entry.status.rank()).collect();
        let event_times: Vec<i64> = events().map(|event| event.entry.at.0).collect();
        let event_ends: Vec<Option<serde_json::Value>> = events().map(|event| end(event)).collect();
        let stored = sqlx::query_scalar!(
            "with latest as materialized (
                 select * from unnest($1::text[], $2::bigint[], $3::uuid[], $4::bigint[], $5::smallint[], $6::jsonb[],
                                      $7::jsonb[])
                     with ordinality as latest (id, fencing_token, drone, term, status, end_json, timeline, number)
             ), mine as materialized (
                 select b.id, latest.status, latest.end_json, latest.timeline, latest.number
                 from latest join drones d on d.id = latest.drone and d.term = latest.term
                      cross join lateral (
                          select id from backends
                          where id = latest.id and fencing_token = latest.fencing_token and drone_id = latest.drone
                            and ended_at is null
                          for no key update skip locked
                      ) b
             ), history as (
                 insert into backend_events (backend, status, at, end_json)
                 select mine.id, e.status, e.at, e.end_json
                 from unnest($8::bigint[], $9::smallint[], $10::bigint[], $11::jsonb[])
                      as e (number, status, at, end_json) join mine on mine.number = e.number
                 on conflict do nothing
             ), moved as (
                 update backends b
                 set status = mine.status,
                     end_json = coalesce(mine.end_json, b.end_json),
                     timeline = case when jsonb_array_length(mine.timeline) >= jsonb_array_length(b.timeline)
                                     then mine.timeline else b.timeline end,
                     ended_at = case when mine.status = $12 then now() end,
                     acknowledged_at = coalesce(b.acknowledged_at, now()),
                     first_grant = null,
                     spec = case when b.acknowledged_at is null then without_secrets(b.spec) else b.spec end
                 from mine where b.id = mine.id and b.ended_at is null and b.status <= mine.status
             )
             select number as \"number!\" from mine",
            &ids,
            &tokens,
            &drones,
            &terms,
            &ranks,
            &ends as &[Option<serde_json::Value>],
            &timelines,
            &owners,
            &event_ranks,
            &event_times,
            &event_ends as &[Option<serde_json::Value>],
            Status::Terminated.rank()
        )
        .fetch_all(connection)
        .await?;
        let key = |number: i64| keys.get(usize::try_from(number - 1).ok()?).copied().copied();
        Ok(stored.into_iter().filter_map(key).collect())
    }
}

/// Of reports that were not stored, or not wholly: whether their drone may say so, and whether a row was somebody else's. What
/// is neither has ended, or was never this drone's.
async fn why_left(
    connection: &mut Connection,
    reports: &[&Report],
    stored: &HashSet<Of<'_>>,
) -> Result<Vec<Outcome>, DbError> {
    let drones: Vec<Uuid> = reports.iter().map(|report| report.drone.0).collect();
    let terms: Vec<i64> = reports.iter().map(|report| report.term.0).collect();
    let (mut numbers, mut ids, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for (number, report) in (1_i64..).zip(reports) {
        for event in report.events.iter().filter(|event| !stored.contains(&of(report, event))) {
            numbers.push(number);
            ids.push(event.backend.as_str().to_owned());
            tokens.push(event.fencing_token.0);
        }
    }
    let rows = sqlx::query!(
        "select d.term is not distinct from told.term as \"is_present!\",
                exists (select 1 from unnest($3::bigint[], $4::text[], $5::bigint[]) as e (number, id, fencing_token)
                        cross join lateral (
                            select 1 from backends
                            where id = e.id and fencing_token = e.fencing_token and drone_id = told.drone
                              and ended_at is null offset 0
                        ) live
                        where e.number = told.number) as \"is_live!\"
         from unnest($1::uuid[], $2::bigint[]) with ordinality as told (drone, term, number)
              left join drones d on d.id = told.drone
         order by told.number",
        &drones,
        &terms,
        &numbers,
        &ids,
        &tokens
    )
    .fetch_all(connection)
    .await?;
    let outcome = |is_present, is_live| match (is_present, is_live) {
        (false, _) => Outcome::TermOver,
        (true, true) => Outcome::Locked,
        (true, false) => Outcome::Stored,
    };
    Ok(rows.into_iter().map(|row| outcome(row.is_present, row.is_live)).collect())
}

fn end(event: &BackendEvent) -> Option<serde_json::Value> {
    event.entry.end.as_ref().map(to_json)
}

/// A backend's history as far as Postgres knows it, oldest first.
pub async fn of_backend(connection: &mut Connection, id: &BackendId) -> Result<Vec<StatusEntry>, DbError> {
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
