//! The tables `acme_accounts` and `acme_challenges`: who we are to an issuer, and what it will ask for while an order is under
//! way. Accounts are sealed before they come here.

use std::time::Duration;

use jetway_protocol::certificates::{Challenge, Shown};

use super::{Connection, DbError};

pub async fn account(connection: &mut Connection, directory: &str) -> Result<Option<Vec<u8>>, DbError> {
    let credentials =
        sqlx::query_scalar!("select credentials from acme_accounts where directory = $1", directory)
            .fetch_optional(connection)
            .await?;
    Ok(credentials)
}

pub async fn put_account(
    connection: &mut Connection,
    directory: &str,
    credentials: &[u8],
) -> Result<(), DbError> {
    sqlx::query!(
        "insert into acme_accounts (directory, credentials) values ($1, $2)
         on conflict (directory) do update set credentials = excluded.credentials, created_at = now()",
        directory,
        credentials
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub async fn forget_account(connection: &mut Connection, directory: &str) -> Result<(), DbError> {
    sqlx::query!("delete from acme_accounts where directory = $1", directory).execute(connection).await?;
    Ok(())
}

pub async fn put_answer(
    connection: &mut Connection,
    challenge: Challenge,
    name: &str,
    value: &str,
    valid_for: Duration,
) -> Result<(), DbError> {
    sqlx::query!(
        "insert into acme_challenges (challenge, name, value, expires_at)
         values ($1, $2, $3, now() + make_interval(secs => $4))
         on conflict (challenge, name, value) do update set expires_at = excluded.expires_at",
        challenge.as_str(),
        name,
        value,
        valid_for.as_secs_f64()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers to one challenge, at most.
const ANSWERS_MAX: i64 = 16;

/// The newest first.
pub async fn answers(
    connection: &mut Connection,
    challenge: Challenge,
    name: &str,
) -> Result<Vec<String>, DbError> {
    let values = sqlx::query_scalar!(
        "select value from acme_challenges where challenge = $1 and name = $2 and expires_at > now()
         order by expires_at desc limit $3",
        challenge.as_str(),
        name,
        ANSWERS_MAX
    )
    .fetch_all(connection)
    .await?;
    Ok(values)
}

/// Answers of all orders together, at most.
const PENDING_MAX: i64 = 1000;

/// Everything that orders under way show, the newest first.
pub async fn pending(connection: &mut Connection) -> Result<Vec<Shown>, DbError> {
    let rows = sqlx::query!(
        "select challenge, name, value from acme_challenges where expires_at > now()
         order by expires_at desc limit $1",
        PENDING_MAX
    )
    .fetch_all(connection)
    .await?;
    // A kind of a later version is not for this one's proxies.
    let shown = rows.into_iter().filter_map(|row| {
        let challenge = row.challenge.parse().ok()?;
        Some(Shown { challenge, name: row.name, value: row.value })
    });
    Ok(shown.collect())
}

/// Those of orders that are over.
pub async fn prune(connection: &mut Connection) -> Result<u64, DbError> {
    let done =
        sqlx::query!("delete from acme_challenges where expires_at < now()").execute(connection).await?;
    Ok(done.rows_affected())
}
