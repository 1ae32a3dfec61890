//! The table `backends`, seen by connects and tasks that know of an end that no drone reports: rows
//! that a drone has refused, or has said to be gone.

use jetway_protocol::ids::{BackendId, FencingToken};
use jetway_protocol::status::{End, EndReason, Status};
use uuid::Uuid;

use super::{Connection, DbError, to_json};

/// Ends a row whose `PUT` was refused, or never left. Only its dispatcher may, and only while nobody has heard of it
/// from the drone: no other `PUT` for it can be under way. False: it was not so, and the row stands.
pub async fn end_refused(
    connection: &mut Connection,
    id: &BackendId,
    dispatcher: Uuid,
    message: &str,
) -> Result<bool, DbError> {
    let end = End {
        reason: EndReason::Refused,
        kind: None,
        exit_code: None,
        oom_killed: false,
        message: message.to_owned(),
        output: String::new(),
    };
    let done = sqlx::query!(
        "update backends
         set status = $3, ended_at = now(), end_json = $4, first_grant = null,
             spec = without_secrets(spec)
         where id = $1 and ended_at is null and acknowledged_at is null and dispatcher = $2
           and dispatch_until > now() and puts_sent = 1",
        id.as_str(),
        dispatcher,
        Status::Terminated.rank(),
        to_json(&end)
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Ends a row because its drone has said that it is gone and never will run.
pub async fn end_gone(
    connection: &mut Connection,
    id: &BackendId,
    fencing_token: FencingToken,
    end: &End,
) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "with ended as (
             update backends
             set status = $3, ended_at = now(), end_json = $4, first_grant = null,
                 spec = without_secrets(spec)
             where id = $1 and fencing_token = $2 and ended_at is null
             returning id
         )
         insert into backend_events (backend, status, at, end_json)
         select id, $3, (extract(epoch from now()) * 1000000)::bigint, $4 from ended
         on conflict do nothing",
        id.as_str(),
        fencing_token.0,
        Status::Terminated.rank(),
        to_json(end)
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() > 0)
}
