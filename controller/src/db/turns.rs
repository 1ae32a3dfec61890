//! The table `turns`: which periodic task one controller has just begun, so that the others leave it alone for now.
//!
//! A turn is no lock: two controllers may overlap when one is slow. The tasks are idempotent.

use std::time::Duration;

use super::{Connection, DbError};

/// True: this controller does the task now, and nobody begins it again within `period`.
pub async fn take(connection: &mut Connection, task: &str, period: Duration) -> Result<bool, DbError> {
    let taken = sqlx::query_scalar!(
        "insert into turns (task, next_at) values ($1, now() + make_interval(secs => $2))
         on conflict (task) do update set next_at = excluded.next_at where turns.next_at <= now()
         returning true as \"taken!\"",
        task,
        period.as_secs_f64()
    )
    .fetch_optional(connection)
    .await?;
    Ok(taken.unwrap_or(false))
}

/// The task is done, and whoever likes may begin it.
pub async fn give_back(connection: &mut Connection, task: &str) -> Result<(), DbError> {
    sqlx::query!("update turns set next_at = now() where task = $1", task).execute(connection).await?;
    Ok(())
}
