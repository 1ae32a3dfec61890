//! The operator's verbs, as a person types them.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::harness::processes::executable;
use crate::harness::{Options, Session, Stack, with_stack};

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn jetway(stack: &Stack, arguments: &[&str]) -> anyhow::Result<Said> {
    let mut command = Command::new(executable("jetway")?);
    command.args(arguments).env("JETWAY_API_URL", &stack.api);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) })
}

#[test]
fn the_verbs_of_a_sessions_life() {
    with_stack(Options::default(), async |stack| {
        let image = stack.image.clone();
        let empty = jetway(stack, &["ls"]).await?;
        ensure!(empty.out.contains("no sessions"), "{}", empty.out);

        let connect =
            jetway(stack, &["connect", "desk", "--image", &image, "--env", "A=b", "--wait"]).await?;
        ensure!(connect.code == Some(0), "{}", connect.err);
        ensure!(connect.err.contains("started session"), "{}", connect.err);
        let mut session = Session::open(connect.out.trim()).await?;
        session.echo("from the command line").await?;

        let list = jetway(stack, &["ls"]).await?;
        ensure!(list.out.contains("desk") && list.out.contains("ready"), "{}", list.out);
        let list: Value = serde_json::from_str(&jetway(stack, &["ls", "--json"]).await?.out)?;
        let id = list["backends"][0]["backend_id"].as_str().context("id")?.to_owned();
        let status = jetway(stack, &["status", "desk"]).await?;
        ensure!(status.out.contains(&id) && status.out.contains("started"), "{}", status.out);
        let logs = jetway(stack, &["logs", "desk"]).await?;
        ensure!(logs.out.contains("listening on"), "{:?} {}", logs.out, logs.err);

        let stop = jetway(stack, &["stop", "desk"]).await?;
        ensure!(stop.code == Some(0) && stop.out.contains(&id), "{} {}", stop.out, stop.err);
        stack.ended(&id, Duration::from_secs(15)).await?;
        let again = jetway(stack, &["stop", "desk"]).await?;
        ensure!(again.err.contains("no session") || again.code == Some(1), "{} {}", again.out, again.err);
        Ok(())
    });
}

#[test]
fn drain_status_and_doctor() {
    with_stack(Options::default(), async |stack| {
        let drones = stack.get("/ctrl/drones").await?;
        let name = drones["drones"][0]["name"].as_str().context("name")?.to_owned();
        ensure!(jetway(stack, &["status"]).await?.out.contains(&name));
        let doctor = jetway(stack, &["doctor"]).await?;
        ensure!(doctor.code == Some(0), "{}", doctor.out);
        let drain = jetway(stack, &["drain", &name]).await?;
        ensure!(
            drain.code == Some(0) && drain.out.contains("takes no new sessions"),
            "{} {}",
            drain.out,
            drain.err
        );
        let image = stack.image.clone();
        let refused = jetway(stack, &["connect", "late", "--image", &image]).await?;
        ensure!(refused.code == Some(1) && refused.err.contains("draining"), "{}", refused.err);
        ensure!(jetway(stack, &["drain", &name, "--undo"]).await?.code == Some(0));
        ensure!(jetway(stack, &["connect", "late", "--image", &image]).await?.code == Some(0));
        Ok(())
    });
}

#[test]
fn a_controller_that_is_not_there_is_said_so() {
    let output = Command::new(executable("jetway").expect("built"))
        .args(["ls", "--api-url", "http://127.0.0.1:1"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("no controller answers"), "{text}");
}
