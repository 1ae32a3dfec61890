//! `jetway health URL`: for container health checks, where no curl is.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::output;

#[derive(Debug, Args)]
pub struct HealthArguments {
    /// For example http://127.0.0.1:8080/pub/health, http://127.0.0.1:9090/ready, http://127.0.0.1:7070/health
    url: String,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

const DEADLINE: Duration = Duration::from_secs(3);

pub async fn run(arguments: HealthArguments) -> anyhow::Result<ExitCode> {
    jetway_service::client::install_crypto();
    let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build()?;
    let response = client
        .get(&arguments.url)
        .send()
        .await
        .with_context(|| format!("no answer from {}", arguments.url))?;
    if !response.status().is_success() {
        bail!("{} answered {}", arguments.url, response.status());
    }
    if arguments.json {
        output::json(&serde_json::json!({ "healthy": true, "status": response.status().as_u16() }));
    } else {
        output::line("ok");
    }
    Ok(ExitCode::SUCCESS)
}
