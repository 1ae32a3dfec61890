//! `jetway status`: the installation; `jetway status KEY` is [`super::session`].

use std::process::ExitCode;

use clap::Args;
use jetway_api::backends::Backend;
use jetway_api::controller::{ControllerStatus, LeaseStatus};
use jetway_api::drones::{Drone, DroneLease, Drones};
use jetway_protocol::time::UnixMicros;

use super::api::{ApiArguments, encode};
use super::{output, session};

/// The watch looks every 2 s.
const WATCH_AGE_MS_MAX: u64 = 10_000;
/// Five heartbeats.
const UNCHANGED_MS_MAX: u64 = 10_000;

#[derive(Debug, Args)]
pub struct StatusArguments {
    /// A session's key or id
    session: Option<String>,
    /// The key's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: StatusArguments) -> anyhow::Result<ExitCode> {
    let api = &arguments.api;
    match &arguments.session {
        Some(session) => {
            let id = api.last_backend_of(session, &arguments.namespace).await?;
            let backend = api.get::<Backend>(&format!("/ctrl/backends/{}", encode(&id))).await?;
            if api.json {
                output::json(&backend.whole);
            } else {
                let lines = session::lines(&backend.known, UnixMicros::now());
                lines.iter().for_each(|line| output::line(line));
            }
        }
        None => {
            let status = api.get::<ControllerStatus>("/ctrl/status").await?;
            let drones = api.get::<Drones>("/ctrl/drones").await?;
            if api.json {
                let drones = &drones.whole["drones"];
                output::json(&serde_json::json!({ "controller": status.whole, "drones": drones }));
            } else {
                installation_text(api, &status.known, &drones.known.drones);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn installation_text(api: &ApiArguments, status: &ControllerStatus, drones: &[Drone]) {
    let (state, version) = (output::shown(&status.status), output::shown(&status.version));
    output::line(&format!("controller {} is {state} (version {version})", api.api_url));
    if let Some(line) = lease_line(&status.lease) {
        output::line(&line);
    }
    if drones.is_empty() {
        output::line("no drones: start one with jetway drone, or everything with jetway dev");
        return;
    }
    let rows: Vec<_> = drones.iter().map(drone_row).collect();
    output::table(&["DRONE", "STATE", "SESSIONS", "HEARTBEAT", "LEASE", "ADDRESS"], &rows);
}

/// What an operator would do something about: new keys that wait, a watch that has no answer.
fn lease_line(lease: &LeaseStatus) -> Option<String> {
    let mut line = format!("leases of {} s", lease.length_seconds?);
    if lease.watch_age_ms.is_none_or(|age| age > WATCH_AGE_MS_MAX) {
        line.push_str("; the watch has no answer from Postgres");
    }
    if let wait @ 1.. = lease.new_keys_wait_ms {
        line.push_str(&format!("; after a failover of Postgres new keys wait {} s", wait.div_ceil(1000)));
    }
    Some(line)
}

/// `held`, with the time left where the drone has not renewed for a while.
fn lease_word(lease: &DroneLease) -> String {
    match *lease {
        DroneLease::Held { unchanged_ms: Some(unchanged), ends_in_ms: Some(left), .. }
            if unchanged > UNCHANGED_MS_MAX =>
        {
            format!("over in {}", age(left))
        }
        DroneLease::Held { .. } => "held".to_owned(),
        DroneLease::None => "none".to_owned(),
        DroneLease::Over => "over".to_owned(),
        DroneLease::Forgotten => "forgotten".to_owned(),
        DroneLease::Unknown => "unknown".to_owned(),
    }
}

fn drone_row(drone: &Drone) -> Vec<String> {
    vec![
        drone.name.to_string(),
        drone.state.as_str().to_owned(),
        drone.load.backends.to_string(),
        format!("{} ago", age(drone.last_heartbeat_age_ms)),
        lease_word(&drone.lease),
        output::shown(&drone.advertise),
    ]
}

fn age(ms: u64) -> String {
    output::age(i64::try_from(ms / 1000).unwrap_or(i64::MAX))
}
