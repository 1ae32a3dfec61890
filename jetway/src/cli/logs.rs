//! `jetway logs KEY`: what the application printed, as plain bytes; of the last session of the key,
//! where none runs.

use std::process::ExitCode;

use clap::Args;
use futures_util::StreamExt;

use super::api::{ApiArguments, encode};
use super::output;

#[derive(Debug, Args)]
pub struct LogsArguments {
    /// A session's key or id
    session: String,
    /// Go on as more comes
    #[arg(long, short)]
    follow: bool,
    /// Lines from the end; all by default
    #[arg(long)]
    tail: Option<u32>,
    /// The time before each line
    #[arg(long, short)]
    timestamps: bool,
    /// The key's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: LogsArguments) -> anyhow::Result<ExitCode> {
    let id = arguments.api.last_backend_of(&arguments.session, &arguments.namespace).await?;
    let LogsArguments { follow, timestamps, .. } = arguments;
    let mut path = format!("/ctrl/backends/{}/logs?follow={follow}&timestamps={timestamps}", encode(&id));
    if let Some(tail) = arguments.tail {
        path.push_str(&format!("&tail={tail}"));
    }
    let mut chunks = arguments.api.stream(&path).await?.bytes_stream();
    let mut rest = Vec::new();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if !arguments.api.json {
            output::bytes(&chunk);
            continue;
        }
        rest.extend_from_slice(&chunk);
        // Whole lines only: a chunk may end within one, or within a character.
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            json_line(&line[..end]);
        }
    }
    if !rest.is_empty() {
        json_line(&rest);
    }
    Ok(ExitCode::SUCCESS)
}

fn json_line(line: &[u8]) {
    output::line(&serde_json::json!({ "line": String::from_utf8_lossy(line) }).to_string());
}
