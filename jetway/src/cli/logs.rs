//! `jetway logs KEY`: what the application printed, as plain bytes.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use futures_util::StreamExt;

use super::api::{ApiArguments, encode};

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
    /// The key's namespace
    #[arg(long, default_value = "")]
    namespace: String,
    #[command(flatten)]
    api: ApiArguments,
}

pub async fn run(arguments: LogsArguments) -> anyhow::Result<ExitCode> {
    let id = arguments.api.backend_of(&arguments.session, &arguments.namespace).await?;
    let mut path = format!("/ctrl/backends/{}/logs?follow={}", encode(&id), arguments.follow);
    if let Some(tail) = arguments.tail {
        path.push_str(&format!("&tail={tail}"));
    }
    let mut chunks = arguments.api.stream(&path).await?.bytes_stream();
    let mut out = std::io::stdout();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        if arguments.api.json {
            for line in String::from_utf8_lossy(&chunk).lines() {
                writeln!(out, "{}", serde_json::json!({ "line": line }))?;
            }
        } else {
            out.write_all(&chunk)?;
        }
        out.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}
