//! The host of Postgres vanishes: no FIN and no RST, and every connection to it falls silent, while
//! new ones reach the server that has taken its place. Everything that needs Postgres goes on
//! within seconds, and no session ends.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jetway_testkit::relay::Relay;
use nix::sys::signal::Signal;
use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::harness::{Options, Role, Session, Stack, block_on, database, eventually, over_stack};

/// From the cut, or from when the successor serves.
const RESUMED: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(20);

/// `body` has the way past the relay, too.
fn with_relay(body: impl AsyncFnOnce(&mut Stack, &Relay, &mut PgConnection) -> anyhow::Result<()>) {
    block_on(async {
        let name = format!("t{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        let url = database::create(&name).await.expect("a database");
        let (_, socket) = url.split_once("host=").expect("the test Postgres has a socket");
        let relay = Relay::start(&PathBuf::from(socket).join(".s.PGSQL.5432")).await.expect("a relay");
        let options = Options { database: Some(relay.url(&name)), ..Options::default() };
        let mut direct = PgConnection::connect(&url).await.expect("a connection");
        over_stack(options, async |stack| body(stack, &relay, &mut direct).await).await;
        direct.close().await.expect("its end");
        database::drop(&name).await.expect("its database goes");
    });
}

async fn open(stack: &Stack, key: &str) -> anyhow::Result<(Session, String)> {
    let answer = stack.connect(&stack.request(key, &json!({}), &json!({}))).await?;
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("before").await?;
    Ok((session, answer["backend_id"].as_str().context("backend_id")?.to_owned()))
}

/// As an application does that comes again when it is told to.
async fn first_new_key(stack: &Stack, since: Instant) -> anyhow::Result<Duration> {
    let request = stack.request("new", &json!({}), &json!({}));
    let given = async {
        loop {
            let (status, said) = stack.post("/ctrl/connect", &request).await?;
            if status == 200 {
                return anyhow::Ok(since.elapsed());
            }
            ensure!(status == 503 && said["retry_after_ms"].is_number(), "{status}: {said}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let elapsed = tokio::time::timeout(RESUMED * 3, given).await.context("no new key")??;
    ensure!(elapsed <= RESUMED, "the first new key after {elapsed:?}");
    Ok(elapsed)
}

/// Waits until a question to Postgres itself is answered with yes.
async fn until(direct: &mut PgConnection, sql: &'static str, since: Instant) -> anyhow::Result<Duration> {
    loop {
        if sqlx::query_scalar(sql).fetch_one(&mut *direct).await? {
            return Ok(since.elapsed());
        }
        ensure!(since.elapsed() <= RESUMED, "not after {RESUMED:?}: {sql}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What happened before the cut is marked by a table, since Postgres' clock is not ours.
async fn mark(direct: &mut PgConnection) -> anyhow::Result<()> {
    sqlx::raw_sql("drop table if exists mark; create table mark as select clock_timestamp() as at")
        .execute(direct)
        .await?;
    Ok(())
}

#[test]
fn new_keys_and_leases_resume_within_ten_seconds() {
    with_relay(async |stack, relay, direct| {
        let (mut steady, steady_id) = open(stack, "steady").await?;
        relay.cut();
        let cut = Instant::now();
        mark(direct).await?;
        let new_key = first_new_key(stack, cut).await?;
        let renewed = until(direct, "select bool_and(last_heartbeat > at) from drones, mark", cut).await?;
        println!(
            "figure: after the cut: the first new key after {} ms, a lease renewed by {} ms",
            new_key.as_millis(),
            renewed.as_millis()
        );
        steady.echo("it never noticed").await?;
        let answer = stack.connect(&stack.request("steady", &json!({}), &json!({}))).await?;
        ensure!(answer["backend_id"] == steady_id.as_str() && answer["spawned"] == false, "{answer}");
        let lost = "select count(*) = 0 from backends where end_json->>'reason' in ('lost', 'lease_expired')";
        until(direct, lost, cut).await?;
        Ok(())
    });
}

#[test]
fn an_end_after_the_cut_is_reported_within_ten_seconds() {
    with_relay(async |stack, relay, direct| {
        let request = stack.request("leaving", &json!({}), &json!({ "max_idle_seconds": 0 }));
        let answer = stack.connect(&request).await?;
        let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
        session.echo("before").await?;
        relay.cut();
        let cut = Instant::now();
        drop(session);
        let reported = until(direct, "select bool_and(ended_at is not null) from backends", cut).await?;
        println!("figure: after the cut: an end is stored after {} ms", reported.as_millis());
        Ok(())
    });
}

#[test]
fn drones_and_proxies_register_within_ten_seconds() {
    with_relay(async |stack, relay, direct| {
        let (mut steady, _) = open(stack, "steady").await?;
        mark(direct).await?;
        // The agent is gone before the cut, so that its registration is the first thing after it.
        stack.process(Role::Drone).stop(Signal::SIGKILL).await?;
        relay.cut();
        let cut = Instant::now();
        stack.start_role(Role::Drone)?;
        let drone = until(direct, "select bool_and(registered_at > at) from drones, mark", cut).await?;
        steady.echo("through a new agent").await?;
        relay.cut();
        let cut = Instant::now();
        mark(direct).await?;
        stack.restart(Role::Proxy, Signal::SIGKILL).await?;
        let proxy = until(direct, "select bool_or(last_heartbeat > at) from proxies, mark", cut).await?;
        println!(
            "figure: after the cut: a drone is registered after {} ms, a proxy after {} ms",
            drone.as_millis(),
            proxy.as_millis()
        );
        Ok(())
    });
}

#[test]
fn a_successor_that_comes_late_serves_at_once() {
    with_relay(async |stack, relay, _| {
        let (mut steady, steady_id) = open(stack, "steady").await?;
        relay.cut();
        relay.stall(true);
        let request = stack.request("meanwhile", &json!({}), &json!({}));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(8) {
            let asked = Instant::now();
            let (status, said) = stack.post("/ctrl/connect", &request).await?;
            ensure!(status == 503 && said["retry_after_ms"].is_number(), "{status}: {said}");
            ensure!(asked.elapsed() < RESUMED, "{:?}", asked.elapsed());
            steady.echo("it never noticed").await?;
        }
        // What was made meanwhile leads nowhere, either.
        relay.cut();
        relay.stall(false);
        let serves = Instant::now();
        let new_key = first_new_key(stack, serves).await?;
        println!("figure: the successor serves; the first new key after {} ms", new_key.as_millis());
        eventually("the other key is given, too", SOON, async || {
            match stack.post("/ctrl/connect", &request).await.map_err(|error| error.to_string())? {
                (200, _) => Ok(()),
                (status, said) => Err(format!("{status}: {said}")),
            }
        })
        .await?;
        let answer = stack.connect(&stack.request("steady", &json!({}), &json!({}))).await?;
        ensure!(answer["backend_id"] == steady_id.as_str(), "{answer}");
        steady.echo("to the end").await
    });
}
