//! The drone's own bridge network: found again after a restart, or made. Inter-container traffic is off, IPv6 is off,
//! nothing is published. Not its business: the host's ports ([`super::guard`]), or who gets which address.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkDisconnectRequest};
use ipnet::Ipv4Net;
use jetway_service::backoff::Backoff;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::{bounded, text};
use super::config::DockerConfig;
use super::engine::Engine;
use super::errors::NetworkError;
use super::subnet;
use super::{names, routes};
use crate::runtime::{RuntimeError, Subnet};

/// An engine may still be at the end of a container that it has said to be gone.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(2);
const AGAIN_FIRST: Duration = Duration::from_millis(10);
const AGAIN_MAX: Duration = Duration::from_millis(500);
/// Another drone may take the network that we chose, between our look and our call.
const ATTEMPTS: usize = 20;
const OPTION_BRIDGE: &str = "com.docker.network.bridge.name";
const OPTION_ICC: &str = "com.docker.network.bridge.enable_icc";
/// Without it, what passes between two ports of a bridge is not seen by the rule that `enable_icc=false` makes.
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

#[derive(Debug, Clone)]
pub struct OwnNetwork {
    pub id: String,
    pub name: String,
    pub bridge: String,
    pub subnet: Subnet,
}

pub async fn ensure(engine: &Engine, config: &DockerConfig) -> Result<OwnNetwork, NetworkError> {
    let wanted = config.session_subnet.map(subnet::wanted).transpose()?;
    let mut refused = Vec::new();
    let mut last = RuntimeError::Engine("no attempt was made".to_owned());
    for _ in 0..ATTEMPTS {
        let networks = engine.get("/networks", &[]).await.map_err(NetworkError::Engine)?;
        let networks = networks.as_array().cloned().unwrap_or_default();
        if let Some(ours) = networks.iter().find(|network| is_ours(network, config)) {
            if let Some(usable) = reuse(engine, ours, config, wanted).await? {
                return Ok(usable);
            }
            continue;
        }
        let mut taken: Vec<Ipv4Net> = networks.iter().flat_map(subnets).collect();
        taken.extend(tokio::task::spawn_blocking(routes::destinations).await.unwrap_or_default());
        taken.extend(&refused);
        let chosen = subnet::choose(wanted, &taken)?;
        match create(engine, config, chosen).await {
            Ok(made) => return Ok(made),
            Err(error) if is_taken(&error) => {
                refused.push(chosen);
                last = error;
            }
            Err(error) => return Err(NetworkError::Engine(error)),
        }
    }
    Err(NetworkError::Engine(last))
}

/// Removes it. Absent is success. A daemon that was killed may have left an endpoint on it of a container that is no more, or
/// never came to be, which would keep it for ever.
pub async fn remove(engine: &Engine, network: &OwnNetwork) -> Result<(), RuntimeError> {
    let (until, mut backoff) = (Instant::now() + REMOVAL_PATIENCE, Backoff::new(AGAIN_FIRST, AGAIN_MAX));
    loop {
        match remove_empty(engine, network).await {
            Err(RuntimeError::Refused(message)) if message.contains("active endpoints") => {
                take_off_ownerless(engine, network).await?;
                if Instant::now() > until {
                    return remove_empty(engine, network).await;
                }
            }
            outcome => return outcome,
        }
        backoff.wait().await;
    }
}

async fn remove_empty(engine: &Engine, network: &OwnNetwork) -> Result<(), RuntimeError> {
    match bounded(engine.docker().remove_network(&network.id)).await {
        Ok(()) => Ok(()),
        Err(RuntimeError::Refused(message)) if message.contains("not found") => Ok(()),
        Err(error) => Err(error),
    }
}

/// Endpoints of containers that are no more, and of none. Any other is its container's, whoever's that is.
async fn take_off_ownerless(engine: &Engine, network: &OwnNetwork) -> Result<(), RuntimeError> {
    // In this order: what appears in between has its container by then.
    let detail = engine.get(&format!("/networks/{}", network.id), &[]).await?;
    let containers = engine.get("/containers/json", &[("all", "1")]).await?;
    for endpoint in ownerless(&detail, &containers) {
        tracing::warn!(
            network = network.name,
            endpoint,
            "the engine has left an endpoint without a container"
        );
        let request = NetworkDisconnectRequest { container: endpoint, force: Some(true) };
        // It may be gone by now; the removal that follows is what counts.
        if let Err(error) = bounded(engine.docker().disconnect_network(&network.id, request)).await {
            tracing::debug!(%error, "an endpoint cannot be taken off");
        }
    }
    Ok(())
}

/// Their names. The engine lists an endpoint under its container's id, or, without one, under `ep-` and its own.
fn ownerless(detail: &Value, containers: &Value) -> Vec<String> {
    let containers = containers.as_array().into_iter().flatten();
    let ids: HashSet<&str> = containers.filter_map(|container| container["Id"].as_str()).collect();
    let endpoints = detail["Containers"].as_object().into_iter().flatten();
    let without = endpoints.filter(|(key, _)| !ids.contains(key.as_str()));
    without.map(|(_, endpoint)| text(&endpoint["Name"])).collect()
}

/// Whether the kernel shows traffic within a bridge to the firewall: without it, sessions can reach each other.
pub fn is_bridge_filtered() -> bool {
    std::fs::read_to_string(BRIDGE_FILTER).is_ok_and(|value| value.trim() == "1")
}

/// `None`: it was not as it must be, was empty, and is removed.
async fn reuse(
    engine: &Engine,
    ours: &Value,
    config: &DockerConfig,
    wanted: Option<Ipv4Net>,
) -> Result<Option<OwnNetwork>, NetworkError> {
    let found = subnets(ours).first().copied();
    let options = &ours["Options"];
    let is_right = text(&options[OPTION_BRIDGE]) == names::bridge(config.drone)
        && text(&options[OPTION_ICC]) == "false"
        && ours["EnableIPv6"].as_bool() != Some(true);
    let network = OwnNetwork {
        id: text(&ours["Id"]),
        name: text(&ours["Name"]),
        bridge: names::bridge(config.drone),
        subnet: subnet::with_gateway(found.unwrap_or_default()),
    };
    if let (Some(found), true) = (found, is_right)
        && wanted.is_none_or(|wanted| wanted == found)
    {
        return Ok(Some(network));
    }
    let detail = engine.get(&format!("/networks/{}", network.id), &[]).await.map_err(NetworkError::Engine)?;
    let is_empty = detail["Containers"].as_object().is_none_or(serde_json::Map::is_empty);
    if !is_empty {
        let found = found.map_or_else(|| "no subnet".to_owned(), |found| found.to_string());
        let wanted = wanted.unwrap_or(subnet::FIRST);
        return Err(NetworkError::InUse { name: network.name, found, wanted });
    }
    remove(engine, &network).await.map_err(NetworkError::Engine)?;
    Ok(None)
}

async fn create(engine: &Engine, config: &DockerConfig, chosen: Ipv4Net) -> Result<OwnNetwork, RuntimeError> {
    let (name, bridge, subnet) =
        (names::network(config.drone), names::bridge(config.drone), subnet::with_gateway(chosen));
    let request = NetworkCreateRequest {
        name: name.clone(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(false),
        ipam: Some(Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(chosen.to_string()),
                gateway: Some(subnet.gateway.to_string()),
                ..IpamConfig::default()
            }]),
            ..Ipam::default()
        }),
        options: Some(HashMap::from([
            (OPTION_BRIDGE.to_owned(), bridge.clone()),
            (OPTION_ICC.to_owned(), "false".to_owned()),
        ])),
        labels: Some(names::labels(config.installation, config.drone, names::ROLE_NETWORK)),
        ..NetworkCreateRequest::default()
    };
    let made = bounded(engine.docker().create_network(request)).await?;
    tracing::info!(network = name, subnet = %chosen, bridge, "the sessions' network is made");
    Ok(OwnNetwork { id: made.id, name, bridge, subnet })
}

fn is_ours(network: &Value, config: &DockerConfig) -> bool {
    let labels = &network["Labels"];
    labels[names::LABEL_DRONE].as_str() == Some(&config.drone.to_string())
        && labels[names::LABEL_INSTALLATION].as_str() == Some(&config.installation.to_string())
        && labels[names::LABEL_ROLE].as_str() == Some(names::ROLE_NETWORK)
}

/// IPv4 networks of an engine's network.
fn subnets(network: &Value) -> Vec<Ipv4Net> {
    let configs = network["IPAM"]["Config"].as_array();
    configs.into_iter().flatten().filter_map(|config| subnet::parse(config["Subnet"].as_str()?)).collect()
}

fn is_taken(error: &RuntimeError) -> bool {
    let (RuntimeError::Refused(message) | RuntimeError::Engine(message)) = error else { return false };
    message.contains("overlap") || message.contains("conflicts with network")
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;
    use std::sync::Arc;

    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use serde_json::json;

    use super::*;
    use crate::store::data_dir::tests::TestDir;

    type Endpoints = Arc<Mutex<HashMap<String, String>>>;

    /// As Docker does it: a network with endpoints is not removed.
    fn engine_with(endpoints: &Endpoints) -> Router {
        let remove = async |State(endpoints): State<Endpoints>| {
            if endpoints.lock().is_empty() {
                return (StatusCode::NO_CONTENT, Json(json!({})));
            }
            (StatusCode::FORBIDDEN, Json(json!({ "message": "network x id y has active endpoints" })))
        };
        let inspect = async |State(endpoints): State<Endpoints>| {
            let endpoints = endpoints.lock();
            let all = endpoints.iter().map(|(key, name)| (key.clone(), json!({ "Name": name })));
            Json(json!({ "Containers": all.collect::<serde_json::Map<_, _>>() }))
        };
        let disconnect = async |State(endpoints): State<Endpoints>, Json(asked): Json<Value>| {
            endpoints.lock().retain(|_, name| asked["Container"] != name.as_str());
            assert_eq!(asked["Force"], true);
        };
        Router::new()
            .route("/networks/{id}", get(inspect).delete(remove))
            .route("/containers/json", get(async || Json(json!([{ "Id": "4f2a" }]))))
            .route("/networks/{id}/disconnect", post(disconnect))
            .with_state(endpoints.clone())
    }

    async fn removed(left: &[(&str, &str)]) -> (Result<(), RuntimeError>, Vec<String>) {
        let left = left.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect();
        let (dir, endpoints) = (TestDir::new(), Endpoints::new(Mutex::new(left)));
        let socket = dir.path().join("engine");
        let server = axum::serve(tokio::net::UnixListener::bind(&socket).unwrap(), engine_with(&endpoints));
        let engine = Engine::at(&socket).unwrap();
        let network = OwnNetwork {
            id: "y".to_owned(),
            name: "x".to_owned(),
            bridge: "b".to_owned(),
            subnet: subnet::with_gateway(subnet::FIRST),
        };
        let outcome = tokio::select! {
            served = async { server.await } => panic!("{served:?}"),
            outcome = remove(&engine, &network) => outcome,
        };
        let endpoints = endpoints.lock();
        (outcome, endpoints.values().cloned().collect())
    }

    #[tokio::test]
    async fn what_a_killed_daemon_left_keeps_no_network() {
        let (outcome, left) = removed(&[("ep-1", "jetway-1"), ("9c0e", "jetway-2")]).await;
        assert!(outcome.is_ok() && left.is_empty(), "{outcome:?} {left:?}");
    }

    #[tokio::test]
    async fn a_container_on_it_keeps_it() {
        let (outcome, left) = removed(&[("ep-1", "jetway-1"), ("4f2a", "somebodys")]).await;
        assert!(matches!(outcome, Err(RuntimeError::Refused(_))), "{outcome:?}");
        assert_eq!(left, ["somebodys"]);
    }
}
