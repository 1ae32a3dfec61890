//! A real failover: a primary that dies, a standby that is promoted, and the controllers' way to it moved, as by an address
//! that changes its machine. Asynchronous, the last commits are lost; synchronous, none is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jetway_testkit::postgres::OwnPostgres;
use jetway_testkit::relay::Relay;
use serde_json::{Value, json};

use crate::harness::{Options, Role, Session, Stack, block_on, eventually, over_stack};

/// Every drone is outwaited 14 s after a failover that may have lost something.
const LEASE_SECONDS: &str = "12";
const SOON: Duration = Duration::from_secs(20);
const OUTWAITED: Duration = Duration::from_secs(40);

const TOKEN: &str = "select coalesce(max(fencing_token), 0) from backends";
const TERM: &str = "select max(term) from drones";
const LIVE_KEYS_TWICE: &str = "select count(*) from (select 1 from backends where ended_at is null group by key_name having count(*) > 1) twice";

/// A primary, its standby, and the address before them.
struct Pair {
    primary: OwnPostgres,
    standby: OwnPostgres,
    relay: Relay,
}

impl Pair {
    /// The old one is dead, the other one is the primary, and the address leads to it.
    async fn fail_over(&mut self) -> anyhow::Result<()> {
        self.primary.crash().await?;
        self.relay.move_to(None);
        self.standby.execute("select pg_promote(true, 30)").await?;
        self.relay.move_to(Some(&self.standby.socket()));
        Ok(())
    }
}

/// Gone with the value, after the servers in it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn with_pair(body: impl AsyncFnOnce(&mut Stack, &mut Pair) -> anyhow::Result<()>) {
    block_on(async {
        // Short: the path of a socket is below it.
        let name = format!("jetway-pg-{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
        let directory = Directory(std::env::temp_dir().join(name));
        let primary = OwnPostgres::start(&directory.0.join("a")).await.expect("a primary");
        let standby = primary.standby(&directory.0.join("b")).await.expect("a standby");
        let relay = Relay::start(&primary.socket()).await.expect("a relay");
        let mut pair = Pair { primary, standby, relay };
        let options = Options { database: Some(pair.relay.url("postgres")), ..Options::default() };
        let options = options.with(Role::Controller, &["--lease-seconds", LEASE_SECONDS]);
        over_stack(options, async |stack| body(stack, &mut pair).await).await;
    });
}

fn id(answer: &Value) -> &str {
    answer["backend_id"].as_str().unwrap_or_default()
}

async fn open(stack: &Stack, key: &str) -> anyhow::Result<(Session, Value)> {
    let answer = stack.connect(&stack.request(key, &json!({}), &json!({}))).await?;
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("before").await?;
    Ok((session, answer))
}

async fn lease(stack: &Stack) -> Result<Value, String> {
    Ok(stack.get("/ctrl/status").await.map_err(|error| format!("{error:#}"))?["lease"].clone())
}

async fn on_timeline_two(stack: &Stack) -> anyhow::Result<()> {
    eventually("the controller is back and has seen the timeline", SOON, async || {
        let lease = lease(stack).await?;
        if lease["timeline"] == 2 { Ok(()) } else { Err(lease.to_string()) }
    })
    .await?;
    let metrics = stack.http.get(format!("{}/metrics", stack.api)).send().await?.text().await?;
    ensure!(metrics.contains("\njetway_postgres_timeline 2\n"), "{metrics}");
    Ok(())
}

/// A connect to a key that has a process: it is given, or the caller is told when to come again; never another process.
async fn still(stack: &Stack, key: &str, owner: &str) -> anyhow::Result<bool> {
    let (status, answer) = stack.post("/ctrl/connect", &stack.request(key, &json!({}), &json!({}))).await?;
    match status {
        200 => ensure!(id(&answer) == owner && answer["spawned"] == false, "{key}: {answer}"),
        503 => ensure!(answer["retry_after_ms"].is_number(), "{key}: {answer}"),
        _ => anyhow::bail!("{key}: {status}: {answer}"),
    }
    Ok(status == 200)
}

#[test]
fn after_an_asynchronous_failover_live_keys_go_on_and_absent_ones_wait_until_every_drone_is_outwaited() {
    with_pair(async |stack, pair| {
        let (mut known, first) = open(stack, "known").await?;
        let seen = pair.primary.number(TOKEN).await?;
        eventually("the standby has it", SOON, async || {
            let there = pair.standby.number(TOKEN).await.map_err(|error| error.to_string())?;
            if there == seen { Ok(()) } else { Err(there.to_string()) }
        })
        .await?;
        pair.standby.execute("alter system set primary_conninfo = ''").await?;
        pair.standby.execute("select pg_reload_conf()").await?;
        eventually("the standby has let go", SOON, async || {
            let streams = pair.primary.number("select count(*) from pg_stat_replication").await;
            if matches!(streams, Ok(0)) { Ok(()) } else { Err(format!("{streams:?}")) }
        })
        .await?;
        // Acknowledged, running, and in no Postgres that will be left.
        let (mut lost, second) = open(stack, "lost").await?;
        let (token, term) = (pair.primary.number(TOKEN).await?, pair.primary.number(TERM).await?);
        ensure!(token > pair.standby.number(TOKEN).await?, "the commit was not replicated");

        pair.fail_over().await?;
        let promoted = Instant::now();
        on_timeline_two(stack).await?;
        println!("figure: promotion to the controller being back: {} ms", promoted.elapsed().as_millis());
        let request = stack.request("new", &json!({}), &json!({}));
        let (status, refused) = stack.post("/ctrl/connect", &request).await?;
        ensure!(status == 503 && refused["retry_after_ms"].as_u64() >= Some(1000), "{status}: {refused}");
        ensure!(lease(stack).await.is_ok_and(|lease| lease["new_keys_wait_ms"].as_u64() > Some(0)));

        let answer = eventually("an absent key is given", OUTWAITED, async || {
            let looked = async {
                known.echo("it never noticed").await?;
                lost.echo("nor did this one").await?;
                still(stack, "known", id(&first)).await?;
                still(stack, "lost", id(&second)).await?;
                stack.post("/ctrl/connect", &request).await
            };
            // What must never be is no reason to look again.
            match looked.await {
                Ok((200, answer)) => Ok(Ok(answer)),
                Ok((status, answer)) => Err(format!("{status}: {answer}")),
                Err(error) => Ok(Err(error.context("sessions and their keys through a failover"))),
            }
        })
        .await??;
        let waited = promoted.elapsed();
        println!(
            "figure: promotion to the first new key, lease {LEASE_SECONDS} s: {} ms",
            waited.as_millis()
        );
        ensure!(waited > Duration::from_secs(10), "{waited:?} outwaits nobody");
        ensure!(answer["spawned"] == true, "{answer}");
        stack.until_status(id(&answer), "ready", SOON).await?;
        eventually("both keys have the process of before", SOON, async || {
            let both = async {
                anyhow::Ok(
                    still(stack, "known", id(&first)).await? && still(stack, "lost", id(&second)).await?,
                )
            };
            both.await.map_err(|error| error.to_string())?.then_some(()).ok_or("not yet".to_owned())
        })
        .await?;
        let (after, twice) = (pair.standby.number(TOKEN).await?, pair.standby.number(LIVE_KEYS_TWICE).await?);
        ensure!(after > token && after >> 40 == 2, "fencing tokens: {token}, then {after}");
        ensure!(pair.standby.number(TERM).await? > term, "the drone has registered anew");
        ensure!(twice == 0 && stack.containers().await?.len() == 3, "{:?}", stack.containers().await?);
        known.echo("to the end").await?;
        lost.echo("to the end").await
    });
}

#[test]
fn after_a_synchronous_failover_nothing_is_lost_and_no_key_waits() {
    with_pair(async |stack, pair| {
        pair.primary.execute("alter system set synchronous_standby_names = '*'").await?;
        pair.primary.execute("select pg_reload_conf()").await?;
        eventually("the controller knows that its commits are safe", SOON, async || {
            let lease = lease(stack).await?;
            if lease["synchronous_standby"] == true { Ok(()) } else { Err(lease.to_string()) }
        })
        .await?;
        let (mut known, first) = open(stack, "known").await?;
        let token = pair.primary.number(TOKEN).await?;
        pair.fail_over().await?;
        let promoted = Instant::now();
        let request = stack.request("new", &json!({}), &json!({}));
        let answer = eventually("a new key is given", SOON, async || {
            match stack.post("/ctrl/connect", &request).await.map_err(|error| error.to_string())? {
                (200, answer) => Ok(answer),
                (status, answer) => Err(format!("{status}: {answer}")),
            }
        })
        .await?;
        let waited = promoted.elapsed();
        println!("figure: synchronous, promotion to the first new key: {} ms", waited.as_millis());
        ensure!(waited < Duration::from_secs(10), "{waited:?}: nobody has to be outwaited");
        on_timeline_two(stack).await?;
        ensure!(answer["spawned"] == true && still(stack, "known", id(&first)).await?, "{answer}");
        let after = pair.standby.number(TOKEN).await?;
        ensure!(after > token && after >> 40 == 2, "fencing tokens: {token}, then {after}");
        known.echo("it never noticed").await
    });
}
