//! The table `installation`: one row, made by whichever controller comes first.

use jetway_protocol::host::LabelKey;
use jetway_protocol::ids::InstallationId;

use super::{Connection, DbError};

/// All controllers of one installation have this in common.
#[derive(Debug, Clone)]
pub struct Installation {
    pub id: InstallationId,
    /// Made by Postgres with the row.
    pub label_key: LabelKey,
}

pub async fn read_or_make(connection: &mut Connection) -> Result<Installation, DbError> {
    sqlx::query!(
        "insert into installation (id) values ($1) on conflict do nothing",
        InstallationId::random().0
    )
    .execute(&mut *connection)
    .await?;
    let row = sqlx::query!("select id, label_key from installation").fetch_one(connection).await?;
    let unreadable = |_| DbError::Row { table: "installation", column: "label_key", id: row.id.to_string() };
    let label_key = <[u8; 32]>::try_from(row.label_key.as_slice()).map_err(unreadable)?;
    Ok(Installation { id: InstallationId(row.id), label_key: LabelKey::new(label_key) })
}
