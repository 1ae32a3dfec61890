//! The one-shot container that closes (or opens) the host's ports for a drone that may not, and what runs in it: the
//! hidden subcommand `jetway net-guard`. Not its business: when it is needed ([`super::guard`]).

use std::time::Duration;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};

use super::answer::bounded;
use super::config::DockerConfig;
use super::engine::Engine;
use super::guard::{Guard, GuardError};
use super::names;

const RUN_DEADLINE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const USAGE: &str = "usage: jetway net-guard close|open --table NAME --bridge NAME";

/// Runs the helper and waits for its end.
pub async fn run(engine: &Engine, config: &DockerConfig, guard: &Guard, action: &str) -> Result<(), String> {
    let Some(image) = &config.helper_image else { return Err("no helper image is configured".to_owned()) };
    let name = format!("{}-net-guard", names::network(config.drone));
    remove(engine, &name).await;
    let outcome =
        tokio::time::timeout(RUN_DEADLINE, run_once(engine, config, guard, action, image, &name)).await;
    remove(engine, &name).await;
    outcome.unwrap_or_else(|_| Err("the helper did not end in time".to_owned()))
}

/// What the hidden subcommand does with its arguments.
pub async fn run_helper(args: &[String]) -> Result<(), GuardError> {
    let usage = || GuardError::Failed(USAGE.to_owned());
    let [action, table_flag, table, bridge_flag, bridge] = args else { return Err(usage()) };
    if table_flag != "--table" || bridge_flag != "--bridge" {
        return Err(usage());
    }
    let guard = Guard { table: table.clone(), bridge: bridge.clone() };
    match action.as_str() {
        "close" => guard.close_here().await.map(|_| ()),
        "open" => guard.open_here().await,
        _ => Err(usage()),
    }
}

async fn run_once(
    engine: &Engine,
    config: &DockerConfig,
    guard: &Guard,
    action: &str,
    image: &str,
    name: &str,
) -> Result<(), String> {
    let cmd = ["net-guard", action, "--table", &guard.table, "--bridge", &guard.bridge];
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(vec!["jetway".to_owned()]),
        cmd: Some(cmd.map(str::to_owned).to_vec()),
        user: Some("0".to_owned()),
        labels: Some(names::labels(config.installation, config.drone, names::ROLE_NET_GUARD)),
        host_config: Some(HostConfig {
            network_mode: Some("host".to_owned()),
            // An engine that remaps users would refuse the host's network.
            userns_mode: Some("host".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(vec!["NET_ADMIN".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            readonly_rootfs: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let said = |error: crate::runtime::RuntimeError| format!("the helper container: {error}");
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    bounded(engine.docker().create_container(Some(options), body)).await.map_err(said)?;
    bounded(engine.docker().start_container(name, None::<StartContainerOptions>)).await.map_err(said)?;
    loop {
        let state = engine.get(&format!("/containers/{name}/json"), &[]).await.map_err(said)?;
        if state["State"]["Running"].as_bool() == Some(false) {
            return match state["State"]["ExitCode"].as_i64() {
                Some(0) => Ok(()),
                code => Err(format!("the helper container ended with {}", code.unwrap_or(-1))),
            };
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn remove(engine: &Engine, name: &str) {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    let _absent_is_fine = bounded(engine.docker().remove_container(name, Some(options))).await;
}
