//! `jetway ls`: the sessions, newest first.

use std::process::ExitCode;

use clap::Args;
use jetway_protocol::time::UnixMicros;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::output::{self, word};

#[derive(Debug, Args)]
pub struct LsArguments {
    /// Only sessions of this key
    #[arg(long)]
    key: Option<String>,
    /// Only sessions on this drone
    #[arg(long)]
    drone: Option<String>,
    /// Ended sessions too
    #[arg(long, short)]
    all: bool,
    /// Rows, at most 200
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: LsArguments) -> anyhow::Result<ExitCode> {
    let mut path = format!("/ctrl/backends?limit={}", arguments.limit);
    for (name, value) in [("key", &arguments.key), ("drone", &arguments.drone)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    if !arguments.all {
        path.push_str("&state=live");
    }
    let list = arguments.api.get(&path).await?;
    if arguments.api.json {
        output::json(&list);
        return Ok(ExitCode::SUCCESS);
    }
    let backends = list["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
    if backends.is_empty() {
        output::line("no sessions (start one: jetway connect KEY --image IMAGE)");
        return Ok(ExitCode::SUCCESS);
    }
    output::table(&["KEY", "STATUS", "DRONE", "AGE", "ID"], &backends.iter().map(row).collect::<Vec<_>>());
    if list["next_cursor"].is_string() {
        output::line("… and more (narrow it with --key or --drone, or raise --limit up to 200)");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(backend: &Value) -> Vec<String> {
    let key = match &backend["key"]["name"] {
        Value::String(name) => match backend["key"]["namespace"].as_str() {
            None | Some("") => output::shown(name),
            Some(namespace) => output::shown(&format!("{namespace}/{name}")),
        },
        _ => "-".to_owned(),
    };
    let age = backend["created_at"]
        .as_i64()
        .map_or("-".to_owned(), |created| output::age((UnixMicros::now().millis() - created) / 1000));
    let status = match backend["end_reason"].as_str() {
        Some(reason) => format!("{} ({reason})", word(&backend["status"])),
        None => word(&backend["status"]),
    };
    vec![key, status, word(&backend["drone"]), age, word(&backend["backend_id"])]
}
