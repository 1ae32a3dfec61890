//! Each role restarted, in order and by force, under an open WebSocket: only the proxy's own restart may close it.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Options, Role, Session, with_stack};

const SOON: Duration = Duration::from_secs(20);

/// Restarts a role under an open session: the session lives, the URL still works, and the last close still ends it.
fn survives(role: Role, signal: Signal) {
    with_stack(Options::default(), async move |stack| {
        let request = stack.request("steady", &json!({}), &json!({ "max_idle_seconds": 0 }));
        let answer = stack.connect(&request).await?;
        let url = answer["url"].as_str().context("url")?.to_owned();
        let backend = answer["backend_id"].as_str().context("id")?.to_owned();
        let mut session = Session::open(&url).await?;
        session.echo("before").await?;

        stack.restart(role, signal).await?;
        if role == Role::Proxy {
            session.ended(SOON).await?;
            stack.until_ready().await?;
            // Within the grace that the drone gives a proxy, the browser comes back to the same process.
            session = Session::open(&url).await?;
        } else {
            session.echo("while it is away or coming back").await?;
            stack.until_ready().await?;
        }
        session.echo("after").await?;

        let again = stack.connect(&request).await?;
        ensure!(again["backend_id"] == answer["backend_id"] && again["spawned"] == false, "{again}");
        let mut second = Session::open(again["url"].as_str().context("url")?).await?;
        second.echo("a new grant").await?;
        let mut third = Session::open(&url).await?;
        third.echo("the old URL").await?;
        for open in [session, second, third] {
            open.close().await?;
        }
        // After an agent's start, proxies that may not have come back yet get 30 s before anything counts as closed.
        let view = stack.ended(&backend, Duration::from_secs(45)).await?;
        ensure!(view["end_reason"] == "idle", "{view}");
        Ok(())
    });
}

#[test]
fn controller_restarted_in_order() {
    survives(Role::Controller, Signal::SIGTERM);
}

#[test]
fn controller_killed() {
    survives(Role::Controller, Signal::SIGKILL);
}

#[test]
fn drone_restarted_in_order() {
    survives(Role::Drone, Signal::SIGTERM);
}

#[test]
fn drone_killed() {
    survives(Role::Drone, Signal::SIGKILL);
}

#[test]
fn proxy_restarted_in_order() {
    survives(Role::Proxy, Signal::SIGTERM);
}

#[test]
fn proxy_killed() {
    survives(Role::Proxy, Signal::SIGKILL);
}

#[test]
fn a_known_url_works_and_idle_teardown_goes_on_while_the_controller_is_away() {
    with_stack(Options::default(), async |stack| {
        let answer =
            stack.connect(&stack.request("alone", &json!({}), &json!({ "max_idle_seconds": 0 }))).await?;
        let url = answer["url"].as_str().context("url")?.to_owned();
        stack.process(Role::Controller).stop(Signal::SIGKILL).await?;
        let mut session = Session::open(&url).await?;
        session.echo("no controller").await?;
        session.close().await?;
        // Asked of the engine: a request for the URL would be a use of the session.
        stack.no_containers(SOON).await?;
        let status = stack.http.get(&url).send().await?.status();
        ensure!(status == 410, "{status}");
        stack.start_role(Role::Controller)?;
        stack.until_ready().await?;
        // The end was reported to nobody while it happened; it must not be lost.
        stack.ended(answer["backend_id"].as_str().context("id")?, SOON).await?;
        Ok(())
    });
}

#[test]
fn a_session_that_ended_while_its_drone_was_away_is_reported_and_its_key_is_free() {
    with_stack(Options::default(), async |stack| {
        let request = stack.request("orphan", &json!({}), &json!({}));
        let answer = stack.connect(&request).await?;
        let url = answer["url"].as_str().context("url")?.to_owned();
        let mut session = Session::open(&url).await?;
        session.echo("alive").await?;
        stack.process(Role::Drone).stop(Signal::SIGKILL).await?;
        session.say("exit 5").await?;
        session.ended(SOON).await?;
        stack.start_role(Role::Drone)?;
        let view = stack.ended(answer["backend_id"].as_str().context("id")?, SOON).await?;
        ensure!(view["exit_code"] == 5, "{view}");
        stack.until_ready().await?;
        let next = stack.connect(&request).await?;
        ensure!(next["spawned"] == true, "{next}");
        Ok(())
    });
}
