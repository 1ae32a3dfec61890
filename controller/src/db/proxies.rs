//! The table `proxies`: who has said that it is there. Only shown; nothing is decided by it.

use std::time::Duration;

use jetway_protocol::controller_api::ProxyHeartbeat;
use jetway_protocol::ids::ClusterName;

use super::{Connection, DbError, storable};

pub struct Proxy {
    pub name: String,
    pub version: String,
}

pub async fn heartbeat(
    connection: &mut Connection,
    proxy: &ProxyHeartbeat,
    cluster: &ClusterName,
) -> Result<(), DbError> {
    sqlx::query!(
        "insert into proxies (id, name, cluster, version) values ($1, $2, $3, $4)
         on conflict (id) do update
         set name = excluded.name, cluster = excluded.cluster, version = excluded.version, last_heartbeat = now()",
        proxy.proxy.0,
        proxy.name,
        cluster.as_str(),
        storable(&proxy.version)
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn of_cluster(
    connection: &mut Connection,
    cluster: &ClusterName,
    limit: i64,
) -> Result<Vec<Proxy>, DbError> {
    let rows = sqlx::query!(
        "select name, version from proxies where cluster = $1 order by name limit $2",
        cluster.as_str(),
        limit
    )
    .fetch_all(connection)
    .await?;
    let proxies = rows.into_iter().map(|row| Proxy { name: row.name, version: row.version });
    Ok(proxies.collect())
}

/// Forgets proxies that have been silent for `age`.
pub async fn prune(connection: &mut Connection, age: Duration) -> Result<u64, DbError> {
    let done = sqlx::query!(
        "delete from proxies where last_heartbeat < now() - make_interval(secs => $1)",
        age.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}
