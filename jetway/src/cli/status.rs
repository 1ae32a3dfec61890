//! `jetway status`: the installation; `jetway status KEY`: one session and how it started.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::output::{self, word};

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
    let drones = drones["drones"].as_array().map(Vec::as_slice).unwrap_or_default();
    if drones.is_empty() {
        output::line("no drones: start one with jetway drone, or everything with jetway dev");
        return;
    }
    let rows: Vec<_> = drones.iter().map(drone_row).collect();
    output::table(&["DRONE", "STATE", "SESSIONS", "HEARTBEAT", "ADDRESS"], &rows);
}

fn drone_row(drone: &Value) -> Vec<String> {
    let heartbeat = drone["last_heartbeat_age_ms"]
        .as_i64()
        .map_or("-".to_owned(), |age| format!("{} ago", output::age(age / 1000)));
    let sessions = drone["load"]["backends"].as_i64().map_or("-".to_owned(), |count| count.to_string());
    vec![word(&drone["name"]), word(&drone["state"]), sessions, heartbeat, word(&drone["advertise"])]
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
