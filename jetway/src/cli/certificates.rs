//! `jetway certificates`: those that controllers order, and how they are. `retry` orders one now, after what was wrong is mended.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use jetway_api::certificates::{Certificate, Certificates, Ordered};
use jetway_protocol::time::UnixMicros;
use serde_json::json;

use super::api::{ApiArguments, encode};
use super::output;

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
    let list = api.get::<Certificates>("/ctrl/certificates").await?;
    if api.json {
        output::json(&list.whole);
        return Ok(ExitCode::SUCCESS);
    }
    let certificates = &list.known.certificates;
    if certificates.is_empty() {
        output::line("no certificates are ordered (jetway controller --acme-certificate HOST orders one)");
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = certificates.iter().map(row).collect();
    output::table(&["CERTIFICATE", "STATE", "ENDS IN", "NEXT ORDER IN", "FAILURES"], &rows);
    for one in certificates {
        if let Some(problem) = &one.problem {
            output::line(&format!("{}: {}", output::shown(&one.id), output::shown(problem)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(one: &Certificate) -> Vec<String> {
    let now = UnixMicros::now().millis();
    let until = |at: Option<i64>, over: &str| match at {
        Some(at) if at > now => output::age((at - now) / 1000),
        Some(_) => over.to_owned(),
        None => "-".to_owned(),
    };
    vec![
        output::shown(&one.id),
        one.state.as_str().to_owned(),
        until(one.expires_at, "over"),
        until(one.next_order_at, "now"),
        one.failures.to_string(),
    ]
}

async fn retry(api: &ApiArguments, certificate: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/ctrl/certificates/{}/retry", encode(certificate));
    let answer = api.post::<Ordered>(&path, &json!({})).await?;
    if api.json {
        output::json(&answer.whole);
    } else {
        output::line(&format!("{} is ordered now; see: jetway certificates", output::shown(certificate)));
    }
    Ok(ExitCode::SUCCESS)
}
