//! Statements and commits a connect, counted in Postgres' own log.

use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::harness::{Stack, eventually};

/// What one connect logged. Without an explicit transaction each write is one commit.
struct Counted {
    reads: usize,
    writes: usize,
    explicit_transactions: usize,
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
            counted.reads, counted.writes, counted.explicit_transactions
        );
    }
    Ok(())
}

async fn logging(admin: &mut PgConnection, level: &str) -> anyhow::Result<()> {
    sqlx::query(sqlx::AssertSqlSafe(format!("alter system set log_statement = '{level}'")))
        .execute(&mut *admin)
        .await?;
    sqlx::query("alter system set log_line_prefix = '%p '").execute(&mut *admin).await?;
    sqlx::query("select pg_reload_conf()").execute(&mut *admin).await?;
    eventually("the setting holds", Duration::from_secs(5), async || {
        let mut fresh = PgConnection::connect(&std::env::var("JETWAY_TEST_DB").unwrap_or_default()).await?;
        let now: String = sqlx::query_scalar("show log_statement").fetch_one(&mut fresh).await?;
        if now == level { Ok(()) } else { Err(sqlx::Error::PoolClosed) }
    })
    .await
}

/// One entry of the log: the process that wrote it, and its text with the lines that go on.
struct Entry {
    process: String,
    text: String,
}

fn entries(log: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in log.lines() {
        match (line.split_once(' '), entries.last_mut()) {
            (Some((process, text)), _) if process.parse::<u32>().is_ok() => {
                entries.push(Entry { process: process.to_owned(), text: text.to_owned() });
            }
            (_, Some(last)) => last.text.push_str(line),
            (_, None) => {}
        }
    }
    entries
}

/// What a connect asks carries its key among the parameters, which the log shows in the entry after the statement's.
async fn connect(stack: &Stack, log: &str, request: &serde_json::Value) -> anyhow::Result<Counted> {
    let before = usize::try_from(std::fs::metadata(log)?.len())?;
    stack.connect(request).await?;
    let text = std::fs::read_to_string(log)?;
    let entries = entries(&text[before..]);
    let key = request["key"]["name"].as_str().context("a key")?;
    let mut counted = Counted { reads: 0, writes: 0, explicit_transactions: 0 };
    let mut processes = Vec::new();
    for pair in entries.windows(2) {
        let [statement, detail] = pair else { continue };
        if !detail.text.contains("DETAIL:") || !detail.text.contains(&format!("'{key}'")) {
            continue;
        }
        processes.push(&statement.process);
        let sql = statement.text.rsplit_once("sqlx_s_").map_or(statement.text.as_str(), |(_, sql)| sql);
        let sql = sql.split_once(": ").map_or(sql, |(_, sql)| sql).trim_start().to_lowercase();
        if sql.starts_with("select") {
            counted.reads += 1;
        } else {
            counted.writes += 1;
        }
    }
    anyhow::ensure!(counted.reads > 0, "the log shows no statement of this connect:\n{}", &text[before..]);
    let begins = |entry: &&Entry| processes.contains(&&entry.process) && entry.text.contains(": BEGIN");
    counted.explicit_transactions = entries.iter().filter(begins).count();
    Ok(counted)
}
