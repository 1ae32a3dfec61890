//! The Docker daemon killed and started again, on an engine of the test's own: with live-restore its sessions go on, without
//! they have ended; either way the drone finds out by itself, reports it, and the keys are free for the next session.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use jetway_testkit::engine::OwnEngine;
use serde_json::{Value, json};

use crate::harness::{Options, Session, Stack, block_on, eventually, over_stack};

const SOON: Duration = Duration::from_secs(20);
/// From the engine's return to the end of a session that did not come back with it, or to that of one that exits later.
const NOTICED: Duration = Duration::from_secs(5);

/// A stack on an engine of its own.
fn with_engine(live_restore: bool, body: impl AsyncFnOnce(&mut Stack, &mut OwnEngine) -> anyhow::Result<()>) {
    block_on(async {
        let mut engine = OwnEngine::start(live_restore).await.expect("an engine of the test's own");
        let options = Options { engine: Some(engine.host()), ..Options::default() };
        over_stack(options, async |stack| body(stack, &mut engine).await).await;
        engine.end().await.expect("the engine ends in order");
    });
}

fn id(answer: &Value) -> &str {
    answer["backend_id"].as_str().unwrap_or_default()
}

/// A session that echoes, and that its engine has written down: one that is killed over a start forgets what it has started, and
/// then nothing ends it.
async fn steady(stack: &Stack) -> anyhow::Result<(Value, Session)> {
    let answer = stack.connect(&stack.request("steady", &json!({}), &json!({}))).await?;
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("before").await?;
    let name = stack.containers().await?.into_iter().next().context("a container")?;
    // Answered once its start is over.
    let seen = stack.docker.inspect_container(name.trim_start_matches('/'), None).await?;
    ensure!(seen.state.as_ref().and_then(|state| state.running) == Some(true), "{:?}", seen.state);
    Ok((answer, session))
}

/// The key's next session, which echoes.
async fn next(stack: &Stack, key: &str, before: &str) -> anyhow::Result<()> {
    let request = stack.request(key, &json!({}), &json!({}));
    let answer = eventually("the key is free and its drone takes it", SOON, async || {
        let (status, answer) =
            stack.post("/ctrl/connect", &request).await.map_err(|error| error.to_string())?;
        if status == 200 && answer["spawned"] == true { Ok(answer) } else { Err(answer.to_string()) }
    })
    .await?;
    ensure!(id(&answer) != before, "{answer}");
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("the next one").await
}

#[test]
fn with_live_restore_a_session_outlives_the_daemon_and_its_later_exit_is_noticed() {
    with_engine(true, async |stack, engine| {
        let (answer, mut session) = steady(stack).await?;
        engine.kill_daemon().await?;
        session.echo("while the daemon is away").await?;
        engine.start_daemon().await?;
        session.echo("and after").await?;
        let again = stack.connect(&json!({ "key": { "name": "steady" } })).await?;
        ensure!(id(&again) == id(&answer) && again["spawned"] == false, "{again}");

        session.say("exit 7").await?;
        let exited = Instant::now();
        let view = stack.ended(id(&answer), NOTICED).await?;
        println!(
            "figure: exit after a daemon's restart to its end in Postgres: {} ms",
            exited.elapsed().as_millis()
        );
        ensure!(view["exit_code"] == 7, "{view}");
        next(stack, "steady", id(&answer)).await
    });
}

#[test]
fn without_live_restore_the_sessions_of_a_restarted_daemon_end_are_reported_and_their_keys_are_free() {
    with_engine(false, async |stack, engine| {
        let (answer, mut session) = steady(stack).await?;
        engine.kill_daemon().await?;
        session.echo("nothing has ended yet").await?;
        engine.start_daemon().await?;
        let back = Instant::now();
        let view = stack.ended(id(&answer), NOTICED).await?;
        println!(
            "figure: engine's return to the end of its sessions in Postgres: {} ms",
            back.elapsed().as_millis()
        );
        ensure!(view["end_reason"].is_string(), "{view}");
        session.ended(SOON).await?;
        next(stack, "steady", id(&answer)).await
    });
}
