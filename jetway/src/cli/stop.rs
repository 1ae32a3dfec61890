//! `jetway stop KEY`: the stop signal and its grace; with `--hard` a kill. `jetway stop --all` is [`super::stop_all`].

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::api::{ApiArguments, encode};
use super::{output, stop_all};

#[derive(Debug, Args)]
pub struct StopArguments {
    /// A session's key or id
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    session: Option<String>,
    /// Stop every session, and wait until they have ended
    #[arg(long)]
    pub all: bool,
    /// With --all: only those of this drone
    #[arg(long, requires = "all")]
    pub drone: Option<String>,
    /// With --all: seconds to wait for the ends
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub wait_seconds: u64,
    /// Kill without a grace
    #[arg(long)]
    pub hard: bool,
    /// The key's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    pub api: ApiArguments,
}

impl StopArguments {
    fn verb(&self) -> &'static str {
        if self.hard { "hard-terminate" } else { "soft-terminate" }
    }

    /// Asks for a session's end. It comes later.
    pub async fn ask(&self, id: &str) -> anyhow::Result<()> {
        let path = format!("/ctrl/b/{}/{}", encode(id), self.verb());
        self.api.post::<()>(&path, &Value::Null).await?;
        Ok(())
    }
}

pub async fn run(arguments: StopArguments) -> anyhow::Result<ExitCode> {
    let Some(session) = &arguments.session else { return stop_all::run(&arguments).await };
    let id = arguments.api.backend_of(session, &arguments.namespace).await?;
    arguments.ask(&id).await?;
    if arguments.api.json {
        output::json(&serde_json::json!({ "backend_id": id, "stopping": true }));
    } else {
        output::line(&format!("stopping {id}"));
    }
    Ok(ExitCode::SUCCESS)
}
