//! A drone that runs in a container of its own engine: it finds the host's names for its directories, adopts its sessions
//! after its own restart, and leaves nothing.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    RestartContainerOptions, StartContainerOptions, StopContainerOptions,
};
use futures_util::StreamExt;
use serde_json::json;

use crate::harness::processes::executable;
use crate::harness::{Options, Session, Stack, engine, eventually, with_stack};

const SOON: Duration = Duration::from_secs(20);

/// Names of this test's own: of the container, its volume, and its run directory.
fn name(stack: &Stack) -> String {
    format!("{}-inside", stack.run_dir.file_name().unwrap_or_default().to_string_lossy())
}

/// Starts the drone in a container with these mounts, as a composition would.
async fn start(stack: &Stack, mounts: &[String], run_dir: &str) -> anyhow::Result<()> {
    let (jetway, init) = (std::fs::read(executable("jetway")?)?, std::fs::read(executable("jetway-init")?)?);
    let files: [(&str, &[u8]); 2] = [("bin/jetway", &jetway), ("bin/jetway-init", &init)];
    let image = engine::image_of(&stack.docker, "drone", &files, &[r#"ENTRYPOINT ["/bin/jetway"]"#]).await?;
    let variables = HashMap::from([
        ("SECRET", stack.secret.clone()),
        ("NAME", name(stack)),
        ("POOL", "inside".to_owned()),
        ("CONTROLLER", stack.api.clone()),
        ("LISTEN", "127.0.0.1:0".to_owned()),
        ("RUN_DIR", run_dir.to_owned()),
    ]);
    let body = ContainerCreateBody {
        image: Some(image),
        cmd: Some(vec!["drone".to_owned()]),
        env: Some(variables.into_iter().map(|(key, value)| format!("JETWAY_{key}={value}")).collect()),
        host_config: Some(HostConfig {
            binds: Some(mounts.to_vec()),
            network_mode: Some("host".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(vec!["NET_ADMIN".to_owned()]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name(stack)).build();
    stack.docker.create_container(Some(options), body).await?;
    Ok(stack.docker.start_container(&name(stack), None::<StartContainerOptions>).await?)
}

async fn log(stack: &Stack) -> String {
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let lines = stack.docker.logs(&name(stack), Some(options));
    lines.map(|line| line.map_or_else(|error| error.to_string(), |line| line.to_string())).collect().await
}

async fn remove(stack: &Stack) -> anyhow::Result<()> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    Ok(stack.docker.remove_container(&name(stack), Some(options)).await?)
}

async fn until_log_has(stack: &Stack, times: usize, sign: &str) -> anyhow::Result<()> {
    eventually(sign, SOON, async || {
        let said = log(stack).await;
        if said.matches(sign).count() == times { Ok(()) } else { Err(said) }
    })
    .await
}

#[test]
fn it_serves_adopts_and_leaves_nothing() {
    with_stack(Options::default(), async |stack| {
        let socket = "/var/run/docker.sock:/var/run/docker.sock".to_owned();
        let data = format!("{}:/var/lib/jetway", name(stack));
        let run_dir = format!("/dev/shm/{}", name(stack));
        let all = [socket.clone(), data, "/dev/shm:/dev/shm".to_owned()];
        let outcome = serves_and_adopts(stack, &all, &run_dir).await;
        let said = log(stack).await;
        remove(stack).await?;
        stack
            .docker
            .remove_volume(&name(stack), None::<bollard::query_parameters::RemoveVolumeOptions>)
            .await?;
        outcome.context(said)?;
        ensure!(!std::path::Path::new(&run_dir).exists(), "{run_dir} is left");
        for (mounts, sign) in [
            (vec![socket.clone()], "(--data-dir), which lies under no bind or volume"),
            (vec![socket.clone(), "/var/lib/jetway".to_owned()], "/dev/shm:/dev/shm for one"),
        ] {
            start(stack, &mounts, "/srv/run").await?;
            let said = until_log_has(stack, 1, sign).await;
            remove(stack).await?;
            said?;
        }
        Ok(())
    });
}

async fn serves_and_adopts(stack: &Stack, mounts: &[String], run_dir: &str) -> anyhow::Result<()> {
    start(stack, mounts, run_dir).await?;
    eventually("the drone is ready", SOON, async || {
        let drones = stack.get("/ctrl/drones").await.map_err(|error| error.to_string())?;
        let ours =
            drones["drones"].as_array().into_iter().flatten().find(|drone| drone["name"] == name(stack));
        if ours.is_some_and(|drone| drone["state"] == "ready") { Ok(()) } else { Err(drones.to_string()) }
    })
    .await?;
    let request = stack.request("inside", &json!({}), &json!({ "pool": "inside" }));
    let answer = stack.connect(&request).await?;
    let backend = answer["backend_id"].as_str().context("id")?.to_owned();
    let mut session = Session::open(answer["url"].as_str().context("url")?).await?;
    session.echo("before").await?;

    stack.docker.restart_container(&name(stack), None::<RestartContainerOptions>).await?;
    session.echo("while it is away or coming back").await?;
    until_log_has(stack, 1, "adopted=1").await?;
    let again = eventually("it serves again", SOON, async || stack.connect(&request).await).await?;
    ensure!(again["backend_id"] == answer["backend_id"] && again["spawned"] == false, "{again}");
    // A new grant is of use only to a drone that has init on its line and proxies attached.
    let mut second = Session::open(again["url"].as_str().context("url")?).await?;
    second.echo("a new grant").await?;
    session.echo("after").await?;
    stack.post(&format!("/ctrl/b/{backend}/soft-terminate"), &json!(null)).await?;
    let view = stack.ended(&backend, SOON).await?;
    ensure!(view["end_reason"] == "external", "init was on the line: {view}");
    stack.no_containers(SOON).await?;
    Ok(stack.docker.stop_container(&name(stack), None::<StopContainerOptions>).await?)
}
