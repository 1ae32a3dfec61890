//! The table `backends`, as it is shown: one row with everything, and pages of a list, newest first.

use jetway_protocol::ids::{BackendId, ClusterName, DroneId, DroneName, FencingToken, Term};
use jetway_protocol::key::Key;
use jetway_protocol::spec::BackendSpec;
use jetway_protocol::status::{End, Status};
use jetway_protocol::time::UnixMicros;
use jetway_protocol::timeline::Stage;

use super::dispatch::key;
use super::drones::DroneRef;
use super::{Connection, DbError, from_json, parse, status};

/// What the list and the details have in common.
#[derive(Debug, Clone)]
pub struct Summary {
    pub id: BackendId,
    pub fencing_token: FencingToken,
    pub key: Option<Key>,
    pub cluster: ClusterName,
    pub subdomain: Option<String>,
    pub drone: DroneName,
    pub status: Status,
    pub created_at: UnixMicros,
    pub ended_at: Option<UnixMicros>,
    pub end: Option<End>,
}

pub struct Details {
    pub summary: Summary,
    pub spec: Option<BackendSpec>,
    pub timeline: Vec<Stage>,
    pub drone: DroneRef,
}

/// A row of any of the queries below: sqlx names an own type for each.
macro_rules! summary {
    ($row:expr) => {{
        let row = $row;
        Ok::<Summary, DbError>(Summary {
            id: parse(&row.id, "backends", "id", &row.id)?,
            fencing_token: FencingToken(row.fencing_token),
            key: key(row.key_namespace.clone(), row.key_name.clone(), row.key_tag.clone()),
            cluster: parse(&row.cluster, "backends", "cluster", &row.id)?,
            subdomain: row.subdomain.clone(),
            drone: parse(&row.drone, "drones", "name", &row.drone)?,
            status: status(row.status, "backends", &row.id)?,
            created_at: UnixMicros(row.created),
            ended_at: row.ended.map(UnixMicros),
            end: row
                .end_json
                .clone()
                .map(|end| from_json(end, "backends", "end_json", &row.id))
                .transpose()?,
        })
    }};
}

/// Backends as they are shown, with further columns: the one text of which the queries below are
/// made. A macro, because sqlx checks literals.
macro_rules! select {
    ([$($columns:tt)*] where [$($condition:tt)+] $(, $argument:expr)*) => {
        sqlx::query!(
            "select b.id, b.fencing_token, b.key_namespace, b.key_name, b.key_tag, b.cluster, b.subdomain, b.status,
                    (extract(epoch from b.created_at) * 1000000)::bigint as \"created!\",
                    (extract(epoch from b.ended_at) * 1000000)::bigint as ended, b.end_json, d.name as drone"
            $($columns)*
            + " from backends b join drones d on d.id = b.drone_id where "
            + $($condition)+
            $(, $argument)*
        )
    };
}

/// One backend with everything that Postgres knows of it.
pub async fn details(connection: &mut Connection, id: &BackendId) -> Result<Option<Details>, DbError> {
    let row =
        select!([+ ", b.spec, b.timeline, b.drone_id, d.term, d.advertise"] where ["b.id = $1"], id.as_str())
            .fetch_optional(connection)
            .await?;
    row.map(|row| {
        let summary = summary!(&row)?;
        Ok(Details {
            drone: DroneRef {
                id: DroneId(row.drone_id),
                name: summary.drone.clone(),
                term: Term(row.term),
                advertise: row.advertise,
            },
            spec: row.spec.map(|spec| from_json(spec, "backends", "spec", id)).transpose()?,
            timeline: from_json(row.timeline, "backends", "timeline", id)?,
            summary,
        })
    })
    .transpose()
}

/// Which backends a list asks for. Every field narrows it.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub key: Option<String>,
    pub namespace: Option<String>,
    pub drone: Option<DroneName>,
    pub ranks: Option<Vec<i16>>,
}

/// A page by the condition that an index serves. Its parameters begin with `$5`.
macro_rules! page {
    ($connection:ident, $filter:ident, $before:ident, $limit:ident, $condition:tt $(, $argument:expr)*) => {
        select!(
            [] where [
                "b.fencing_token < $1 and ($2::text is null or b.key_namespace = $2)
                   and ($3::smallint[] is null or b.status = any($3)) and "
                + $condition
                + " order by b.fencing_token desc limit $4"
            ],
            $before.0,
            $filter.namespace.as_deref(),
            $filter.ranks.as_deref(),
            $limit
            $(, $argument)*
        )
        .fetch_all($connection)
        .await?
        .iter()
        .map(|row| summary!(row))
        .collect()
    };
}

/// Backends older than `before` (a fencing token), newest first. A named key or drone has an index
/// of its own, and so a statement, whose plan stays as the tables grow.
pub async fn page(
    connection: &mut Connection,
    filter: &Filter,
    before: FencingToken,
    limit: i64,
) -> Result<Vec<Summary>, DbError> {
    match (&filter.key, filter.drone.as_ref().map(DroneName::as_str)) {
        (Some(key), drone) => page!(
            connection,
            filter,
            before,
            limit,
            "b.key_name = $5 and ($6::text is null or d.name = $6)",
            key,
            drone
        ),
        (None, Some(drone)) => page!(connection, filter, before, limit, "d.name = $5", drone),
        (None, None) => page!(connection, filter, before, limit, "true"),
    }
}
