//! The table `backends`, seen by the task that ends what is known to be dead: rows of terms that are over.

use jetway_protocol::ids::{BackendId, DroneName, FencingToken, Term};
use jetway_protocol::lease::{Evidence, Holding};
use jetway_protocol::spec::OnIsolation;
use jetway_protocol::status::{End, Status};

use super::{Connection, DbError, parse, readable, to_json};

/// A live row of a term that is over, and what is known of its drone.
#[derive(Debug, Clone)]
pub struct Doomed {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub drone: DroneName,
    pub holding: Holding,
    pub evidence: Evidence,
}

/// At most `limit` rows, of all drones. What lives is not looked at: the indexes begin with drone and term.
pub async fn doomed(connection: &mut Connection, limit: i64) -> Result<Vec<Doomed>, DbError> {
    let rows = sqlx::query!(
        "select b.id as \"id!\", b.fencing_token as \"fencing_token!\", b.drone_term as \"row_term!\",
                b.keeps as \"keeps!\", b.acknowledged_at is not null as \"acknowledged!\",
                b.puts_sent as \"puts_sent!\", d.name, d.term, d.dead_below, d.lease_over_below,
                d.forgotten_term is not distinct from d.dead_below as \"forgotten!\"
         from drones d cross join lateral (
             (select id, fencing_token, drone_term, keeps, acknowledged_at, puts_sent from backends
              where drone_id = d.id and ended_at is null and drone_term < d.dead_below limit $1)
             union all
             (select id, fencing_token, drone_term, keeps, acknowledged_at, puts_sent from backends
              where drone_id = d.id and ended_at is null and not keeps
                and drone_term < d.lease_over_below and drone_term >= d.dead_below limit $1)
         ) b
         where d.dead_below > 0 or d.lease_over_below > 0
         limit $1",
        limit
    )
    .fetch_all(connection)
    .await?;
    Ok(readable(rows, |row| {
        let evidence = match (row.row_term < row.dead_below, row.forgotten) {
            (true, true) => Evidence::Forgotten { term: Term(row.dead_below) },
            (true, false) => Evidence::NewBoot { term: Term(row.dead_below) },
            (false, _) => Evidence::LeaseOver { term: Term(row.lease_over_below) },
        };
        Ok(Doomed {
            id: parse(&row.id, "backends", "id", &row.id)?,
            fencing_token: FencingToken(row.fencing_token),
            drone: parse(&row.name, "drones", "name", &row.name)?,
            holding: Holding {
                row_term: Term(row.row_term),
                drone_term: Term(row.term),
                on_isolation: if row.keeps { OnIsolation::Keep } else { OnIsolation::Stop },
                acknowledged: row.acknowledged,
                puts_sent: row.puts_sent.unsigned_abs(),
                put_off: 0,
            },
            evidence,
        })
    }))
}

/// Ends those rows that are as they were when they were looked at: one that was claimed for a later term lives on.
pub async fn end(connection: &mut Connection, rows: &[(&Doomed, End)]) -> Result<u64, DbError> {
    let ids: Vec<String> = rows.iter().map(|(row, _)| row.id.as_str().to_owned()).collect();
    let tokens: Vec<i64> = rows.iter().map(|(row, _)| row.fencing_token.0).collect();
    let terms: Vec<i64> = rows.iter().map(|(row, _)| row.holding.row_term.0).collect();
    let ends: Vec<serde_json::Value> = rows.iter().map(|(_, end)| to_json(end)).collect();
    let done = sqlx::query!(
        "with ended as (
             update backends b
             set status = $5, ended_at = now(), end_json = e.end_json, first_grant = null,
                 spec = without_secrets(spec)
             from unnest($1::text[], $2::bigint[], $3::bigint[], $4::jsonb[])
                  as e (id, fencing_token, drone_term, end_json)
             where b.id = e.id and b.fencing_token = e.fencing_token and b.drone_term = e.drone_term
               and b.ended_at is null
             returning b.id, b.end_json
         )
         insert into backend_events (backend, status, at, end_json)
         select id, $5, (extract(epoch from now()) * 1000000)::bigint, end_json from ended
         on conflict do nothing",
        &ids,
        &tokens,
        &terms,
        &ends,
        Status::Terminated.rank()
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
