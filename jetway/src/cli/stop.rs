//! `jetway stop KEY`: the stop signal and its grace; with `--hard` a kill.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::output;

#[derive(Debug, Args)]
pub struct StopArguments {
    /// A session's key or id
    session: String,
    /// Kill it without a grace
    #[arg(long)]
    hard: bool,
    /// The key's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: StopArguments) -> anyhow::Result<ExitCode> {
    let id = arguments.api.backend_of(&arguments.session, &arguments.namespace).await?;
    let verb = if arguments.hard { "hard-terminate" } else { "soft-terminate" };
    arguments.api.post(&format!("/ctrl/b/{}/{verb}", encode(&id)), &Value::Null).await?;
    if arguments.api.json {
        output::json(&serde_json::json!({ "backend_id": id, "stopping": true }));
    } else {
        output::line(&format!("stopping {id}"));
    }
    Ok(ExitCode::SUCCESS)
}
