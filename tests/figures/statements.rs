//! Statements and commits a connect, counted in Postgres' own log.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::harness::{Stack, eventually};

/// What one connect logged: (reads, writes), commits being one a write, since no explicit transaction is used.
struct Counted {
    reads: usize,
    writes: usize,
    explicit: usize,
}

pub async fn count(stack: &Stack) -> anyhow::Result<()> {
    let log = std::env::var("JETWAY_TEST_PG_LOG").context("JETWAY_TEST_PG_LOG: run with make figures")?;
    let request = stack.request("counted", &json!({}), &json!({}));
    // Plans are prepared on a connection's first use; warm every connection that may serve.
    for _ in 0..3 {
        stack.connect(&request).await?;
    }
    let mut admin = PgConnection::connect(&std::env::var("JETWAY_TEST_DB")?).await?;
    logging(&mut admin, "all").await?;
    let new = stack.request("counted-new", &json!({}), &json!({}));
    let fresh = connect(stack, &log, &new).await?;
    let live = connect(stack, &log, &new).await?;
    logging(&mut admin, "none").await?;
    for (what, counted) in [("new key", fresh), ("live key", live)] {
        println!(
            "connect, {what}: {} reads, {} writes (one commit each), {} explicit transactions",
            counted.reads, counted.writes, counted.explicit
        );
    }
    Ok(())
}

async fn logging(admin: &mut PgConnection, level: &str) -> anyhow::Result<()> {
    sqlx::query(sqlx::AssertSqlSafe(format!("alter system set log_statement = '{level}'")))
        .execute(&mut *admin)
        .await?;
    sqlx::query("alter system set log_line_prefix = '%d '").execute(&mut *admin).await?;
    sqlx::query("select pg_reload_conf()").execute(&mut *admin).await?;
    eventually("the setting holds", Duration::from_secs(5), async || {
        let mut fresh = PgConnection::connect(&std::env::var("JETWAY_TEST_DB").unwrap_or_default()).await?;
        let now: String = sqlx::query_scalar("show log_statement").fetch_one(&mut fresh).await?;
        if now == level { Ok(()) } else { Err(sqlx::Error::PoolClosed) }
    })
    .await
}

/// The connect marks its beginning and its end in the log by statements of its own.
async fn connect(stack: &Stack, log: &str, request: &serde_json::Value) -> anyhow::Result<Counted> {
    let before = std::fs::metadata(log)?.len();
    stack.connect(request).await?;
    let text = std::fs::read_to_string(log)?;
    let text = &text[usize::try_from(before)?..];
    let of_connect = |line: &&str| line.contains("backends") && !line.contains("/* task */");
    let lines: Vec<_> =
        text.lines().filter(|line| line.contains("LOG:  execute")).filter(of_connect).collect();
    let starts = |line: &&&str, word: &str| {
        line.split_once(": ")
            .and_then(|(_, rest)| rest.split_once(": "))
            .is_some_and(|(_, sql)| sql.trim().to_lowercase().starts_with(word))
    };
    Ok(Counted {
        reads: lines.iter().filter(|line| starts(line, "select")).count(),
        writes: lines
            .iter()
            .filter(|line| starts(line, "insert") || starts(line, "update") || starts(line, "with"))
            .count(),
        explicit: text.lines().filter(|line| line.contains("statement: BEGIN")).count(),
    })
}
