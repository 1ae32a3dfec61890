//! The table `installation`: one row, made by whichever controller comes first.

use jetway_protocol::ids::InstallationId;

use super::{Connection, DbError};

pub async fn read_or_make(connection: &mut Connection) -> Result<InstallationId, DbError> {
    sqlx::query!(
        "insert into installation (id) values ($1) on conflict do nothing",
        InstallationId::random().0
    )
    .execute(&mut *connection)
    .await?;
    let id = sqlx::query_scalar!("select id from installation").fetch_one(connection).await?;
    Ok(InstallationId(id))
}
