//! The lease with real processes, a clock that cannot be turned and signals that cannot be caught: agents that are stopped,
//! killed or cut off for longer than it.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Options, Role, Session, Stack, eventually, with_stack};

/// Sessions of a drone that is cut off are gone 10 s after its last renewal, their keys free 14 s after it.
const LEASE_SECONDS: &str = "12";
const GONE: Duration = Duration::from_secs(20);
const FREE: Duration = Duration::from_secs(40);
/// From an agent's restart to its sessions being served.
const SERVED_AGAIN: Duration = Duration::from_secs(3);

fn short_lease() -> Options {
    Options::default().with(Role::Controller, &["--lease-seconds", LEASE_SECONDS])
}

async fn open(stack: &Stack, key: &str, spawn: &Value) -> anyhow::Result<(Session, Value)> {
    let answer = stack.connect(&stack.request(key, &json!({}), spawn)).await?;
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("before").await?;
    Ok((session, answer))
}

fn id(answer: &Value) -> &str {
    answer["backend_id"].as_str().unwrap_or_default()
}

/// The next session of the key, as soon as there is one.
async fn next(stack: &Stack, key: &str, deadline: Duration) -> anyhow::Result<Value> {
    let request = stack.request(key, &json!({}), &json!({}));
    eventually("the key is free", deadline, async || {
        let (status, answer) =
            stack.post("/ctrl/connect", &request).await.map_err(|error| error.to_string())?;
        if status == 200 && answer["spawned"] == true { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await
}

#[test]
fn an_agent_that_was_stopped_past_its_lease_serves_nothing_of_before() {
    with_stack(short_lease(), async |stack| {
        let (mut supervised, first) = open(stack, "supervised", &json!({})).await?;
        let in_place = json!({ "executable": { "init": "exec" } });
        let (mut alone, second) = open(stack, "in-place", &in_place).await?;
        let (mut keeps, third) = open(stack, "keeps", &json!({ "on_isolation": "keep" })).await?;

        stack.process(Role::Drone).signal(Signal::SIGSTOP)?;
        supervised.ended(GONE).await.context("its init ends it while nobody else can")?;
        alone.echo("its init is not there any more").await?;
        keeps.echo("it keeps").await?;
        let free = eventually("the key is given up", FREE, async || {
            let view = stack.get(&format!("/ctrl/backends/{}", id(&first))).await;
            let view = view.map_err(|error| error.to_string())?;
            if view["status"] == "terminated" { Ok(view) } else { Err(view.to_string()) }
        });
        let view = free.await?;
        ensure!(view["end_reason"] == "lease_expired", "{view}");

        stack.process(Role::Drone).signal(Signal::SIGCONT)?;
        alone.echo("it counts as one that keeps").await?;
        keeps.echo("and goes on keeping").await?;
        let again = next(stack, "supervised", GONE).await?;
        ensure!(id(&again) != id(&first), "{again}");
        let mut session = Session::open(again["url"].as_str().context("url")?).await?;
        session.echo("another process").await?;
        let (status, kept) = stack.post("/ctrl/connect", &json!({ "key": { "name": "keeps" } })).await?;
        ensure!(status == 200 && id(&kept) == id(&third), "{kept}");
        let (status, kept) = stack.post("/ctrl/connect", &json!({ "key": { "name": "in-place" } })).await?;
        ensure!(status == 200 && id(&kept) == id(&second), "{kept}");
        Ok(())
    });
}

#[test]
fn an_agent_that_was_killed_serves_its_sessions_again_within_three_seconds_of_its_restart() {
    with_stack(short_lease(), async |stack| {
        let (mut open, answer) = open(stack, "steady", &json!({})).await?;
        stack.process(Role::Drone).stop(Signal::SIGKILL).await?;
        open.echo("it is away").await?;
        let restarted = Instant::now();
        stack.start_role(Role::Drone)?;
        let request = stack.request("steady", &json!({}), &json!({}));
        eventually("a new visitor is let in", SERVED_AGAIN, async || {
            let served = async {
                let again = stack.connect(&request).await?;
                ensure!(id(&again) == id(&answer) && again["spawned"] == false, "{again}");
                let url = again["url"].as_str().context("url")?;
                let mut session = tokio::time::timeout(SERVED_AGAIN, Session::open(url)).await??;
                session.echo("a new grant").await
            };
            served.await.map_err(|error: anyhow::Error| format!("{error:#}"))
        })
        .await?;
        println!(
            "figure: an agent's restart after kill -9 to its sessions being served: {} ms",
            restarted.elapsed().as_millis()
        );
        ensure!(restarted.elapsed() < SERVED_AGAIN, "{:?}", restarted.elapsed());
        open.echo("and nobody was cut off").await?;
        Ok(())
    });
}

#[test]
fn without_any_controller_sessions_live_as_long_as_the_lease_and_with_keep_longer() {
    with_stack(short_lease(), async |stack| {
        let (mut stops, first) = open(stack, "stops", &json!({})).await?;
        let (mut keeps, _) = open(stack, "keeps", &json!({ "on_isolation": "keep" })).await?;
        stack.process(Role::Controller).stop(Signal::SIGKILL).await?;
        let away = Instant::now();
        stops.ended(GONE).await?;
        ensure!(away.elapsed() > Duration::from_secs(4), "{:?} is no lease", away.elapsed());
        keeps.echo("it keeps").await?;
        stack.start_role(Role::Controller)?;
        stack.until_ready().await?;
        let view = stack.ended(id(&first), GONE).await?;
        ensure!(view["end_reason"] == "lease_expired", "{view}");
        keeps.echo("and goes on").await?;
        next(stack, "stops", GONE).await?;
        Ok(())
    });
}

#[test]
fn a_short_outage_of_the_controllers_ends_nothing() {
    with_stack(short_lease(), async |stack| {
        let (mut session, answer) = open(stack, "steady", &json!({})).await?;
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            stack.restart(Role::Controller, signal).await?;
            stack.until_ready().await?;
            session.echo("it was away").await?;
        }
        // Longer than the lease: it is renewed.
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(16) {
            session.echo("still").await?;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let (status, again) = stack.post("/ctrl/connect", &json!({ "key": { "name": "steady" } })).await?;
        ensure!(status == 200 && id(&again) == id(&answer), "{again}");
        Ok(())
    });
}
