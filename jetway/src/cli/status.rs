//! `jetway status`: the installation; `jetway status KEY`: one session and how it started.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::output::{self, word};

/// The watch looks every 2 s.
const WATCH_AGE_MS_MAX: u64 = 10_000;
/// Five heartbeats.
const UNCHANGED_MS_MAX: i64 = 10_000;

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
            let id = api.backend_of(session, &arguments.namespace).await?;
            let backend = api.get(&format!("/ctrl/backends/{}", encode(&id))).await?;
            if api.json {
                output::json(&backend);
            } else {
                session_text(&backend);
            }
        }
        None => {
            let (status, drones) = (api.get("/ctrl/status").await?, api.get("/ctrl/drones").await?);
            if api.json {
                output::json(&serde_json::json!({ "controller": status, "drones": drones["drones"] }));
            } else {
                installation_text(api, &status, &drones);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn installation_text(api: &ApiArguments, status: &Value, drones: &Value) {
    let (state, version) = (word(&status["status"]), word(&status["version"]));
    output::line(&format!("controller {} is {state} (version {version})", api.api_url));
    if let Some(line) = lease_line(&status["lease"]) {
        output::line(&line);
    }
    let drones = drones["drones"].as_array().map(Vec::as_slice).unwrap_or_default();
    if drones.is_empty() {
        output::line("no drones: start one with jetway drone, or everything with jetway dev");
        return;
    }
    let rows: Vec<_> = drones.iter().map(drone_row).collect();
    output::table(&["DRONE", "STATE", "SESSIONS", "HEARTBEAT", "LEASE", "ADDRESS"], &rows);
}

/// What an operator would do something about: new keys that wait, a watch that has no answer.
fn lease_line(lease: &Value) -> Option<String> {
    let length = lease["length_seconds"].as_u64()?;
    let mut line = format!("leases of {length} s");
    if lease["watch_age_ms"].as_u64().is_none_or(|age| age > WATCH_AGE_MS_MAX) {
        line.push_str("; the watch has no answer from Postgres");
    }
    if let Some(wait @ 1..) = lease["new_keys_wait_ms"].as_u64() {
        line.push_str(&format!("; after a failover of Postgres new keys wait {} s", wait.div_ceil(1000)));
    }
    Some(line)
}

/// `held`, with the time left where the drone has not renewed for a while.
fn lease_word(lease: &Value) -> String {
    match (lease["unchanged_ms"].as_i64(), lease["ends_in_ms"].as_i64()) {
        (Some(unchanged), Some(left)) if unchanged > UNCHANGED_MS_MAX => {
            format!("over in {}", output::age(left / 1000))
        }
        _ => word(&lease["state"]),
    }
}

fn drone_row(drone: &Value) -> Vec<String> {
    let heartbeat = drone["last_heartbeat_age_ms"]
        .as_i64()
        .map_or("-".to_owned(), |age| format!("{} ago", output::age(age / 1000)));
    let sessions = drone["load"]["backends"].as_i64().map_or("-".to_owned(), |count| count.to_string());
    vec![
        word(&drone["name"]),
        word(&drone["state"]),
        sessions,
        heartbeat,
        lease_word(&drone["lease"]),
        word(&drone["advertise"]),
    ]
}

fn session_text(backend: &Value) {
    output::line(&format!("{:<12} {}", "id", word(&backend["backend_id"])));
    output::line(&format!("{:<12} {}", "key", word(&backend["key"]["name"])));
    output::line(&format!("{:<12} {}", "status", word(&backend["status"])));
    if let Some(reason) = backend["end_reason"].as_str() {
        output::line(&format!("{:<12} {reason}", "ended"));
    }
    output::line(&format!("{:<12} {}", "image", word(&backend["spec"]["executable"]["image"])));
    output::line(&format!("{:<12} {}", "drone", word(&backend["drone"])));
    output::line(&format!("{:<12} {}", "connections", backend["connections"]));
    let users: Vec<_> = backend["grants"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|grant| grant["user"].as_str().map(output::shown))
        .collect();
    if !users.is_empty() {
        output::line(&format!("{:<12} {}", "users", users.join(", ")));
    }
    for stage in backend["timeline"].as_array().into_iter().flatten() {
        output::line(&format!(
            "  {:<12} {:>9.1} ms",
            word(&stage["stage"]),
            stage["length_ms"].as_f64().unwrap_or(0.0)
        ));
    }
}
