//! A death that is known frees its keys at once, without any wait for a lease: an exit that an agent reports, a drone that was
//! drained, a host that was booted anew, an operator's word. Each prints what it took.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Options, Role, Session, Stack, eventually, with_stack};

/// From a death's being known to its key being free.
const FREE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);

async fn open(stack: &Stack, key: &str, spawn: &Value) -> anyhow::Result<(Session, String)> {
    let answer = stack.connect(&stack.request(key, &json!({}), spawn)).await?;
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("before").await?;
    Ok((session, answer["backend_id"].as_str().context("id")?.to_owned()))
}

/// Waits until the key is nobody's, and prints for how long since `known`.
async fn is_free(stack: &Stack, what: &str, backend: &str, known: Instant) -> anyhow::Result<Value> {
    let view = stack.ended(backend, SOON).await?;
    let took = known.elapsed();
    println!("figure: {what} to a free key: {} ms", took.as_millis());
    ensure!(took < FREE, "{what}: {took:?}");
    let (status, answer) = stack.post("/ctrl/connect", &json!({ "key": { "name": "k" } })).await?;
    ensure!(status == 409, "a key that is free and has no config: {status}: {answer}");
    Ok(view)
}

/// The host is dead: agent and containers at once, and nobody has said a word.
async fn host_dies(stack: &mut Stack) -> anyhow::Result<()> {
    stack.process(Role::Drone).stop(Signal::SIGKILL).await?;
    for container in stack.containers().await? {
        let options = bollard::query_parameters::RemoveContainerOptionsBuilder::default().force(true).build();
        stack.docker.remove_container(container.trim_start_matches('/'), Some(options)).await?;
    }
    Ok(())
}

async fn drone(stack: &Stack) -> anyhow::Result<Value> {
    Ok(stack.get("/ctrl/drones").await?["drones"][0].clone())
}

#[test]
fn an_exit_that_the_agent_reports_frees_its_key() {
    with_stack(Options::default(), async |stack| {
        let (mut session, id) = open(stack, "k", &json!({})).await?;
        session.say("exit 3").await?;
        let view = is_free(stack, "an exit", &id, Instant::now()).await?;
        ensure!(view["exit_code"] == 3, "{view}");
        Ok(())
    });
}

#[test]
fn a_session_of_a_drained_drone_that_is_stopped_frees_its_key() {
    with_stack(Options::default(), async |stack| {
        let (mut session, id) = open(stack, "k", &json!({})).await?;
        let name = drone(stack).await?["name"].as_str().context("name")?.to_owned();
        let cluster = format!("localhost:{}", stack.proxy_port);
        let (status, answer) = stack.post(&format!("/ctrl/c/{cluster}/d/{name}/drain"), &Value::Null).await?;
        ensure!(status == 200, "{status}: {answer}");
        session.echo("what runs goes on").await?;
        let stopped = Instant::now();
        stack.post(&format!("/ctrl/b/{id}/soft-terminate"), &Value::Null).await?;
        is_free(stack, "the stop of a drained drone's session", &id, stopped).await?;
        let (status, answer) =
            stack.post("/ctrl/connect", &stack.request("k", &json!({}), &json!({}))).await?;
        ensure!(status == 503 && answer["drones"][0]["reason"].is_string(), "it takes nothing new: {answer}");
        Ok(())
    });
}

#[test]
fn a_session_that_is_left_at_a_drains_deadline_sends_its_client_back_and_frees_its_key() {
    with_stack(Options::default(), async |stack| {
        let (mut session, id) = open(stack, "k", &json!({})).await?;
        let name = drone(stack).await?["name"].as_str().context("name")?.to_owned();
        let path = format!("/ctrl/c/localhost:{}/d/{name}", stack.proxy_port);
        let (status, answer) =
            stack.post(&format!("{path}/drain"), &json!({ "deadline_seconds": 2 })).await?;
        ensure!(status == 200, "{status}: {answer}");
        let begun = Instant::now();
        session.echo("until the deadline").await?;
        let code = session.close_code(SOON).await?;
        ensure!(code == Some(1012), "it is told to come back: {code:?}");
        ensure!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
        is_free(stack, "the deadline of a drain", &id, Instant::now()).await?;
        stack.post(&format!("{path}/undrain"), &Value::Null).await?;
        let (_session, next) = open(stack, "k", &json!({})).await?;
        ensure!(next != id, "{next}");
        Ok(())
    });
}

#[test]
fn a_new_boot_frees_what_ran_in_the_one_before() {
    with_stack(Options::default(), async |stack| {
        let keep = json!({ "on_isolation": "keep" });
        let (_session, id) = open(stack, "k", &keep).await?;
        host_dies(stack).await?;
        // The boot comes after the last heartbeat: one that is two seconds up, after four of silence.
        eventually("the host has been silent for a while", SOON, async || {
            let drone = drone(stack).await.map_err(|error| error.to_string())?;
            if drone["last_heartbeat_age_ms"].as_u64() > Some(4000) { Ok(()) } else { Err(drone.to_string()) }
        })
        .await?;
        let another_boot = reboot(stack)?;
        let booted = Instant::now();
        stack.wrapped.insert(Role::Drone, another_boot);
        stack.start_role(Role::Drone)?;
        let view = is_free(stack, "the agent's start in a new boot", &id, booted).await?;
        ensure!(view["end_reason"] == "lost", "{view}");
        stack.until_ready().await?;
        let next = stack.connect(&stack.request("k", &json!({}), &keep)).await?;
        ensure!(next["spawned"] == true && next["backend_id"] != json!(id), "{next}");
        Ok(())
    });
}

/// Starts a program on what looks like the same host after a reboot: another boot id, and a boot-time clock that has just begun.
fn reboot(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let boot_id = stack.directory.join("boot_id");
    std::fs::write(&boot_id, format!("{}\n", uuid::Uuid::new_v4()))?;
    std::fs::set_permissions(&boot_id, std::fs::Permissions::from_mode(0o644))?;
    let uptime = jetway_service::clock::boot_time().as_secs();
    let mount = format!("mount --bind {} /proc/sys/kernel/random/boot_id && exec \"$@\"", boot_id.display());
    let offset = format!("-{}", uptime - 1);
    let words = ["unshare", "--mount", "--time", "--boottime", &offset, "sh", "-c", &mount, "sh"];
    Ok(words.map(str::to_owned).to_vec())
}

#[test]
fn an_operators_forget_frees_every_key_of_a_dead_drone() {
    with_stack(Options::default(), async |stack| {
        let (_session, id) = open(stack, "k", &json!({})).await?;
        let name = drone(stack).await?["name"].as_str().context("name")?.to_owned();
        let cluster = format!("localhost:{}", stack.proxy_port);
        host_dies(stack).await?;
        let slots: Vec<_> =
            std::fs::read_dir(stack.run_dir.join("s"))?.flatten().map(|entry| entry.path()).collect();
        let said = Instant::now();
        let path = format!("/ctrl/c/{cluster}/d/{name}/forget");
        let (status, answer) = stack.post(&path, &json!({ "confirmed_dead": true })).await?;
        ensure!(status == 200, "{status}: {answer}");
        let view = is_free(stack, "an operator's forget", &id, said).await?;
        ensure!(view["end_reason"] == "lost", "{view}");
        // So that the end of the test finds every role.
        stack.start_role(Role::Drone)?;
        stack.until_ready().await?;
        // What it has found in its journal, it takes away first.
        eventually("nothing of the dead one is left", SOON, async || {
            let left = slots.iter().filter(|slot| slot.exists()).count();
            if left == 0 { Ok(()) } else { Err(left) }
        })
        .await?;
        Ok(())
    });
}
