//! The table `hosts`: which key, or backend without one, has a host, and where a browser goes that
//! may not enter. Only connects in the host form write rows. A host is its owner's as long as the
//! backend lives that had it last, and for a hold after that one's end.
//!
//! Transactions lock in one order: advisory locks of hosts, in the order of their numbers; then the
//! row of the backend; then rows of hosts, by name. A check under a host's advisory lock stays true
//! until the commit. A label that is derived from its owner is never another's, so that it needs no
//! lock.

use std::time::Duration;

use jetway_protocol::controller_api::HostOwner;
use jetway_protocol::ids::{BackendId, ClusterName, FencingToken, Subdomain};
use jetway_protocol::key::Key;
use serde_json::Value;

use super::backends::{self, Inserted, NewBackend};
use super::{Connection, DbError};
use crate::host_names;

/// The hosts that a backend needs.
#[derive(Debug, Clone, Copy)]
pub struct Claim<'a> {
    pub backend: &'a BackendId,
    pub key: Option<&'a Key>,
    /// All that it takes: none in the path form.
    pub takes: &'a [String],
    /// Those that another owner could have.
    pub checked: &'a [String],
    /// In the host form: a chosen label, which a live backend may have in the path form, as its own
    /// or behind a port's name.
    pub label: Option<(&'a ClusterName, &'a Subdomain)>,
    pub return_url: Option<&'a str>,
    pub hold: Duration,
}

/// Another owner's host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub host: String,
    /// Until it is free. `None`: its backend lives.
    pub free_in: Option<Duration>,
}

/// The outcome of an insert with a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    Inserted(Inserted),
    /// Nothing was inserted.
    Taken(Taken),
}

/// The one commit of a connect for a new key that needs hosts. Where the insert meets a conflict,
/// nothing is taken.
pub async fn insert(
    connection: &mut Connection,
    new: &NewBackend<'_>,
    claim: &Claim<'_>,
) -> Result<Claimed, DbError> {
    let mut transaction = connection.begin().await?;
    if let Some(taken) = guard(&mut transaction, claim).await? {
        transaction.rollback().await?;
        return Ok(Claimed::Taken(taken));
    }
    let inserted = backends::insert(&mut transaction, new).await?;
    match &inserted {
        Inserted::Placed { fencing_token, .. } => {
            take(&mut transaction, claim, *fencing_token).await?;
            transaction.commit().await?;
        }
        Inserted::Conflict | Inserted::DroneGone | Inserted::Unsettled => transaction.rollback().await?,
    }
    Ok(Claimed::Inserted(inserted))
}

/// For a backend that lives. `None`: it has them now.
pub async fn take_for_live(
    connection: &mut Connection,
    claim: &Claim<'_>,
    fencing_token: FencingToken,
) -> Result<Option<Taken>, DbError> {
    if claim.checked.is_empty() {
        take(connection, claim, fencing_token).await?;
        return Ok(None);
    }
    let mut transaction = connection.begin().await?;
    if let Some(taken) = guard(&mut transaction, claim).await? {
        transaction.rollback().await?;
        return Ok(Some(taken));
    }
    take(&mut transaction, claim, fencing_token).await?;
    transaction.commit().await?;
    Ok(None)
}

/// Locks the checked hosts until the transaction's end, and looks for another owner.
pub async fn guard(transaction: &mut Connection, claim: &Claim<'_>) -> Result<Option<Taken>, DbError> {
    if claim.checked.is_empty() {
        return Ok(None);
    }
    // A statement of its own: the next one sees the commits that this one waited for.
    sqlx::query!(
        "select pg_advisory_xact_lock(number)
         from (select distinct hashtextextended(host, 8) as number from unnest($1::text[]) as checked (host)
               order by 1) numbers",
        claim.checked
    )
    .execute(&mut *transaction)
    .await?;
    conflict(transaction, claim).await
}

/// The limit, which a unique index implies, has each host looked up by itself, however small the
/// tables were when the plan was made.
pub async fn conflict(connection: &mut Connection, claim: &Claim<'_>) -> Result<Option<Taken>, DbError> {
    let spellings = claim.label.map(|(cluster, _)| host_names::spellings(cluster)).unwrap_or_default();
    let row = sqlx::query!(
        "select taken.host as \"host!\",
                case when not taken.lives then extract(epoch from taken.free_at - now())::float8 end as free_in
         from (
             select h.host, h.lives, h.held_from + make_interval(secs => $5) as free_at
             from unnest($1::text[]) as checked (host)
             cross join lateral (select * from held_hosts where host = checked.host limit 1) h
             where not coalesce((h.key_namespace, h.key_name) = ($2, $3),
                                h.key_name is null and $3::text is null and h.backend = $4)
             union all
             select b.subdomain || '.' || b.cluster, true, null
             from backends b
             where b.cluster = any($6::text[]) and b.subdomain = $7 and b.ended_at is null
               and coalesce((b.key_namespace, b.key_name) <> ($2, $3), b.id <> $4)
             union all
             select b.subdomain || '.' || b.cluster, true, null
             from backends b
             where b.cluster = any($6::text[]) and substr(b.subdomain, strpos(b.subdomain, '--') + 2) = $7
               and strpos(b.subdomain, '--') > 0 and b.ended_at is null
               and coalesce((b.key_namespace, b.key_name) <> ($2, $3), b.id <> $4)
         ) taken
         where taken.lives or taken.free_at > now()
         order by taken.lives desc, taken.free_at desc
         limit 1",
        claim.checked,
        claim.key.map(|key| key.namespace.as_str()),
        claim.key.map(|key| key.name.as_str()),
        claim.backend.as_str(),
        claim.hold.as_secs_f64(),
        &spellings,
        claim.label.map(|(_, label)| label.as_str())
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let free_in = row.free_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Taken { host: row.host, free_in }
    }))
}

/// Nothing of another owner's stays, and an older backend of this owner takes nothing from a newer
/// one. Without a key, an owner is one life of a backend: a chosen id may have another one later.
pub async fn take(
    connection: &mut Connection,
    claim: &Claim<'_>,
    fencing_token: FencingToken,
) -> Result<(), DbError> {
    if claim.takes.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into hosts as h (host, key_namespace, key_name, backend, fencing_token, return_url)
         select wanted.host, $2, $3, $4, $5, $6 from unnest($1::text[]) as wanted (host)
         where exists (select 1 from backends where id = $4)
         order by wanted.host
         on conflict (host) do update
         set (key_namespace, key_name, backend, fencing_token, taken_at, ended_at)
                 = (excluded.key_namespace, excluded.key_name, excluded.backend, excluded.fencing_token, now(), null),
             (return_url, before_ended_at)
                 = (select case when owner.is_same then coalesce(excluded.return_url, h.return_url)
                                else excluded.return_url end,
                           case when not owner.is_same then null
                                when h.backend = excluded.backend or b.id is not null and b.ended_at is null
                                     or jetway_never_ready(b.end_json) then h.before_ended_at
                                else coalesce(b.ended_at, h.ended_at, h.taken_at) end
                    from (select coalesce((h.key_namespace, h.key_name)
                                              = (excluded.key_namespace, excluded.key_name),
                                          (h.backend, h.fencing_token)
                                              = (excluded.backend, excluded.fencing_token)) as is_same) owner
                         left join backends b on b.id = h.backend)
         where h.fencing_token <= excluded.fencing_token
            or (h.key_namespace, h.key_name) is distinct from (excluded.key_namespace, excluded.key_name)",
        claim.takes,
        claim.key.map(|key| key.namespace.as_str()),
        claim.key.map(|key| key.name.as_str()),
        claim.backend.as_str(),
        fencing_token.0,
        claim.return_url
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// A live backend in the host form, as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its named ports, as JSON. `None`: its row was put back, and does not say.
    pub ports: Option<Value>,
    /// Those of `hosts` that it has.
    pub hosts: Vec<String>,
}

pub async fn standing(
    connection: &mut Connection,
    backend: &BackendId,
    hosts: &[String],
) -> Result<Standing, DbError> {
    let row = sqlx::query!(
        "select case when b.spec is not null
                     then coalesce(b.spec #> '{executable,ports}', '{}'::jsonb) end as ports,
                array(select h.host from hosts h where h.backend = b.id and h.host = any($2::text[]))
                    as \"hosts!\"
         from backends b where b.id = $1",
        backend.as_str(),
        hosts
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map_or(Standing { ports: None, hosts: Vec::new() }, |row| Standing {
        ports: row.ports,
        hosts: row.hosts,
    }))
}

/// Where a host's browsers are to go from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Return {
    pub host: String,
    pub backend: BackendId,
    pub return_url: String,
}

/// Writes those that are new, for hosts that are still their backends'. In the order of the hosts,
/// so that two writers wait for each other and not in a circle.
pub async fn set_returns(connection: &mut Connection, returns: &[Return]) -> Result<u64, DbError> {
    let column = |of: fn(&Return) -> &str| returns.iter().map(|one| of(one).to_owned()).collect::<Vec<_>>();
    let done = sqlx::query!(
        "with changed as materialized (
             select h.host, new.return_url
             from unnest($1::text[], $2::text[], $3::text[]) as new (host, backend, return_url)
             cross join lateral (select host from hosts where host = new.host limit 1) found
             join hosts h on h.host = found.host
             where h.backend = new.backend and h.return_url is distinct from new.return_url
             order by h.host for update of h
         )
         update hosts h set return_url = changed.return_url from changed where h.host = changed.host",
        &column(|one| &one.host),
        &column(|one| one.backend.as_str()),
        &column(|one| &one.return_url)
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Whose each host is, in their order: of a backend that lives, or whose hold is not over.
pub async fn owners(
    connection: &mut Connection,
    hosts: &[String],
    hold: Duration,
) -> Result<Vec<Option<HostOwner>>, DbError> {
    let rows = sqlx::query!(
        "select asked.place as \"place!\", h.return_url
         from unnest($1::text[]) with ordinality as asked (host, place)
         cross join lateral (select * from held_hosts where host = asked.host limit 1) h
         where h.lives or h.held_from + make_interval(secs => $2) > now()",
        hosts,
        hold.as_secs_f64()
    )
    .fetch_all(connection)
    .await?;
    let mut owners = vec![None; hosts.len()];
    for row in rows {
        let place = usize::try_from(row.place - 1).ok();
        if let Some(owner) = place.and_then(|place| owners.get_mut(place)) {
            *owner = Some(HostOwner { return_url: row.return_url });
        }
    }
    Ok(owners)
}

/// Forgets hosts whose hold is over, at most `limit` of them, among those whose backends' rows are
/// gone. A row that was put back since lives.
pub async fn prune(connection: &mut Connection, hold: Duration, limit: i64) -> Result<u64, DbError> {
    let done = sqlx::query!(
        "delete from hosts where host = any(array(
             select h.host from hosts h
             where h.ended_at < now() - make_interval(secs => $1)
               and not exists (select 1 from backends b where b.id = h.backend and b.ended_at is null)
             limit $2 for update of h skip locked
         ))",
        hold.as_secs_f64(),
        limit
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The backend lives again: the end that its hosts kept was none.
pub async fn revive(connection: &mut Connection, backend: &BackendId) -> Result<(), DbError> {
    sqlx::query!(
        "update hosts set ended_at = null where backend = $1 and ended_at is not null",
        backend.as_str()
    )
    .execute(connection)
    .await?;
    Ok(())
}
