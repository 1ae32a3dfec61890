//! Databases in the Postgres of the run, one a test.

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

async fn admin() -> anyhow::Result<(String, PgConnection)> {
    let admin =
        std::env::var("JETWAY_TEST_DB").context("JETWAY_TEST_DB is not set: run the tests with tests/run")?;
    let connection = PgConnection::connect(&admin).await.context("the test Postgres")?;
    Ok((admin, connection))
}

/// Its URL.
pub async fn create(name: &str) -> anyhow::Result<String> {
    let (admin, mut connection) = admin().await?;
    sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&mut connection).await?;
    url(&admin, name)
}

pub async fn connect(name: &str) -> anyhow::Result<PgConnection> {
    let (admin, _) = admin().await?;
    Ok(PgConnection::connect(&url(&admin, name)?).await?)
}

pub async fn drop(name: &str) -> anyhow::Result<()> {
    let (_, mut connection) = admin().await?;
    let drop = format!("drop database {name} with (force)");
    sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await?;
    Ok(())
}

/// The same server, another database: the path of the URL is replaced.
pub fn url(admin: &str, name: &str) -> anyhow::Result<String> {
    let (before, query) = admin.split_once('?').map_or((admin, ""), |(before, query)| (before, query));
    let (server, _) = before.rsplit_once('/').context("JETWAY_TEST_DB has no database")?;
    Ok(if query.is_empty() { format!("{server}/{name}") } else { format!("{server}/{name}?{query}") })
}
