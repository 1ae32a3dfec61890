//! The calls about one container of ours, a slot's or a sandbox's, and what the engine's answers mean. Not its business: what a container is
//! made of ([`super::container_spec`]).

use std::net::IpAddr;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use futures_util::StreamExt;
use jetway_protocol::ids::SlotId;
use serde_json::Value;

use super::answer::{bounded, text};
use super::config::DockerConfig;
use super::engine::Engine;
use super::mount::TARGET;
use super::names;
use crate::runtime::{ContainerStatus, Found, RuntimeError};

/// A removal that another call began is waited for.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(15);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Containers that are inspected at once when a list leaves something open.
const INSPECTIONS_MAX: usize = 8;

/// What an inspection says, as far as anybody asks.
#[derive(Debug, Clone)]
pub struct Inspected {
    pub status: ContainerStatus,
    /// On the engine's host; 0 when it does not run.
    pub pid: i64,
    pub has_data_mount: bool,
    /// The engine's id of the container whose network it joined. It has no address of its own then.
    pub joined: Option<String>,
}

/// True: made now. False: it was there already, from an earlier call.
pub async fn create(engine: &Engine, name: &str, body: ContainerCreateBody) -> Result<bool, RuntimeError> {
    let options = CreateContainerOptionsBuilder::default().name(name).build();
    match bounded(engine.docker().create_container(Some(options), body)).await {
        Ok(made) => {
            for warning in &made.warnings {
                tracing::debug!(name, warning, "the engine warns");
            }
            Ok(true)
        }
        Err(RuntimeError::Refused(message)) if message.contains("already in use by container") => Ok(false),
        Err(RuntimeError::Refused(message)) if message.contains("storage-opt") => {
            Err(RuntimeError::NotOffered(format!(
                "this drone's engine cannot limit a container's disk: {message}"
            )))
        }
        Err(error) => Err(error),
    }
}

/// Repeating it changes nothing while the container runs.
pub async fn start(engine: &Engine, name: &str) -> Result<(), RuntimeError> {
    bounded(engine.docker().start_container(name, None::<StartContainerOptions>)).await
}

pub async fn inspect(engine: &Engine, name: &str) -> Result<Option<Inspected>, RuntimeError> {
    match engine.get(&format!("/containers/{name}/json"), &[]).await {
        Ok(answer) => Ok(Some(read_inspection(&answer)?)),
        Err(RuntimeError::Absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The engine's own id of it.
pub async fn id(engine: &Engine, name: &str) -> Result<Option<String>, RuntimeError> {
    match engine.get(&format!("/containers/{name}/json"), &[]).await {
        Ok(answer) => Ok(Some(text(&answer["Id"]))),
        Err(RuntimeError::Absent) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A container that does not run, or is gone, needs no signal.
pub async fn kill(engine: &Engine, name: &str, signal: i32) -> Result<(), RuntimeError> {
    let options = KillContainerOptionsBuilder::default().signal(&signal.to_string()).build();
    match bounded(engine.docker().kill_container(name, Some(options))).await {
        Ok(()) | Err(RuntimeError::Absent) => Ok(()),
        Err(RuntimeError::Refused(message)) if message.contains("is not running") => Ok(()),
        Err(error) => Err(error),
    }
}

pub async fn remove(engine: &Engine, name: &str) -> Result<(), RuntimeError> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    match bounded(engine.docker().remove_container(name, Some(options))).await {
        Ok(()) | Err(RuntimeError::Absent) => Ok(()),
        Err(RuntimeError::Refused(message)) if message.contains("already in progress") => {
            match tokio::time::timeout(REMOVAL_DEADLINE, until_absent(engine, name)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(RuntimeError::Engine(format!("the removal of {name} does not end"))),
            }
        }
        Err(error) => Err(error),
    }
}

/// Where it can be reached, if it runs: by its own network, or by that of the container that it joined.
pub async fn address(engine: &Engine, inspected: &Inspected) -> Result<Option<IpAddr>, RuntimeError> {
    let ContainerStatus::Running { address, .. } = inspected.status else { return Ok(None) };
    let Some(joined) = &inspected.joined else { return Ok(address) };
    Ok(match inspect(engine, joined).await?.map(|inspected| inspected.status) {
        Some(ContainerStatus::Running { address, .. }) => address,
        _ => None,
    })
}

async fn until_absent(engine: &Engine, name: &str) -> Result<(), RuntimeError> {
    while inspect(engine, name).await?.is_some() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Every container of this drone in this role. One that cannot be understood is listed by what is known of it, and as
/// running where that is not clear: it must not be taken for ended, and must not hide the others.
pub async fn list(engine: &Engine, config: &DockerConfig, role: &str) -> Result<Vec<Found>, RuntimeError> {
    let filters = names::filter(config.installation, config.drone, Some(role)).to_string();
    let query = [("all", "true"), ("filters", filters.as_str())];
    let answer = engine.get("/containers/json", &query).await?;
    let Some(rows) = answer.as_array() else {
        return Err(RuntimeError::Engine("the list of containers is not a list".to_owned()));
    };
    let found: Vec<_> = rows.iter().filter_map(|row| Some((read_row(row)?, text(&row["Id"])))).collect();
    Ok(futures_util::stream::iter(found)
        .map(|((found, is_open), id)| async move {
            if !is_open {
                return Some(found);
            }
            match inspect(engine, &id).await {
                Ok(Some(inspected)) => Some(Found { status: inspected.status, ..found }),
                // Removed since the list was made.
                Ok(None) => None,
                Err(error) => {
                    tracing::warn!(slot = %found.slot, %error, "a listed container cannot be inspected");
                    Some(found)
                }
            }
        })
        .buffered(INSPECTIONS_MAX)
        .filter_map(|found| async { found })
        .collect()
        .await)
}

/// The slots of every drone that has a container on this engine, in whatever state.
pub async fn slots_of_all(engine: &Engine) -> Result<Vec<SlotId>, RuntimeError> {
    let filters = serde_json::json!({ "label": [names::LABEL_SLOT] }).to_string();
    let answer = engine.get("/containers/json", &[("all", "true"), ("filters", &filters)]).await?;
    let rows = answer.as_array().into_iter().flatten();
    Ok(rows.filter_map(|row| row["Labels"][names::LABEL_SLOT].as_str()?.parse().ok()).collect())
}

/// A row of the list, and whether an inspection has to say the rest.
fn read_row(row: &Value) -> Option<(Found, bool)> {
    let labels = &row["Labels"];
    let Ok(slot) = text(&labels[names::LABEL_SLOT]).parse::<SlotId>() else {
        tracing::warn!(container = text(&row["Id"]), "a container with this drone's labels has no slot");
        return None;
    };
    let backend = labels[names::LABEL_BACKEND].as_str().and_then(|label| label.parse().ok());
    let sandbox = labels[names::LABEL_SANDBOX].as_str().and_then(|label| label.parse().ok());
    let address = address_in(&row["NetworkSettings"]);
    let (status, is_open) = match row["State"].as_str().unwrap_or_default() {
        "created" => (ContainerStatus::Created, false),
        "running" => (ContainerStatus::Running { paused: false, address }, false),
        "paused" => (ContainerStatus::Running { paused: true, address }, false),
        "exited" | "dead" => {
            let code = code_in(&text(&row["Status"]));
            (ContainerStatus::Exited { code, oom_killed: false }, true)
        }
        _ => (ContainerStatus::Running { paused: false, address }, true),
    };
    Some((Found { slot, backend, sandbox, status }, is_open))
}

fn read_inspection(answer: &Value) -> Result<Inspected, RuntimeError> {
    let state = &answer["State"];
    let flag = |name: &str| state[name].as_bool();
    let address = address_in(&answer["NetworkSettings"]);
    let status = match (state["Status"].as_str().unwrap_or_default(), flag("Running")) {
        ("created", _) => ContainerStatus::Created,
        (_, Some(true)) => ContainerStatus::Running { paused: flag("Paused").unwrap_or(false), address },
        (_, Some(false)) => ContainerStatus::Exited {
            code: state["ExitCode"].as_i64().and_then(|code| i32::try_from(code).ok()).unwrap_or(-1),
            oom_killed: flag("OOMKilled").unwrap_or(false),
        },
        (status, None) => {
            return Err(RuntimeError::Engine(format!(
                "an inspection says neither running nor not: {status:?}"
            )));
        }
    };
    let mounts = answer["Mounts"].as_array();
    Ok(Inspected {
        status,
        pid: state["Pid"].as_i64().unwrap_or(0),
        has_data_mount: mounts
            .is_some_and(|mounts| mounts.iter().any(|mount| mount["Destination"].as_str() == Some(TARGET))),
        joined: answer["HostConfig"]["NetworkMode"]
            .as_str()
            .and_then(|mode| mode.strip_prefix("container:"))
            .map(str::to_owned),
    })
}

/// The first IPv4 address on any network. Engines leave the old top-level field out nowadays.
fn address_in(settings: &Value) -> Option<IpAddr> {
    let networks = settings["Networks"].as_object()?;
    networks.values().find_map(|network| network["IPAddress"].as_str()?.parse().ok())
}

/// `Exited (137) 3 minutes ago`.
fn code_in(status: &str) -> i32 {
    let inside = status.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inside.and_then(|(code, _)| code.parse().ok()).unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_is_read_as_far_as_it_goes() {
        let slot = SlotId::random();
        let row = |state: &str, status: &str| {
            json!({
                "State": state, "Status": status,
                "Labels": {"jetway.slot": slot.to_string(), "jetway.backend": "b1"},
                "NetworkSettings": {"Networks": {"x": {"IPAddress": "10.64.0.9"}}},
            })
        };
        let address = Some("10.64.0.9".parse().unwrap());
        for (state, status, expect, is_open) in [
            ("created", "Created", ContainerStatus::Created, false),
            ("running", "Up", ContainerStatus::Running { paused: false, address }, false),
            ("paused", "Up (Paused)", ContainerStatus::Running { paused: true, address }, false),
            ("exited", "Exited (137) 1s ago", ContainerStatus::Exited { code: 137, oom_killed: false }, true),
            ("stopped", "?", ContainerStatus::Running { paused: false, address }, true),
            ("removing", "Removal", ContainerStatus::Running { paused: false, address }, true),
        ] {
            let (found, open) = read_row(&row(state, status)).unwrap();
            assert_eq!((found.status, open), (expect, is_open), "{state}");
            assert_eq!(found.backend.unwrap().as_str(), "b1");
        }
        assert!(read_row(&json!({"Labels": {}})).is_none());
        assert!(read_row(&json!(7)).is_none());
    }

    #[test]
    fn only_a_clear_answer_is_an_end() {
        let read = |state: Value| read_inspection(&json!({"State": state})).map(|inspected| inspected.status);
        assert_eq!(
            read(json!({"Status": "exited", "Running": false, "ExitCode": 3, "OOMKilled": true})).unwrap(),
            ContainerStatus::Exited { code: 3, oom_killed: true }
        );
        assert_eq!(
            read(json!({"Status": "stopped", "Running": false, "ExitCode": 0})).unwrap(),
            ContainerStatus::Exited { code: 0, oom_killed: false }
        );
        assert!(matches!(
            read(json!({"Status": "running", "Running": true})).unwrap(),
            ContainerStatus::Running { paused: false, address: None }
        ));
        assert!(read(json!({"Status": "running"})).is_err());
        assert!(read(json!(null)).is_err());
    }
}
