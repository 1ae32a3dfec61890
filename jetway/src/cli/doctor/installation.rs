//! What controllers say of the installation: the lease, each drone, and the clusters' names.

use std::collections::BTreeSet;

use jetway_api::controller::{ControllerStatus, LeaseStatus};
use jetway_api::drones::{Drone, DroneState, Drones};
use jetway_protocol::ids::ClusterName;

use super::cluster;
use super::here::Here;
use super::{Finding, Grade, finding};
use crate::cli::api::ApiArguments;
use crate::cli::health;
use crate::cli::role::Role;

/// What this place may not see needs a key that it was not given: no fault of a drone or a proxy.
pub async fn look(api: &ApiArguments, here: &Here) -> Vec<Finding> {
    let mut findings = Vec::new();
    for url in &here.controllers {
        let api = api.at(url);
        if matches!(here.role, Some(Role::Drone | Role::Proxy)) {
            let answers = health::ask(&format!("{url}{}", Role::Controller.path())).await;
            findings.push(match answers {
                Ok(_) => finding("controller", Grade::Good, format!("{url} answers")),
                Err(error) => finding("controller", Grade::Bad, format!("{error:#}")),
            });
            if here.role == Some(Role::Drone) {
                findings.push(this_drone(&api, here).await);
            }
        } else {
            findings.extend(installation(&api).await);
        }
    }
    findings
}

/// How a controller sees the drone that runs here.
async fn this_drone(api: &ApiArguments, here: &Here) -> Finding {
    let name = here.name.as_deref().unwrap_or_default();
    match api.get::<Drones>("/ctrl/drones").await {
        Ok(list) => {
            let found = list.known.drones.iter().find(|drone| drone.name.as_str() == name).map(drone_finding);
            let unknown = || format!("{} does not know a drone called {name:?}", api.api_url);
            found.unwrap_or_else(|| finding("drone", Grade::Bad, unknown()))
        }
        Err(error) => {
            let text =
                format!("{error:#}; with JETWAY_API_KEY it is shown how {} sees this drone", api.api_url);
            finding("drone", Grade::Warning, text)
        }
    }
}

async fn installation(api: &ApiArguments) -> Vec<Finding> {
    let status = match api.get::<ControllerStatus>("/ctrl/status").await {
        Ok(status) => status.known,
        Err(error) => return vec![finding("controller", Grade::Bad, format!("{error:#}"))],
    };
    let text = format!("{} (version {})", api.api_url, status.version);
    let mut findings = vec![finding("controller", Grade::Good, text)];
    findings.extend(lease(&status.lease));
    let drones = match api.get::<Drones>("/ctrl/drones").await {
        Ok(list) => list.known.drones,
        Err(error) => {
            findings.push(finding("drones", Grade::Bad, format!("{error:#}")));
            return findings;
        }
    };
    if drones.is_empty() {
        findings.push(finding("drones", Grade::Bad, "none is registered: start one with jetway drone"));
    }
    findings.extend(drones.iter().map(drone_finding));
    let clusters: BTreeSet<&ClusterName> = drones.iter().map(|drone| &drone.cluster).collect();
    findings.extend(clusters.into_iter().map(|name| cluster::look(name, &api.api_url)));
    findings
}

/// Nothing where there is no lease, as in `jetway dev`.
fn lease(lease: &LeaseStatus) -> Option<Finding> {
    let length = lease.length_seconds?;
    if let wait @ 1.. = lease.new_keys_wait_ms {
        let text = format!(
            "Postgres has failed over; new keys wait {} s, until every drone is outwaited",
            wait.div_ceil(1000)
        );
        return Some(finding("lease", Grade::Warning, text));
    }
    if lease.margin_seconds.unwrap_or_default() < 20.0 {
        let text =
            format!("{length} s is for tests: applications get less than 10 s to stop (--lease-seconds)");
        return Some(finding("lease", Grade::Warning, text));
    }
    if !lease.synchronous_standby {
        let text = format!(
            "{length} s; Postgres has no synchronous standby: what it loses in a failover makes new keys wait {length} s and more"
        );
        return Some(finding("lease", Grade::Warning, text));
    }
    Some(finding("lease", Grade::Good, format!("{length} s")))
}

fn drone_finding(drone: &Drone) -> Finding {
    let name = &drone.name;
    let age = drone.last_heartbeat_age_ms / 1000;
    let (grade, text) = match drone.state {
        DroneState::Ready if drone.load.warnings.is_empty() => (Grade::Good, format!("{name} is ready")),
        DroneState::Ready => (Grade::Warning, format!("{name}: {}", drone.load.warnings.join("; "))),
        DroneState::Draining => (Grade::Warning, format!("{name} is draining (jetway drain {name} --undo)")),
        DroneState::Silent => (Grade::Bad, format!("{name} is away: its last heartbeat was {age} s ago")),
        DroneState::LeaseOver => (
            Grade::Bad,
            format!("{name} was cut off for longer than its lease; its last heartbeat was {age} s ago"),
        ),
        DroneState::Forgotten => (Grade::Warning, format!("{name} was declared dead (jetway forget)")),
        DroneState::NotReady => {
            (Grade::Bad, format!("{name} does not serve: its Docker engine does not answer"))
        }
        DroneState::Unknown => (Grade::Bad, format!("{name} is in a state that this version does not know")),
    };
    finding("drone", grade, text)
}
