//! A sandbox: a network namespace with its address, made before anybody needs it, because making it is more than half of a
//! container's start. An engine gives a namespace only to a container, so it is held by a tiny one of our own, in which
//! init does nothing but wait for its end; the session's container joins it. Not its business: how many there are, and
//! which session gets which.
//!
//! The holder's process is in a process namespace of its own: the session neither sees nor reaches it. Should it die all the
//! same, the engine takes the network's link away under the session, which nobody can reach any more then, so it is ended.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::RemoveImageOptions;
use jetway_protocol::ids::SlotId;
use jetway_protocol::init::{INIT_DIR, INIT_PATH, RUN_DIR};

use tokio::sync::Mutex;

use super::answer::{bounded, text};
use super::config::DockerConfig;
use super::container;
use super::container_spec::{bind, endpoint};
use super::engine::Engine;
use super::import::import;
use super::shared::Shared;
use super::{names, slot_dirs};
use crate::runtime::{ContainerStatus, Found, RuntimeError, init_line};

/// The holder and whatever the engine runs in its cgroup while it starts it (a copy of the container runtime, for one).
const MEMORY_BYTES: i64 = 32 * 1024 * 1024;
const PIDS_LIMIT: i64 = 16;
/// Weight beside other containers': it does nothing after its start.
const CPU_SHARES: i64 = 64;
/// In the slot's directory for as long as the sandbox is wanted: an engine that was killed while it started one may have forgotten
/// it, and then it ends by itself.
const WANTED: &str = "wanted";
/// Nobody. It has no files of its own, and no rights.
const USER: &str = "65534:65534";

const SIGKILL: i32 = 9;
/// The status of one whose end was told without it.
const UNKNOWN: i32 = -1;
/// Several may die at once: one look for all that did within this time.
const SETTLE: Duration = Duration::from_millis(20);
/// Once more, for a container that was being started just then, and may have joined before.
const SECOND_LOOK: Duration = Duration::from_secs(3);
/// After a look that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Makes and starts it. Repeating it changes nothing.
pub async fn make(
    shared: &Shared,
    around: &Around<'_>,
    sandbox: SlotId,
    address: Ipv4Addr,
) -> Result<(), RuntimeError> {
    let Shared { engine, config, .. } = shared;
    let (name, directory) = (names::sandbox(sandbox), slot_dirs::of(config, sandbox));
    init_line::make_directory(&directory)
        .and_then(|()| std::fs::write(directory.join(WANTED), ""))
        .map_err(|error| RuntimeError::Engine(format!("{}: {error}", directory.display())))?;
    match container::create(engine, &name, body(config, around, sandbox, address)).await {
        Err(RuntimeError::Refused(message)) if is_without_image(&message) => {
            ensure_image(engine, &shared.sandbox_image).await?;
            container::create(engine, &name, body(config, around, sandbox, address)).await?;
        }
        outcome => drop(outcome?),
    }
    container::start(engine, &name).await
}

/// Absent is success.
pub async fn remove(engine: &Engine, config: &DockerConfig, sandbox: SlotId) -> Result<(), RuntimeError> {
    container::remove(engine, &names::sandbox(sandbox)).await?;
    slot_dirs::remove(config, sandbox);
    Ok(())
}

/// An engine that has said that one died goes on listing it as running until it has cleaned up after it: then what it said
/// first counts.
pub async fn list(shared: &Shared) -> Result<Vec<Found>, RuntimeError> {
    let mut listed = container::list(&shared.engine, &shared.config, names::ROLE_SANDBOX).await?;
    for found in &mut listed {
        let runs = matches!(found.status, ContainerStatus::Running { .. });
        if runs && shared.sandboxes_dead.contains(&found.slot) {
            found.status = ContainerStatus::Exited { code: UNKNOWN, oom_killed: false };
        }
    }
    Ok(listed)
}

/// For ever: ends the containers whose sandbox died under them. Whatever was missed is seen at the next look, because each
/// looks at everything.
pub async fn end_the_cut_off(shared: Arc<Shared>) {
    loop {
        shared.sandbox_died.notified().await;
        loop {
            tokio::time::sleep(SETTLE).await;
            if !until_looked(&shared).await {
                break;
            }
            if tokio::time::timeout(SECOND_LOOK, shared.sandbox_died.notified()).await.is_err() {
                until_looked(&shared).await;
                break;
            }
        }
    }
}

/// Whether any container has joined a sandbox, or is about to.
async fn until_looked(shared: &Shared) -> bool {
    loop {
        match end_once(shared).await {
            Ok(has_joined) => return has_joined,
            Err(error) => {
                tracing::warn!(%error, "whether sessions were cut off is not known; looking again");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn end_once(shared: &Shared) -> Result<bool, RuntimeError> {
    let (engine, config) = (&shared.engine, &shared.config);
    // In this order: the sandbox of every container on the first list was made before the second.
    let slots = container::list(engine, config, names::ROLE_SLOT).await?;
    if slots.iter().all(|slot| slot.sandbox.is_none()) {
        return Ok(false);
    }
    let sandboxes = list(shared).await?;
    for slot in cut_off(&slots, &sandboxes) {
        tracing::warn!(%slot, "its sandbox died: nobody can reach it any more, so it is ended");
        // Before the kill: the end is told from it.
        shared.slots.entry(slot).or_default().note_cut_off();
        container::kill(engine, &shared.readable.container(slot), SIGKILL).await?;
    }
    Ok(true)
}

/// Those that run without a sandbox that does.
fn cut_off(slots: &[Found], sandboxes: &[Found]) -> Vec<SlotId> {
    let runs = |found: &&Found| matches!(found.status, ContainerStatus::Running { .. });
    let alive: HashSet<SlotId> = sandboxes.iter().filter(runs).map(|found| found.slot).collect();
    let is_cut_off = |slot: &&Found| slot.sandbox.is_some_and(|sandbox| !alive.contains(&sandbox));
    slots.iter().filter(runs).filter(is_cut_off).map(|slot| slot.slot).collect()
}

/// Makes the sandboxes' image, unless another sandbox that found none has made it meanwhile: the
/// later of two imports would leave the earlier one without a name.
async fn ensure_image(engine: &Engine, one_at_a_time: &Mutex<()>) -> Result<(), RuntimeError> {
    let _turn = one_at_a_time.lock().await;
    let path = format!("/images/{}:{}/json", names::SANDBOX_IMAGE, names::SANDBOX_IMAGE_TAG);
    match engine.get(&path, &[]).await {
        Ok(_) => Ok(()),
        Err(RuntimeError::Refused(_)) => import_image(engine).await,
        Err(error) => Err(error),
    }
}

/// Nothing is in it: what runs is mounted, so it never has to be made anew for another version. The label says whose it is.
async fn import_image(engine: &Engine) -> Result<(), RuntimeError> {
    let label = format!("LABEL {}={}", names::LABEL_ROLE, names::ROLE_SANDBOX);
    import(engine, names::SANDBOX_IMAGE, names::SANDBOX_IMAGE_TAG, &[], &[label]).await
}

/// Removes sandboxes' images that have lost their name: drones of one engine may still import at
/// once. One that a container has stays, because the engine refuses to remove it.
pub async fn remove_nameless_images(engine: &Engine) -> Result<(), RuntimeError> {
    let label = format!("{}={}", names::LABEL_ROLE, names::ROLE_SANDBOX);
    let filters = serde_json::json!({ "dangling": ["true"], "label": [label] }).to_string();
    let listed = engine.get("/images/json", &[("filters", filters.as_str())]).await?;
    for image in listed.as_array().into_iter().flatten() {
        let id = text(&image["Id"]);
        match bounded(engine.docker().remove_image(&id, None::<RemoveImageOptions>, None)).await {
            Ok(_) => tracing::info!(id, "removed an image of sandboxes that had lost its name"),
            Err(error) => tracing::debug!(id, %error, "a nameless image of sandboxes stays"),
        }
    }
    Ok(())
}

fn is_without_image(message: &str) -> bool {
    message.to_ascii_lowercase().contains("no such image")
}

/// What the drone adds.
pub struct Around<'a> {
    /// The engine's id of the drone's own network.
    pub network_id: &'a str,
    pub init_dir: &'a Path,
}

fn body(
    config: &DockerConfig,
    around: &Around<'_>,
    sandbox: SlotId,
    address: Ipv4Addr,
) -> ContainerCreateBody {
    let mut labels = names::labels(config.installation, config.drone, names::ROLE_SANDBOX);
    labels.insert(names::LABEL_SLOT.to_owned(), sandbox.to_string());
    ContainerCreateBody {
        image: Some(format!("{}:{}", names::SANDBOX_IMAGE, names::SANDBOX_IMAGE_TAG)),
        entrypoint: Some(vec![INIT_PATH.to_owned(), "--sandbox".to_owned(), format!("{RUN_DIR}/{WANTED}")]),
        cmd: Some(Vec::new()),
        user: Some(USER.to_owned()),
        labels: Some(labels),
        healthcheck: Some(HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() }),
        host_config: Some(HostConfig {
            network_mode: Some(around.network_id.to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            privileged: Some(false),
            pids_limit: Some(PIDS_LIMIT),
            memory: Some(MEMORY_BYTES),
            memory_swap: Some(MEMORY_BYTES),
            cpu_shares: Some(CPU_SHARES),
            readonly_rootfs: Some(true),
            mounts: Some(vec![
                bind(config, around.init_dir, INIT_DIR, true),
                bind(config, &slot_dirs::of(config, sandbox), RUN_DIR, true),
            ]),
            log_config: Some(HostConfigLogConfig {
                typ: Some("none".to_owned()),
                config: Some(HashMap::new()),
            }),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            init: Some(false),
            publish_all_ports: Some(false),
            runtime: config.container_runtime.clone(),
            ..HostConfig::default()
        }),
        networking_config: Some(endpoint(around.network_id, address)),
        ..ContainerCreateBody::default()
    }
}

#[cfg(test)]
mod tests {
    use jetway_protocol::ids::{DroneId, InstallationId};

    use super::*;

    #[test]
    fn only_what_runs_without_its_sandbox_is_cut_off() {
        let running = || ContainerStatus::Running { paused: false, address: None };
        let found = |slot, sandbox, status| Found { slot, backend: None, sandbox, status };
        let [alive, dead, absent] = [(); 3].map(|()| SlotId::random());
        let ended = || ContainerStatus::Exited { code: 137, oom_killed: false };
        let sandboxes = [found(alive, None, running()), found(dead, None, ended())];
        for (what, sandbox, status, expect) in [
            ("without a sandbox", None, running(), false),
            ("a living one", Some(alive), running(), false),
            ("a dead one", Some(dead), running(), true),
            ("an absent one", Some(absent), running(), true),
            ("it has ended", Some(dead), ended(), false),
            ("it was never started", Some(dead), ContainerStatus::Created, false),
        ] {
            let slot = SlotId::random();
            let slots = [found(slot, sandbox, status)];
            assert_eq!(cut_off(&slots, &sandboxes), if expect { vec![slot] } else { vec![] }, "{what}");
        }
    }

    #[test]
    fn it_may_do_nothing_and_holds_its_address() {
        let (installation, drone) = (InstallationId::random(), DroneId::random());
        let config = DockerConfig::new(installation, drone, "/data".into(), "/run/j".into(), "/init".into());
        let around = Around { network_id: "net", init_dir: Path::new("/data/init/1") };
        let sandbox = SlotId::random();
        let body = body(&config, &around, sandbox, Ipv4Addr::new(10, 64, 0, 7));
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(body.entrypoint, words(&[INIT_PATH, "--sandbox", "/.jetway/run/wanted"]));
        assert_eq!(body.user.as_deref(), Some("65534:65534"));
        let labels = body.labels.unwrap();
        assert_eq!(
            (labels["jetway.role"].as_str(), &labels["jetway.slot"]),
            ("sandbox", &sandbox.to_string())
        );
        let host = body.host_config.unwrap();
        assert_eq!((host.cap_drop, host.cap_add), (words(&["ALL"]), None));
        assert_eq!(host.security_opt, words(&["no-new-privileges"]));
        assert_eq!((host.readonly_rootfs, host.pids_limit), (Some(true), Some(16)));
        assert_eq!((host.memory, host.memory_swap), (Some(32 << 20), Some(32 << 20)));
        assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
        let mounts = host.mounts.unwrap();
        assert_eq!(mounts.iter().map(|mount| mount.read_only).collect::<Vec<_>>(), [Some(true), Some(true)]);
        let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints["net"].ipam_config.as_ref().unwrap().ipv4_address.as_deref(), Some("10.64.0.7"));
    }
}
