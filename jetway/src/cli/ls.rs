//! `jetway ls`: the sessions, newest first.

use std::process::ExitCode;

use clap::Args;
use jetway_api::backends::{BackendSummary, Backends};
use jetway_protocol::time::UnixMicros;

use super::api::{ApiArguments, encode};
use super::output;

#[derive(Debug, Args)]
pub struct LsArguments {
    /// Only sessions of this key
    #[arg(long)]
    key: Option<String>,
    /// Only sessions whose key is in this namespace
    #[arg(long)]
    namespace: Option<String>,
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
    let LsArguments { key, namespace, drone, .. } = &arguments;
    for (name, value) in [("key", key), ("namespace", namespace), ("drone", drone)] {
        if let Some(value) = value {
            path.push_str(&format!("&{name}={}", encode(value)));
        }
    }
    if !arguments.all {
        path.push_str("&state=live");
    }
    let list = arguments.api.get::<Backends>(&path).await?;
    if arguments.api.json {
        output::json(&list.whole);
        return Ok(ExitCode::SUCCESS);
    }
    let Backends { backends, next_cursor } = &list.known;
    if backends.is_empty() {
        output::line("no sessions (start one: jetway connect KEY --image IMAGE)");
        return Ok(ExitCode::SUCCESS);
    }
    let head = ["NAMESPACE", "KEY", "STATUS", "DRONE", "AGE", "ID"];
    output::table(&head, &backends.iter().map(row).collect::<Vec<_>>());
    if next_cursor.is_some() {
        output::line("… and more (narrow it with --key or --drone, or raise --limit up to 200)");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(backend: &BackendSummary) -> Vec<String> {
    let key = backend.key.as_ref();
    let part = |text: Option<&str>| output::word(text.filter(|text| !text.is_empty()));
    let status = match backend.end_reason {
        Some(reason) => format!("{} ({})", backend.status, reason.as_str()),
        None => backend.status.to_string(),
    };
    vec![
        part(key.map(|key| key.namespace.as_str())),
        part(key.map(|key| key.name.as_str())),
        status,
        backend.drone.to_string(),
        output::age((UnixMicros::now().millis() - backend.created_at) / 1000),
        backend.backend_id.to_string(),
    ]
}
