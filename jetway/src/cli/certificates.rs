//! `jetway certificates`: those that controllers order, and how they are. `retry` orders one now, after what was wrong is mended.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use jetway_protocol::time::UnixMicros;
use serde_json::{Value, json};

use super::api::{ApiArguments, encode};
use super::output::{self, word};

#[derive(Debug, Args)]
pub struct CertificatesArguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    api: ApiArguments,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Order a certificate now
    Retry {
        /// As the list shows it
        certificate: String,
    },
}

pub async fn run(arguments: CertificatesArguments) -> anyhow::Result<ExitCode> {
    match &arguments.verb {
        None => list(&arguments.api).await,
        Some(Verb::Retry { certificate }) => retry(&arguments.api, certificate).await,
    }
}

async fn list(api: &ApiArguments) -> anyhow::Result<ExitCode> {
    let list = api.get("/ctrl/certificates").await?;
    if api.json {
        output::json(&list);
        return Ok(ExitCode::SUCCESS);
    }
    let certificates = list["certificates"].as_array().map(Vec::as_slice).unwrap_or_default();
    if certificates.is_empty() {
        output::line("no certificates are ordered (jetway controller --acme-certificate HOST orders one)");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = certificates.iter().map(row).collect();
    output::table(&["CERTIFICATE", "STATE", "ENDS IN", "NEXT ORDER IN", "FAILURES"], &rows);
    for one in certificates.iter().filter(|one| one["problem"].is_string()) {
        output::line(&format!("{}: {}", word(&one["id"]), word(&one["problem"])));
    }
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Value) -> Vec<String> {
    let now = UnixMicros::now().millis();
    let until = |name: &str, over: &str| match one[name].as_i64() {
        Some(at) if at > now => output::age((at - now) / 1000),
        Some(_) => over.to_owned(),
        None => "-".to_owned(),
    };
    let failures = one["failures"].as_u64().unwrap_or_default().to_string();
    vec![
        word(&one["id"]),
        word(&one["state"]),
        until("expires_at", "over"),
        until("next_order_at", "now"),
        failures,
    ]
}

async fn retry(api: &ApiArguments, certificate: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/ctrl/certificates/{}/retry", encode(certificate));
    let answer = api.post(&path, &json!({})).await?;
    if api.json {
        output::json(&answer);
    } else {
        output::line(&format!("{} is ordered now; see: jetway certificates", output::shown(certificate)));
    }
    Ok(ExitCode::SUCCESS)
}
