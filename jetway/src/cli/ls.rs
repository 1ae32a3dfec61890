//! `jetway ls`: the sessions, newest first.

use std::process::ExitCode;

use clap::Args;
use jetway_protocol::time::UnixMicros;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::table;

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
    /// Rows, at most
    #[arg(long, default_value_t = 100)]
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
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let backends = list["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
    if backends.is_empty() {
        println!("no sessions (start one: jetway connect KEY --image IMAGE)");
        return Ok(ExitCode::SUCCESS);
    }
    table::print(&["KEY", "STATUS", "DRONE", "AGE", "ID"], &backends.iter().map(row).collect::<Vec<_>>());
    if list["next_cursor"].is_string() {
        println!("… and more: raise --limit");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(backend: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let key = match &backend["key"]["name"] {
        Value::String(name) => match backend["key"]["namespace"].as_str() {
            None | Some("") => name.clone(),
            Some(namespace) => format!("{namespace}/{name}"),
        },
        _ => "-".to_owned(),
    };
    let age = backend["created_at"]
        .as_i64()
        .map_or("-".to_owned(), |created| table::age((UnixMicros::now().millis() - created) / 1000));
    let status = match backend["end_reason"].as_str() {
        Some(reason) => format!("{} ({reason})", text(&backend["status"])),
        None => text(&backend["status"]),
    };
    vec![key, status, text(&backend["drone"]), age, text(&backend["backend_id"])]
}
