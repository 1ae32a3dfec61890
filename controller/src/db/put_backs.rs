//! The table `backends`, seen by the task that finds a living backend without a live row: Postgres has lost it, or believes
//! it to have ended. Who gets the key is `protocol::lease::put_back`'s to say; without a key nobody is in its way.

use std::time::Duration;

use jetway_protocol::drone_api::BackendView;
use jetway_protocol::ids::{FencingToken, Subdomain};
use jetway_protocol::lease::{PutBack, put_back};
use jetway_protocol::spec::OnIsolation;
use jetway_protocol::status::{End, EndReason, Status};

use super::drones::Drone;
use super::hosts::{self, Claim};
use super::{Connection, DbError, to_json};
use crate::host_names;

/// Makes the row again, under the drone's present term, where the key is free or its holder must be dead. `None`: somebody
/// came between, or the drone has another term by now; the next comparison decides anew.
///
/// Its drone does not know whether it was in the host form. So its subdomain is taken as if it was,
/// and held after its end, where no backend in the path form is in the way. Where another owner's
/// backend lives in the host form under it, this one goes on without. So may `debug--notes` of one
/// key in the path form, where `notes` of another key was put back before it.
pub async fn put_back_row(
    connection: &mut Connection,
    view: &BackendView,
    drone: &Drone,
) -> Result<Option<PutBack>, DbError> {
    let subdomain = view.subdomain.as_ref();
    let checked = subdomain.map(|label| host_names::of_subdomain(label, &drone.cluster)).unwrap_or_default();
    let in_host_form = subdomain.filter(|label| host_names::may_be_host_form(label));
    let claim = Claim {
        backend: &view.id,
        key: view.key.as_ref(),
        takes: if in_host_form.is_some() { &checked } else { &[] },
        checked: &checked,
        label: None,
        return_url: None,
        // A live session comes before a hold.
        hold: Duration::ZERO,
    };
    let mut transaction = connection.begin().await?;
    let is_free = hosts::guard(&mut transaction, &claim).await?.is_none();
    let label = in_host_form.map(|label| (&drone.cluster, label));
    let may_take = is_free && hosts::conflict(&mut transaction, &Claim { label, ..claim }).await?.is_none();
    let holder = sqlx::query!(
        "select id, fencing_token from backends
         where key_namespace = $1 and key_name = $2 and ended_at is null for update",
        view.key.as_ref().map(|key| &key.namespace),
        view.key.as_ref().map(|key| &key.name)
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let decision =
        put_back(view.fencing_token, holder.as_ref().map(|holder| FencingToken(holder.fencing_token)));
    match (decision, &holder) {
        (PutBack::Delete | PutBack::Own, _) => {
            transaction.rollback().await?;
            return Ok(Some(decision));
        }
        (PutBack::Supersede, Some(holder)) => supersede(&mut transaction, &holder.id).await?,
        (PutBack::Supersede | PutBack::Insert, _) => {}
    }
    match insert(&mut transaction, view, drone, subdomain.filter(|_| is_free)).await {
        Ok(true) => {
            hosts::revive(&mut transaction, &view.id).await?;
            if may_take {
                hosts::take(&mut transaction, &claim, view.fencing_token).await?;
            }
            transaction.commit().await?;
            Ok(Some(decision))
        }
        Ok(false) => Ok(None),
        Err(DbError::Query(sqlx::Error::Database(error))) if error.is_unique_violation() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The verdict on a backend as its key's row stands now, without any change.
pub async fn verdict(connection: &mut Connection, view: &BackendView) -> Result<PutBack, DbError> {
    let holder = sqlx::query_scalar!(
        "select fencing_token from backends
         where key_namespace = $1 and key_name = $2 and ended_at is null",
        view.key.as_ref().map(|key| &key.namespace),
        view.key.as_ref().map(|key| &key.name)
    )
    .fetch_optional(connection)
    .await?;
    Ok(put_back(view.fencing_token, holder.map(FencingToken)))
}

async fn supersede(connection: &mut Connection, id: &str) -> Result<(), DbError> {
    let end = End {
        reason: EndReason::Lost,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: "a newer backend of its key lives, so it was dead before that one was placed".to_owned(),
        output: String::new(),
    };
    sqlx::query!(
        "update backends set status = $2, ended_at = now(), end_json = $3, first_grant = null,
                spec = without_secrets(spec)
         where id = $1 and ended_at is null",
        id,
        Status::Terminated.rank(),
        to_json(&end)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// False: the id is another life's, or has a live row by now, or the drone has another term.
async fn insert(
    connection: &mut Connection,
    view: &BackendView,
    drone: &Drone,
    subdomain: Option<&Subdomain>,
) -> Result<bool, DbError> {
    let on_isolation = view.on_isolation.map(|on_isolation| match on_isolation {
        OnIsolation::Stop => "stop",
        OnIsolation::Keep => "keep",
    });
    let key = view.key.as_ref();
    let done = sqlx::query!(
        "insert into backends (id, fencing_token, key_namespace, key_name, key_tag, cluster, subdomain, drone_id,
                               drone_term, status, acknowledged_at, on_isolation, use_static_token)
         select $1, $2, $3, $4, $5, $6,
                case when not exists (select 1 from backends
                                      where cluster = $6 and subdomain = $7 and ended_at is null) then $7 end,
                d.id, d.term, $10, now(), $11, $12
         from drones d where d.id = $8 and d.term = $9
         on conflict (id) do update
         set ended_at = null, end_json = null, status = excluded.status, drone_term = excluded.drone_term,
             subdomain = excluded.subdomain
         where backends.fencing_token = excluded.fencing_token and backends.drone_id = excluded.drone_id
           and backends.ended_at is not null",
        view.id.as_str(),
        view.fencing_token.0,
        key.map(|key| &key.namespace),
        key.map(|key| &key.name),
        key.map(|key| &key.tag),
        drone.cluster.as_str(),
        subdomain.map(Subdomain::as_str),
        drone.id.0,
        drone.term.0,
        view.status.rank(),
        on_isolation,
        view.use_static_token
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}
